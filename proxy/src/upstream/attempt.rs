//! What an attempt costs and teaches: places for requests and connections, and what is known of an endpoint afterwards.

use super::connect::{Connected, Own, connect};
use super::health::Failure;
use super::http1::H1Connection;
use super::http2::H2Connection;
use super::places::{NoPlace, Place, Places};
use super::pool::{Endpoint, OwnSvid, Upstream};
use crate::refusal::{Refusal, Refused};
use crate::telemetry::upstream_counters::Retry;
use crate::tls::mesh::ClientAlpn;
use crate::worker::Worker;
use std::rc::Rc;
use std::time::Instant;

/// What came of waiting for a turn to make a connection for HTTP/1.
pub enum Turn {
    Pooled(Rc<H1Connection>),
    Ours(Place),
}

/// Who is asked, and as whom.
pub struct Asking<'a> {
    pub worker: &'a Rc<Worker>,
    pub upstream: &'a Upstream,
    pub host: Option<&'a str>,
    pub own: &'a Own,
}

/// What came of looking for a connection for HTTP/2.
pub enum FoundShared {
    Shared(Rc<H2Connection>),
    /// One may be made.
    Place(Option<Rc<Place>>),
}

/// What came of looking for a connection for HTTP/1.
pub enum Found {
    Pooled(Rc<H1Connection>),
    /// One may be made.
    Place(Option<Rc<Place>>),
}

impl Upstream {
    /// # Errors
    /// As many requests as allowed are under way, and as many wait.
    pub async fn place_for_request(&self) -> Result<Place, Refused> {
        match self.requests.try_take() {
            Some(place) => Ok(place),
            None => Box::pin(self.requests.wait(|places| places.take_free()))
                .await
                .map_err(|none| self.over_limit("requests", none)),
        }
    }

    /// # Errors
    /// As many connections as allowed are open, all of them are in use, and as many callers wait.
    pub async fn place_for_connection(&self) -> Result<Option<Rc<Place>>, Refused> {
        let Some(places) = &self.connections else { return Ok(None) };
        let look = |places: &Rc<_>| self.connection_place(places);
        let place = match places.try_take() {
            Some(place) => place,
            None => Box::pin(places.wait(look)).await.map_err(|none| self.over_limit("connections", none))?,
        };
        Ok(Some(Rc::new(place)))
    }

    /// A new connection's place, or one of `endpoint`'s connections that is given back meanwhile.
    ///
    /// # Errors
    /// As [`place_for_connection`](Self::place_for_connection).
    pub async fn place_or_pooled(&self, endpoint: &Endpoint, own: &OwnSvid) -> Result<Found, Refused> {
        let Some(places) = &self.connections else { return Ok(Found::Place(None)) };
        if let Some(place) = places.try_take() {
            return Ok(Found::Place(Some(Rc::new(place))));
        }
        let idle_max = self.plan.pool_idle;
        let look = |places: &Rc<_>| match endpoint.take_h1(own, Instant::now(), idle_max) {
            Some(pooled) => Some(Found::Pooled(pooled)),
            None => self.connection_place(places).map(|place| Found::Place(Some(Rc::new(place)))),
        };
        Box::pin(places.wait(look)).await.map_err(|none| self.over_limit("connections", none))
    }

    /// A new connection's place. Where there is none, requests share what there is beyond its usual number of streams.
    ///
    /// # Errors
    /// As [`place_for_connection`](Self::place_for_connection).
    pub async fn place_or_shared(&self, endpoint: &Endpoint, own: &OwnSvid) -> Result<FoundShared, Refused> {
        let Some(places) = &self.connections else { return Ok(FoundShared::Place(None)) };
        if let Some(place) = places.try_take() {
            return Ok(FoundShared::Place(Some(Rc::new(place))));
        }
        let look = |places: &Rc<_>| match endpoint.share_h2(own) {
            Some(shared) => Some(FoundShared::Shared(shared)),
            None => self.connection_place(places).map(|place| FoundShared::Place(Some(Rc::new(place)))),
        };
        Box::pin(places.wait(look)).await.map_err(|none| self.over_limit("connections", none))
    }

    /// One that is free. Else an idle connection, of whichever endpoint, makes room: its place is free when it has closed.
    fn connection_place(&self, places: &Rc<Places>) -> Option<Place> {
        let free = places.take_free();
        if free.is_none() {
            self.endpoints.borrow().iter().any(|endpoint| endpoint.close_idle());
        }
        free
    }

    fn over_limit(&self, what: &str, none: NoPlace) -> Refused {
        Refused::new(Refusal::OverLimit, format!("{}: limits.{what}: {none}", self.plan.name))
    }

    /// May one more request be sent again?
    pub fn take_retry(&self, retry: Retry) -> bool {
        let is_within = self.retries.take(Instant::now());
        self.plan.metrics.upstream.retry(if is_within { retry } else { Retry::OverBudget });
        is_within
    }

    /// Is there another endpoint than `endpoint` and those in `tried`?
    pub fn has_another(&self, endpoint: &Rc<Endpoint>, tried: &[Rc<Endpoint>]) -> bool {
        let endpoints = self.endpoints.borrow();
        endpoints.iter().any(|it| !Rc::ptr_eq(it, endpoint) && !tried.iter().any(|other| Rc::ptr_eq(it, other)))
    }

    /// Learns that `endpoint` failed, and passes it over if that was once too often.
    pub fn failed(&self, endpoint: &Endpoint, failure: Failure, now: Instant) {
        let outliers = &self.plan.resilience.outliers;
        if !endpoint.health.failed(failure, outliers, now) {
            return;
        }
        let endpoints = self.endpoints.borrow();
        let ejected = endpoints.iter().filter(|endpoint| endpoint.health.is_ejected(now)).count();
        let share = endpoints.len() * usize::from(outliers.share_max_percent) / 100;
        // One that cannot be reached serves nobody, so nothing is lost by passing it over, however many there are.
        let may = endpoints.len() > 1 && (ejected < share || matches!(failure, Failure::Connect { .. }));
        if may {
            endpoint.health.eject(outliers, now, fastrand::u8(..));
            self.plan.metrics.upstream.ejection();
        }
    }

    /// Tells the metrics how many endpoints are passed over now.
    pub fn tell_ejected(&self, now: Instant) {
        let ejected = self.endpoints.borrow().iter().filter(|endpoint| endpoint.health.is_ejected(now)).count();
        let ejected = i64::try_from(ejected).unwrap_or(i64::MAX);
        self.plan.metrics.upstream.ejected_change(ejected - self.ejected.replace(ejected));
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.plan.metrics.upstream.ejected_change(-self.ejected.get());
    }
}

impl Asking<'_> {
    /// A new connection to `endpoint`, which learns from what comes of it.
    ///
    /// # Errors
    /// As [`connect`]; or the last attempt met silence, and another one is under way.
    pub async fn open(
        &self,
        endpoint: &Endpoint,
        alpn: ClientAlpn,
        place: Option<Rc<Place>>,
    ) -> Result<Connected, Refused> {
        let plan = &self.upstream.plan;
        if !endpoint.health.is_worth_connecting() {
            return Err(self.not_worth_connecting(endpoint));
        }
        let connecting = endpoint.health.connecting();
        let started = Instant::now();
        let connected = connect(self.worker, plan, self.host, &endpoint.address, self.own, alpn).await;
        drop(connecting);
        match connected {
            Ok(connected) => {
                endpoint.health.connected();
                Ok(Connected { place, ..connected })
            }
            Err(refused) => {
                let is_its_fault = !is_final(refused.refusal) && refused.refusal != Refusal::TrustEnded;
                if self.own.no_handshake.is_none() && is_its_fault {
                    let now = Instant::now();
                    self.upstream.failed(endpoint, Failure::Connect { took: now.duration_since(started) }, now);
                }
                Err(refused)
            }
        }
    }
}

impl Asking<'_> {
    /// A turn to make a connection to `endpoint`.
    ///
    /// # Errors
    /// So many are being made that none had a turn for as long as making one may take.
    pub async fn turn(&self, endpoint: &Endpoint) -> Result<Place, Refused> {
        match endpoint.opening.try_take() {
            Some(turn) => Ok(turn),
            None => Box::pin(endpoint.opening.wait(|turns| turns.take_free()))
                .await
                .map_err(|none| self.no_turn(endpoint, none)),
        }
    }

    /// The same, or one of `endpoint`'s connections that is given back meanwhile.
    ///
    /// # Errors
    /// As [`turn`](Self::turn).
    pub async fn turn_or_pooled(&self, endpoint: &Endpoint, own: &OwnSvid) -> Result<Turn, Refused> {
        if let Some(turn) = endpoint.opening.try_take() {
            return Ok(Turn::Ours(turn));
        }
        let idle_max = self.upstream.plan.pool_idle;
        let look = |turns: &Rc<_>| match endpoint.take_h1(own, Instant::now(), idle_max) {
            Some(pooled) => Some(Turn::Pooled(pooled)),
            None => Places::take_free(turns).map(Turn::Ours),
        };
        Box::pin(endpoint.opening.wait(look)).await.map_err(|none| self.no_turn(endpoint, none))
    }

    fn no_turn(&self, endpoint: &Endpoint, none: NoPlace) -> Refused {
        let why = format!("{}: {}: turns to make a connection: {none}", self.upstream.plan.name, endpoint.address);
        Refused::new(Refusal::OverLimit, why)
    }

    pub fn not_worth_connecting(&self, endpoint: &Endpoint) -> Refused {
        let plan = &self.upstream.plan;
        let refusal = if plan.is_app() { Refusal::AppUnreachable } else { Refusal::UpstreamUnreachable };
        let why = "did not answer the last time, and another attempt is under way";
        Refused::new(refusal, format!("{}: {} {why}", plan.name, endpoint.address))
    }
}

/// Would it be the same with every other endpoint?
pub fn is_final(refusal: Refusal) -> bool {
    matches!(refusal, Refusal::Loop | Refusal::OverLimit | Refusal::TokenUnavailable)
}

/// Says the code of a peer's sidecar that it could not pass requests on? Then nothing that is sent there is answered.
pub fn is_out_of_order(code: &str) -> bool {
    ["app_unreachable", "no_identity", "identity_denied", "identity_expired", "upstream_closed", "upstream_protocol"]
        .contains(&code)
}
