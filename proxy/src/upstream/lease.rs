//! What has to live as long as a response: the connection that it comes over, and the place that its request takes.

use super::attempt::is_out_of_order;
use super::connect::{Connected, UpstreamIo};
use super::counted::{Active, Stream};
use super::health::Failure;
use super::http1::H1Connection;
use super::places::Place;
use super::pool::{Endpoint, OwnSvid, Upstream};
use crate::http::body::Received;
use crate::session::{Carries, Registered, Session};
use crate::tls::Peer;
use http::Response;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

/// A response, with what has to live as long as its body.
pub struct Answer {
    pub response: Response<Received>,
    pub lease: Lease,
}

/// Keeps a connection for one response; gives it back to the pool when the response has been read whole.
pub struct Lease {
    pub endpoint: Rc<Endpoint>,
    pub session: Option<Arc<Session>>,
    pub peer: Option<Arc<Peer>>,
    pub(super) held: Held,
    pub(super) own: OwnSvid,
    pub(super) idle_max: usize,
    pub(super) upstream: Rc<Upstream>,
    /// Tunnels take none.
    pub(super) _place: Option<Place>,
    pub(super) _active: Active,
}

pub(super) enum Held {
    Http1(Rc<H1Connection>),
    Http2 {
        _stream: Stream,
    },
    /// Not to be pooled. A tunnel's session stays registered as long as it lives.
    NotAgain {
        _registered: Option<Rc<Registered>>,
        _place: Option<Rc<Place>>,
    },
    Returned,
}

impl Lease {
    /// A connection that carries one tunnel, and its bytes.
    pub fn of_tunnel(upstream: Rc<Upstream>, endpoint: Rc<Endpoint>, connected: Connected) -> (Self, UpstreamIo) {
        let Connected { io, session, registered, peer, place } = connected;
        let _active = Active::at(&endpoint);
        let held = Held::NotAgain { _registered: registered, _place: place };
        (Self { endpoint, session, peer, held, own: [0; 32], idle_max: 0, upstream, _place: None, _active }, io)
    }

    /// The endpoint answered. `refusal`: its sidecar's, which is an answer, but may be none of the application's.
    pub fn answered(&self, refusal: Option<&str>) {
        match refusal.filter(|code| is_out_of_order(code)) {
            None => self.endpoint.health.answered(),
            Some(_) => self.upstream.failed(&self.endpoint, Failure::Request, Instant::now()),
        }
    }

    /// The response was read to its end.
    pub fn finished(&mut self) {
        if let Held::Http1(connection) = std::mem::replace(&mut self.held, Held::Returned) {
            self.session = None;
            self.endpoint.give_back_h1(connection, self.own, self.idle_max);
            if let Some(connections) = &self.upstream.connections {
                connections.something_freed();
            }
        }
    }

    /// Both sides have switched: a tunnel follows.
    pub fn upgraded(&mut self) {
        // An HTTP/2 connection stays one: its other streams still end with the SVID, and this one still counts.
        if let (Some(session), false) = (&self.session, matches!(self.held, Held::Http2 { .. })) {
            // Both sides' SVIDs expire by the same rule, the one of streams.
            session.set_carries(Carries::Stream);
        }
        self.not_again();
    }

    /// The connection never goes back: it is a tunnel now, or was asked to become one and nobody knows how it took that.
    pub fn not_again(&mut self) {
        self.held = match std::mem::replace(&mut self.held, Held::Returned) {
            Held::Http1(connection) => {
                Held::NotAgain { _registered: connection.registered.clone(), _place: connection.place.clone() }
            }
            held => held,
        };
    }
}
