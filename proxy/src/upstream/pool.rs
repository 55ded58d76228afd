//! One worker's upstreams: endpoints with their load, idle HTTP/1 connections, shared HTTP/2 connections.
//!
//! A pool belongs to an endpoint of one plan (whose expected identity is fixed) and to one SVID of ours. When our SVID
//! rotates, what was pooled with the older one takes no new request and closes when idle (DESIGN, rulings).

mod room;

use super::address::EndpointAddress;
use super::budget::RetryBudget;
use super::discovery::{Discovery, EndpointSet, EndpointSource};
use super::health::Health;
use super::http1::H1Connection;
use super::http2::H2Connection;
use super::places::Places;
use super::plan::{Requested, ServicePlan};
use crate::lookup::Lookup;
use crate::refusal::{Refusal, Refused};
use crate::session::Session;
use bytes::Bytes;
use h2::client::SendRequest;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Instances of templates kept by a worker.
const INSTANCES_MAX: usize = 1024;
/// Callers with pools of their own kept by a worker.
const CALLERS_MAX: usize = 8192;
/// What nobody used for this long is forgotten, with its refresh of names.
const UNUSED_FOR: Duration = Duration::from_secs(600);
/// Connections to one endpoint that are being made at the same time. A burst of callers would otherwise ask for more handshakes than
/// the peer's sidecar lets be under way (`limits.handshakes`), and lose the oldest of them. There, up to twice as many are: our side of
/// a handshake is over before the peer's.
const OPENING_MAX: usize = 256;

/// SHA-256 of our own leaf, zero where no SVID of ours is used.
pub type OwnSvid = [u8; 32];

/// A template's plan (by address), and what was asked for.
type InstanceKey = (usize, Box<str>, Option<u16>, Option<SocketAddr>);

#[derive(Default)]
pub struct Upstreams {
    /// Keyed by the plan's address; the entry keeps the plan alive, so the address stays its own.
    by_plan: RefCell<Lookup<usize, Rc<Upstream>>>,
    /// Keyed by the template's address too, so the entry keeps the template alive as well.
    instances: RefCell<HashMap<InstanceKey, Instance>>,
    /// Of our application, for callers whose address it is to see. Keyed alike.
    callers: RefCell<HashMap<(usize, IpAddr), Instance>>,
}

struct Instance {
    _template: Arc<ServicePlan>,
    plan: Arc<ServicePlan>,
}

pub struct Upstream {
    pub plan: Arc<ServicePlan>,
    /// Requests under way.
    pub requests: Rc<Places>,
    /// Open connections. `None`: as many as the requests need.
    pub connections: Option<Rc<Places>>,
    pub retries: RetryBudget,
    names: Option<Arc<EndpointSet>>,
    names_seen: Cell<u64>,
    pub(super) endpoints: RefCell<Vec<Rc<Endpoint>>>,
    /// Endpoints that were passed over at the last sweep.
    pub(super) ejected: Cell<i64>,
    used: Cell<Instant>,
}

pub struct Endpoint {
    pub address: EndpointAddress,
    /// The address as records have it.
    pub name: Rc<str>,
    /// Requests and tunnels under way.
    pub active: Cell<u32>,
    pub health: Health,
    /// Who makes a connection to it.
    pub(super) opening: Rc<Places>,
    /// Most requests and tunnels at one time, in this second and the one before.
    pub(super) busiest: Cell<(u32, u32)>,
    h1: RefCell<Vec<IdleH1>>,
    h2: RefCell<Vec<Rc<H2Connection>>>,
    /// Held while a connection for HTTP/2 is made, so that a burst makes one. Says when that failed last, and why: whoever
    /// waited meanwhile has the same answer.
    pub h2_connecting: tokio::sync::Mutex<Option<(Instant, Refused)>>,
}

struct IdleH1 {
    connection: Rc<H1Connection>,
    own: OwnSvid,
    since: Instant,
}

impl Upstreams {
    /// The worker's state for `plan`.
    ///
    /// # Errors
    /// More names are in use than are kept.
    pub fn get(&self, plan: &Arc<ServicePlan>, discovery: &Arc<Discovery>) -> Result<Rc<Upstream>, Refused> {
        let key = Arc::as_ptr(plan) as usize;
        if let Some(upstream) = self.by_plan.borrow().get(&key) {
            upstream.used.set(Instant::now());
            return Ok(upstream.clone());
        }
        let upstream = Rc::new(Upstream::new(plan.clone(), discovery)?);
        self.by_plan.borrow_mut().insert(key, upstream.clone());
        Ok(upstream)
    }

    /// `plan` itself, or its instance for what was asked when it is a template.
    ///
    /// # Errors
    /// The host does not fill the template, or there are too many instances.
    pub fn instance(&self, plan: &Arc<ServicePlan>, requested: Requested<'_>) -> Result<Arc<ServicePlan>, Refused> {
        if !plan.is_template() {
            return Ok(plan.clone());
        }
        let requested = plan.narrowed(requested);
        let Requested { host, port, original } = requested;
        let key = (Arc::as_ptr(plan) as usize, Box::from(host.unwrap_or_default()), port, original);
        let mut instances = self.instances.borrow_mut();
        if let Some(instance) = instances.get(&key) {
            return Ok(instance.plan.clone());
        }
        if !room::make(&mut instances, &mut self.by_plan.borrow_mut(), INSTANCES_MAX) {
            return Err(Refused::new(
                Refusal::OverLimit,
                format!("more than {INSTANCES_MAX} hosts of templates in use"),
            ));
        }
        let instance = plan.instance(requested).ok_or_else(|| {
            let asked = host.map_or_else(|| original.map(|it| it.to_string()).unwrap_or_default(), str::to_owned);
            Refused::new(Refusal::UnknownService, format!("{asked} does not fill {}, or may not be called", plan.name))
        })?;
        let instance = Arc::new(instance);
        instances.insert(key, Instance { _template: plan.clone(), plan: instance.clone() });
        Ok(instance)
    }

    /// Our application as `caller` reaches it, with its own address.
    ///
    /// # Errors
    /// Too many callers are served at this moment.
    pub fn of_caller(&self, app: &Arc<ServicePlan>, caller: IpAddr) -> Result<Arc<ServicePlan>, Refused> {
        let key = (Arc::as_ptr(app) as usize, caller);
        let mut callers = self.callers.borrow_mut();
        if let Some(known) = callers.get(&key) {
            return Ok(known.plan.clone());
        }
        if !room::make(&mut callers, &mut self.by_plan.borrow_mut(), CALLERS_MAX) {
            let why = format!("more than {CALLERS_MAX} callers at a time, each with connections of its own");
            return Err(Refused::new(Refusal::OverLimit, why));
        }
        let plan = Arc::new(app.called_from(caller));
        callers.insert(key, Instance { _template: app.clone(), plan: plan.clone() });
        Ok(plan)
    }

    /// Closes idle connections whose trust has ended, or which were replaced: nobody else looks at them.
    pub fn let_go_of_ended(&self) {
        for upstream in self.by_plan.borrow().values() {
            for endpoint in upstream.endpoints.borrow().iter() {
                endpoint.h1.borrow_mut().retain(|idle| idle.connection.is_free());
            }
        }
    }

    /// Once a second: closes what idled too long, forgets what is unused.
    pub fn sweep(&self, now: Instant) {
        let mut by_plan = self.by_plan.borrow_mut();
        by_plan.retain(|_, upstream| {
            let busy = upstream.is_busy();
            for endpoint in upstream.endpoints.borrow().iter() {
                endpoint.sweep(now, upstream.plan.pool_idle);
            }
            upstream.tell_ejected(now);
            busy || now.duration_since(upstream.used.get()) < UNUSED_FOR
        });
        let is_used = |instance: &Instance| by_plan.contains_key(&(Arc::as_ptr(&instance.plan) as usize));
        self.instances.borrow_mut().retain(|_, instance| is_used(instance));
        self.callers.borrow_mut().retain(|_, instance| is_used(instance));
    }
}

impl Upstream {
    fn new(plan: Arc<ServicePlan>, discovery: &Arc<Discovery>) -> Result<Self, Refused> {
        let wait = plan.connect_timeout;
        let (names, endpoints) = match &plan.source {
            EndpointSource::Static(addresses) => {
                (None, addresses.iter().map(|address| Endpoint::new(EndpointAddress::Tcp(*address), wait)).collect())
            }
            EndpointSource::Unix(path) => (None, vec![Endpoint::new(EndpointAddress::Unix(path.clone()), wait)]),
            EndpointSource::Dns { host, port, of_template } => {
                let names = discovery.resolve(host, *port, *of_template);
                let names = names.ok_or(Refused::new(Refusal::OverLimit, "too many names in use"))?;
                (Some(names), Vec::new())
            }
            EndpointSource::RequestedHost { .. } => {
                return Err(Refused::new(Refusal::Internal, "a template was used as a service"));
            }
        };
        let limits = &plan.resilience.limits;
        let places = |max| Places::new(max, limits.pending, limits.pending_timeout);
        Ok(Self {
            requests: places(limits.requests),
            connections: limits.connections.map(places),
            retries: RetryBudget::new(&plan.resilience.retries),
            plan,
            names,
            names_seen: Cell::new(0),
            endpoints: RefCell::new(endpoints),
            ejected: Cell::new(0),
            used: Cell::new(Instant::now()),
        })
    }

    fn is_busy(&self) -> bool {
        self.endpoints.borrow().iter().any(|endpoint| endpoint.active.get() > 0)
    }

    /// The less loaded of two endpoints drawn at random, without those in `tried` and, if possible, without those that are
    /// passed over.
    ///
    /// # Errors
    /// The name has no address, or all were tried.
    pub async fn pick(&self, tried: &[Rc<Endpoint>]) -> Result<Rc<Endpoint>, Refused> {
        if let Some(names) = &self.names {
            if names.generation() == 0 {
                names.first_answer(self.plan.connect_timeout).await;
            }
            self.follow(names);
        }
        let endpoints = self.endpoints.borrow();
        if endpoints.is_empty() {
            return Err(Refused::new(
                Refusal::UpstreamUnresolved,
                format!("{}: the name has no usable address", self.plan.name),
            ));
        }
        let untried = |endpoint: &&Rc<Endpoint>| !tried.iter().any(|other| Rc::ptr_eq(other, endpoint));
        if endpoints.len() == 1 {
            return endpoints.iter().find(untried).cloned().ok_or_else(|| self.exhausted());
        }
        let now = Instant::now();
        let mut candidates: Vec<_> = endpoints.iter().filter(untried).filter(|it| !it.health.is_ejected(now)).collect();
        if candidates.is_empty() {
            candidates = endpoints.iter().filter(untried).collect();
        }
        let pair = (fastrand::usize(..candidates.len().max(1)), fastrand::usize(..candidates.len().max(1)));
        match (candidates.get(pair.0), candidates.get(pair.1)) {
            (Some(one), Some(other)) => Ok(Rc::clone(if other.active.get() < one.active.get() { other } else { one })),
            _ => Err(self.exhausted()),
        }
    }

    fn exhausted(&self) -> Refused {
        Refused::new(Refusal::UpstreamUnreachable, format!("{}: no endpoint could be reached", self.plan.name))
    }

    /// Takes over the resolver's answer; endpoints that stayed keep their pools.
    fn follow(&self, names: &EndpointSet) {
        let generation = names.generation();
        if generation == self.names_seen.replace(generation) {
            return;
        }
        let mut endpoints = self.endpoints.borrow_mut();
        let known = std::mem::take(&mut *endpoints);
        for address in names.addresses().iter() {
            let address = EndpointAddress::Tcp(*address);
            let kept = known.iter().find(|endpoint| endpoint.address == address).cloned();
            endpoints.push(kept.unwrap_or_else(|| Endpoint::new(address, self.plan.connect_timeout)));
        }
    }
}

impl Endpoint {
    /// `wait`: for a turn to make a connection.
    fn new(address: EndpointAddress, wait: Duration) -> Rc<Self> {
        Rc::new(Self {
            name: address.to_string().into(),
            address,
            active: Cell::new(0),
            busiest: Cell::new((0, 0)),
            health: Health::default(),
            opening: Places::new(OPENING_MAX, usize::MAX, wait),
            h1: RefCell::default(),
            h2: RefCell::default(),
            h2_connecting: tokio::sync::Mutex::new(None),
        })
    }

    /// The most recently used idle connection that is still good.
    pub fn take_h1(&self, own: &OwnSvid, now: Instant, idle_max: Duration) -> Option<Rc<H1Connection>> {
        let mut idle = self.h1.borrow_mut();
        while let Some(candidate) = idle.pop() {
            let connection = candidate.connection;
            let usable = candidate.own == *own
                && now.duration_since(candidate.since) < idle_max
                && connection.is_free()
                && connection.is_silent();
            if usable {
                return Some(connection);
            }
        }
        None
    }

    /// Puts a connection back whose response has been read to its end. Of those that were needed at one time just now, none
    /// is closed: the next burst would make it again, with a handshake.
    pub fn give_back_h1(&self, connection: Rc<H1Connection>, own: OwnSvid, idle_max: usize) {
        let mut idle = self.h1.borrow_mut();
        let (now, before) = self.busiest.get();
        if connection.is_free() && idle.len() < idle_max.max(now.max(before) as usize) {
            idle.push(IdleH1 { connection, own, since: Instant::now() });
            self.opening.something_freed();
        }
    }

    /// A shared connection with room for one more stream.
    pub fn take_h2(self: &Rc<Self>, own: &OwnSvid) -> Option<Rc<H2Connection>> {
        let mut connections = self.h2.borrow_mut();
        connections.retain(|connection| !connection.is_closing.get());
        connections.iter().find(|connection| connection.takes_requests(own)).cloned()
    }

    /// The least loaded one, however much it has to do, where there may not be another.
    pub fn share_h2(&self, own: &OwnSvid) -> Option<Rc<H2Connection>> {
        let connections = self.h2.borrow();
        let usable = connections.iter().filter(|connection| connection.is_usable(own));
        usable.min_by_key(|connection| connection.streams.get()).cloned()
    }

    /// Closes a connection that nobody uses.
    pub fn close_idle(&self) -> bool {
        let mut h1 = self.h1.borrow_mut();
        if !h1.is_empty() {
            h1.remove(0);
            return true;
        }
        let mut h2 = self.h2.borrow_mut();
        let idle = h2.iter().position(|connection| connection.streams.get() == 0);
        idle.map(|index| h2.swap_remove(index)).is_some()
    }

    pub fn add_h2(
        &self,
        requests: SendRequest<Bytes>,
        session: Option<Arc<Session>>,
        own: OwnSvid,
    ) -> Rc<H2Connection> {
        let connection = Rc::new(H2Connection::new(requests, session, own));
        self.h2.borrow_mut().push(connection.clone());
        connection
    }

    fn sweep(&self, now: Instant, idle_max: Duration) {
        self.busiest.set((self.active.get(), self.busiest.get().0));
        self.h1.borrow_mut().retain(|idle| {
            idle.connection.rest();
            now.duration_since(idle.since) < idle_max && idle.connection.is_free() && idle.connection.is_silent()
        });
        self.h2.borrow_mut().retain(|connection| {
            let old = now.duration_since(connection.idle_since.get()) >= idle_max.max(H2_IDLE_MIN);
            let retired = connection.session.as_ref().is_some_and(|session| session.is_retired());
            !(connection.is_closing.get() || connection.streams.get() == 0 && (old || retired))
        });
    }
}

/// HTTP/2 connections are few and dear: they stay idle longer (PEERS D1, "h2 / tunnel pool idle").
const H2_IDLE_MIN: Duration = Duration::from_secs(300);
