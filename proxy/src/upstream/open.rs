//! Opens connections for requests; one for HTTP/2 has a task that drives it.

use super::attempt::Asking;
use super::client::chain;
use super::connect::{Connected, upstream_refused_us};
use super::http1::{H1Connection, Unanswered};
use super::http2::H2Connection;
use super::places::Place;
use super::plan::Security;
use super::pool::Endpoint;
use super::version::HttpVersion;
use crate::hbone::Keepalive;
use crate::http::frames::WatchedFrames;
use crate::http::windows::Window;
use crate::refusal::{Refusal, Refused};
use crate::session::{Registered, Session};
use bytes::Bytes;
use std::error::Error;
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;

/// Streams at one time, before an HTTP/2 server has said how many it takes (RFC 9113 §6.5.2 recommends at least 100).
const H2_STREAMS_UNTIL_TOLD: usize = 100;
/// Streams that end because the other side broke a rule, before its connection is ended.
const H2_RESETS_LOCAL_MAX: usize = 1024;

impl Asking<'_> {
    pub async fn open_http1(
        &self,
        endpoint: &Rc<Endpoint>,
        place: Option<Rc<Place>>,
    ) -> Result<Rc<H1Connection>, Refused> {
        let opening = self.open(endpoint, HttpVersion::Http1.alpn(), place);
        let Connected { io, session, registered, place, .. } = Box::pin(opening).await?;
        let head_bytes_max = self.worker.policy().limits.header_bytes;
        Ok(Rc::new(H1Connection::new(io, head_bytes_max, session, registered, place)))
    }

    pub async fn open_http2(
        &self,
        endpoint: &Rc<Endpoint>,
        place: Option<Rc<Place>>,
    ) -> Result<Rc<H2Connection>, Refused> {
        let opening = self.open(endpoint, HttpVersion::Http2.alpn(), place);
        let Connected { io, session, registered, place, .. } = Box::pin(opening).await?;
        let worker = self.worker;
        let policy = worker.policy();
        let (limits, timeouts) = (policy.limits.clone(), policy.timeouts.clone());
        drop(policy);
        let window = worker.windows.promise(limits.buffered_bytes / worker.count());
        let metrics = self.upstream.plan.metrics.clone();
        if let (false, Some(tcp)) = (matches!(self.upstream.plan.security, Security::Mesh { .. }), io.tcp()) {
            // Not worth losing the connection for.
            let _ = socket2::SockRef::from(tcp).set_tcp_user_timeout(Some(timeouts.h2_ping + timeouts.h2_ping_answer));
        }
        let io = WatchedFrames::of_upstream(io, session.clone(), metrics, limits.h2_control_frames);
        let handshake = h2::client::Builder::new()
            .enable_push(false)
            .initial_max_send_streams(H2_STREAMS_UNTIL_TOLD)
            .initial_window_size(window.stream())
            .initial_connection_window_size(window.connection())
            .max_send_buffer_size(window.send_buffer())
            .max_header_list_size(limits.header_bytes as u32)
            .max_local_error_reset_streams(Some(H2_RESETS_LOCAL_MAX))
            .handshake::<_, Bytes>(io)
            .await;
        let (requests, mut connection) =
            handshake.map_err(|error| self.refused(endpoint, &error, session.as_deref()))?;
        // Others end a connection that is pinged more often than they like (gRPC: every five minutes, without data). Of those, the
        // kernel notices as fast that one has vanished, by what it does not acknowledge.
        let pings = matches!(self.upstream.plan.security, Security::Mesh { .. }).then(|| connection.ping_pong());
        let keepalive = Keepalive::new(pings.flatten(), &timeouts);
        let heard_of = session.clone();
        let shared = endpoint.add_h2(requests, session, self.own.key());
        // The task must not keep it: the connection ends when nobody else has it.
        let of_task = Rc::downgrade(&shared);
        tokio::task::spawn_local(async move {
            let is_used = || of_task.upgrade().is_some_and(|shared| shared.streams.get() > 0);
            let heard = || heard_of.as_ref().map_or(0, |session| session.bytes_in.load(Relaxed));
            let mut lost = pin!(keepalive.lost(is_used, heard));
            tokio::select! {
                biased;
                // Its errors reach its streams.
                _ = connection => {}
                () = lost.as_mut() => {}
            }
            if let Some(shared) = of_task.upgrade() {
                shared.takes_no_more();
            }
            drop::<(Option<Rc<Registered>>, Option<Rc<Place>>, Window)>((registered, place, window));
        });
        Ok(shared)
    }

    pub fn refused(&self, endpoint: &Endpoint, error: &(dyn Error + 'static), session: Option<&Session>) -> Refused {
        let plan = &self.upstream.plan;
        if let Some(alert) = session.and_then(|session| session.peer_refused_us.get()) {
            return upstream_refused_us(plan, &endpoint.address, *alert);
        }
        let refusal = if session.is_some_and(Session::is_cut) {
            Refusal::TrustEnded
        } else if error.downcast_ref::<Unanswered>().is_some_and(Unanswered::is_malformed) {
            Refusal::UpstreamProtocol
        } else {
            Refusal::UpstreamClosed
        };
        Refused::new(refusal, format!("{}: {}: {}", plan.name, endpoint.address, chain(error)))
    }
}
