//! `outbound:` as it is written, and its checks.

mod endpoints;
mod transport;

use super::credential::{Credential, RawCredential};
use super::resilience::{RawOutliers, RawRetries, RawServiceLimits};
use super::{Endpoints, LocalUser, Outbound, Resilience, Service, ServiceProtocol};
use crate::capture::User;
use crate::identity::SvidSelector;
use crate::listen::ListenAddress;
use crate::listener::OnExpiry;
use crate::network::Destination;
use crate::pattern::HostPattern;
use crate::problem::Place;
use crate::read::{Field, FromNode, Keys, Listener, Reader, Section};
use crate::spiffe_id::SpiffeId;
use crate::values::{At, FilePath, HostName, Name, OneOrMany, Span};
use crate::yaml::Node;
use schemars::JsonSchema;
use std::net::SocketAddr;

#[cfg(test)]
pub(crate) use endpoints::RawEndpoints;
use endpoints::WrittenEndpoints;
use transport::{ServiceTls, Via};

/// Where the application may go. What no service covers is refused.
#[derive(Default, JsonSchema)]
#[schemars(rename = "Outbound", deny_unknown_fields, extend("required" = []))]
pub(crate) struct RawOutbound {
    /// What happens to what no service covers. `deny` is the only value; it may be written to be seen.
    #[schemars(extend("default" = "deny"))]
    #[expect(dead_code, reason = "reading it is the check: nothing else depends on its one value")]
    default: Field<Deny>,
    /// Listeners shared by all services: the service is found by the request's host. `IP:PORT` or `unix:/PATH`, one or a
    /// list. A unix socket is made with mode 0666 in a directory that exists: who reaches it is up to the directory and
    /// to `users`.
    listen: Field<OneOrMany<At<ListenAddress>>>,
    /// Let these listeners stand on addresses that other hosts can reach. Whoever reaches them acts with this workload's
    /// identity, so do so only behind a wall, such as a network of containers.
    #[schemars(extend("default" = false))]
    open_listeners: Field<bool>,
    /// Where the application may go, and who has to answer there.
    services: Field<Vec<RawService>>,
}

impl Section for RawOutbound {
    const NAME: &'static str = "`outbound`";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self {
            default: keys.optional("default"),
            listen: keys.optional("listen"),
            open_listeners: keys.optional("open_listeners"),
            services: keys.optional("services"),
        }
    }
}

impl RawOutbound {
    pub fn check(self, reader: &mut Reader) -> Outbound {
        let listen = self.listen.or_default().0;
        let first = reader.listeners.len();
        for address in &listen {
            let whose = "outbound.listen".to_owned();
            let (address, place) = (address.value.clone(), Some(address.place.clone()));
            reader.listeners.push(Listener { address, whose, place });
        }
        let services = self.services.or_default().into_iter().filter_map(|service| service.check(reader)).collect();
        if !self.open_listeners.or(false) {
            refuse_open_listeners(first, reader);
        }
        Outbound { listen: listen.into_iter().map(|address| address.value).collect(), services }
    }
}

/// What comes through an outbound listener goes out with our identity, so others must not reach it unless that is said.
fn refuse_open_listeners(first: usize, reader: &mut Reader) {
    let is_open = |address: SocketAddr| !address.ip().is_loopback();
    let open = reader.listeners[first..].iter().filter(|listener| listener.address.tcp().is_some_and(is_open));
    let open: Vec<(String, Place)> = open
        .filter_map(|listener| {
            Some((format!("{} listens on {}", listener.whose, listener.address), listener.place.clone()?))
        })
        .collect();
    for (what, place) in open {
        let hint = "listen on 127.0.0.1 or [::1], or write `open_listeners: true` below `outbound:` if that is meant";
        reader.problem(&place, format!("{what}, where other hosts could use this workload's identity"), hint);
    }
}

#[derive(Clone, Copy, JsonSchema)]
#[schemars(rename_all = "lowercase", inline)]
enum Deny {
    Deny,
}

impl FromNode for ServiceProtocol {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        let words = [("http", Self::Http), ("tcp", Self::Tcp), ("tls", Self::Tls), ("detect", Self::Detect)];
        reader.word(node, &words)
    }
}

impl FromNode for Deny {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        if reader.scalar(node, "`deny`")? == "deny" {
            return Some(Self::Deny);
        }
        let hint = "write `deny`, the only value there is, and name under `services` what may be reached";
        reader.wrong(node, "would let through what nobody named", hint);
        None
    }
}

/// Something that the application may reach: how it is named, where it is, and who has to answer.
#[derive(JsonSchema)]
#[schemars(rename = "Service", deny_unknown_fields, extend("required" = ["name"]))]
pub(crate) struct RawService {
    /// Unique; appears in logs and metrics.
    name: Field<Name>,
    /// The hosts by which requests on a shared listener find this service: exact, `*` for one label, `{name}` for one
    /// label whose value `identity` may use, `**` first for one or more labels. The most specific one wins.
    hosts: Field<OneOrMany<At<HostPattern>>>,
    /// The destinations by which captured connections find this service: `IP:PORT`, `IP`, `NETWORK/PREFIX`, or
    /// `NETWORK/PREFIX:PORT`. The most specific one wins. Addresses in `endpoints` need not be written again.
    addresses: Field<OneOrMany<Destination>>,
    /// A local listener of its own, `IP:PORT` or `unix:/PATH`: everything that arrives there goes to this service.
    listen: Field<ListenAddress>,
    /// The local users, names or numbers, that may use the service: those whose sockets connect to Postern. Others are
    /// refused, and so is a connection whose user the kernel does not tell.
    #[schemars(extend("x-default" = "all"))]
    users: Field<OneOrMany<User>>,
    /// Where it is: a list of `IP:PORT`, `{ dns: "HOST:PORT" }`, or `{ port: PORT }` for the host that the request
    /// named at this port.
    #[schemars(extend("x-default" = "the host and port that the request named"))]
    endpoints: Field<WrittenEndpoints>,
    /// What the application speaks. `detect` reads the first bytes. `tls`: TLS of its own, passed through as it is; on
    /// captured connections its SNI is looked for among `hosts`.
    #[schemars(extend("default" = "detect"))]
    protocol: Field<ServiceProtocol>,
    /// Who has to answer: SPIFFE IDs or patterns, in which `{name}` stands for a capture of `hosts`. Mandatory with
    /// `tls: mesh`.
    identity: Field<OneOrMany<At<crate::pattern::SpiffePattern>>>,
    /// The SVID that we show. Only with `tls: mesh`.
    #[schemars(extend("x-default" = "that of `identity`"))]
    svid: Field<SvidSelector>,
    /// `mesh`: mTLS with SPIFFE identities on both sides. `web`: TLS to a server of the Web PKI. `off`: plaintext.
    #[schemars(extend("default" = "mesh"))]
    tls: Field<ServiceTls>,
    /// `direct`: an mTLS connection for each of the application's, and pooled ones for requests. `tunnel`: all of them as
    /// streams of few mTLS connections to the peer's `tunnel` listener; the port of `endpoints` is then the application's.
    /// Only with `tls: mesh`.
    #[schemars(extend("default" = "direct"))]
    via: Field<Via>,
    /// The port of the peer's `tunnel` listener. Only with `via: tunnel`.
    #[schemars(range(min = 1, max = 65535), extend("x-default" = "15008"))]
    tunnel_port: Field<u16>,
    /// What requests take along besides our certificate; `jwt_svid` is a token of ours for the peer. Only with `tls: mesh`.
    #[schemars(extend("x-default" = "nothing"))]
    credential: Field<RawCredential>,
    /// The name that the server's certificate must have, and that is sent as SNI. Only with `tls: web`.
    #[schemars(extend("x-default" = "the host"))]
    server_name: Field<HostName>,
    /// A PEM file with the authorities to believe. Only with `tls: web`.
    #[schemars(extend("x-default" = "the system's"))]
    roots: Field<FilePath>,
    /// How long one TCP connect may take.
    #[schemars(extend("x-default" = "timeouts.connect"))]
    connect_timeout: Field<Span>,
    /// From a request's head to the end of its answer. When it passes first, the request is refused with 504, or its
    /// answer breaks off.
    #[schemars(extend("x-default" = "none: as long as something of it moves"))]
    request_timeout: Field<Span>,
    /// How many requests may be sent again.
    retries: Field<RawRetries>,
    /// When an endpoint is passed over.
    outliers: Field<RawOutliers>,
    /// What each worker asks of the service at once.
    limits: Field<RawServiceLimits>,
    /// What happens to L4 connections when an SVID they were made with expires: `keep` them, or `cut`.
    #[schemars(extend("default" = "keep"))]
    on_expiry: Field<OnExpiry>,
    #[schemars(skip)]
    place: Place,
}

impl Section for RawService {
    const NAME: &'static str = "a service";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self {
            name: keys.required("name", "give it a name: it appears in logs and metrics"),
            hosts: keys.optional("hosts"),
            addresses: keys.optional("addresses"),
            listen: keys.optional("listen"),
            users: keys.optional("users"),
            endpoints: keys.optional("endpoints"),
            protocol: keys.optional("protocol"),
            identity: keys.optional("identity"),
            svid: keys.optional("svid"),
            tls: keys.optional("tls"),
            via: keys.optional("via"),
            tunnel_port: keys.optional("tunnel_port"),
            credential: keys.optional("credential"),
            server_name: keys.optional("server_name"),
            roots: keys.optional("roots"),
            connect_timeout: keys.optional("connect_timeout"),
            request_timeout: keys.optional("request_timeout"),
            retries: keys.optional("retries"),
            outliers: keys.optional("outliers"),
            limits: keys.optional("limits"),
            on_expiry: keys.optional("on_expiry"),
            place: keys.place(),
        }
    }
}

impl RawService {
    /// `None`: this service's problems have been told.
    fn check(self, reader: &mut Reader) -> Option<Service> {
        self.refuse_unreachable(reader);
        self.refuse_what_is_for_http(reader);
        self.require_http_for_credential(reader);
        self.check_audience(reader);
        let transport = self.transport(reader);
        let endpoints = match self.endpoints.is_written() {
            true => self.endpoints.into_option().map(|written| written.0),
            false => Some(Endpoints::Host { port: None }),
        };
        let listen_place = self.listen.place().cloned();
        let listen = self.listen.into_option();
        let name = self.name.into_option().map(|name| name.0);
        if let (Some(address), Some(place)) = (listen.clone(), listen_place) {
            let whose = format!("service `{}`", name.as_deref().unwrap_or("?"));
            reader.listeners.push(Listener { address, whose, place: Some(place) });
        }
        Some(Service {
            name: name?,
            hosts: self.hosts.or_default().0.into_iter().map(|host| host.value).collect(),
            addresses: self.addresses.or_default().0,
            listen,
            users: self.users.or_default().0.into_iter().map(local_user).collect(),
            endpoints: endpoints?,
            protocol: self.protocol.or_default(),
            transport: transport?,
            credential: self.credential.into_option().map(|raw| raw.0),
            on_expiry: self.on_expiry.or_default(),
            connect_timeout: self.connect_timeout.into_option().map(|span| span.0),
            resilience: Resilience {
                request_timeout: self.request_timeout.into_option().map(|span| span.0),
                retries: self.retries.into_option().map(RawRetries::check).unwrap_or_default(),
                outliers: self.outliers.into_option().map(|raw| raw.check(reader)).unwrap_or_default(),
                limits: self.limits.into_option().map(RawServiceLimits::check).unwrap_or_default(),
            },
            place: self.place,
        })
    }

    /// What is carried as it is takes nothing along, and detection may find that something is to be carried so.
    fn require_http_for_credential(&self, reader: &mut Reader) {
        let is_http = self.protocol.get() == Some(&ServiceProtocol::Http);
        if let (Some(place), false) = (self.credential.place(), is_http) {
            let hint = "write `protocol: http`, or remove `credential`";
            reader.problem(place, "`credential` is for requests, and the service may carry what is no HTTP", hint);
        }
    }

    /// A token goes to whoever answers: a name that is one workload's alone must not be shown to another (THREATS HD-18).
    fn check_audience(&self, reader: &mut Reader) {
        let Some(RawCredential(credential)) = self.credential.get() else { return };
        let Credential::JwtSvid { audience: Some(audience), passed_on, .. } = credential else { return };
        let (Some(place), Some(identity)) = (self.credential.place(), self.identity.get()) else { return };
        let only = match identity.0.as_slice() {
            [one] => one.value.exact(),
            _ => None,
        };
        let Some(only) = only else {
            let hint = "remove `audience`: the token is for the SPIFFE ID of who answers then; or write `identity` out";
            let what = "the token is for one audience, and more than one identity may answer and be shown it";
            return reader.problem(place, what, hint);
        };
        if let Ok(id) = SpiffeId::parse(audience)
            && id != only
            && !passed_on
        {
            let hint =
                "remove `audience`; or write `passed_on: true`, if who answers passes requests on to that workload";
            let what = format!("the token is for `{id}`, and `{only}` would be shown it");
            reader.problem(place, what, hint);
        }
    }

    /// Keys that this protocol makes meaningless: whoever wrote them expects something else.
    fn refuse_what_is_for_http(&self, reader: &mut Reader) {
        if !matches!(self.protocol.get(), Some(ServiceProtocol::Tcp | ServiceProtocol::Tls)) {
            return;
        }
        for (key, place) in [("request_timeout", self.request_timeout.place()), ("retries", self.retries.place())] {
            if let Some(place) = place {
                let hint = format!("remove `{key}`, or write `protocol: http`");
                reader.problem(
                    place,
                    format!("`{key}` is for HTTP, and the service carries connections as they are"),
                    hint,
                );
            }
        }
    }

    /// Services that no connection could find, or that have nowhere to go.
    fn refuse_unreachable(&self, reader: &mut Reader) {
        let place = &self.place;
        if let (Some(hosts), Some(place)) = (self.hosts.get(), self.hosts.place())
            && hosts.0.is_empty()
        {
            reader.problem(place, "`hosts` has nothing that could fit", "name some, or remove the key");
        }
        if let (Some(users), Some(place)) = (self.users.get(), self.users.place())
            && users.0.is_empty()
        {
            reader.problem(place, "`users` names nobody", "name some, or remove the key to let all users in");
        }
        let by_address = self.addresses.is_written();
        if !self.hosts.is_written() && !self.listen.is_written() && !by_address {
            let hint =
                "add `hosts:` (for shared listeners), `listen:` (a listener of its own), or `addresses:` (captured)";
            reader.problem(place, "nothing can reach the service: it has neither hosts nor a listener", hint);
            return;
        }
        let is_tcp = self.protocol.get() == Some(&ServiceProtocol::Tcp);
        let by_name = reader.names_have_addresses && self.hosts.is_written() && !self.listen.is_written();
        if is_tcp && !self.listen.is_written() && !by_address && !by_name {
            let hint = "add `listen:` (a listener of its own) or `addresses:` (captured); hosts are found in HTTP requests \
                        only, or with `capture.dns`";
            reader.problem(place, "nothing can reach the service: a `tcp` connection names no host", hint);
        }
        let by_host = match self.endpoints.place() {
            None => true,
            Some(_) => matches!(self.endpoints.get(), Some(WrittenEndpoints(Endpoints::Host { .. }))),
        };
        if by_address && self.listen.is_written() && by_host {
            let hint = "add `endpoints:`, or remove `listen:`";
            reader.problem(place, "the service has nowhere to go from its own listener: that names no address", hint);
        } else if by_address || by_name {
            // It goes where it was meant to go.
        } else if by_host && is_tcp {
            let hint = "add `endpoints:` with addresses, or `{ dns: \"HOST:PORT\" }`";
            reader.problem(place, "the service has nowhere to go: a `tcp` connection names no host", hint);
        } else if by_host && !self.hosts.is_written() {
            let hint =
                "add `endpoints:` with addresses or `{ dns: \"HOST:PORT\" }`, or `hosts:` that requests may name";
            reader.problem(place, "the service has nowhere to go: it has neither endpoints nor hosts", hint);
        }
    }
}

fn local_user(user: User) -> LocalUser {
    user.0.parse().map_or(LocalUser::Name(user.0), LocalUser::Id)
}
