//! L4: a connection of its own to an upstream, and a tunnel to it.

use super::attempt::{Asking, is_final};
use super::connect::{Connected, Own, upstream_refused_us};
use super::counted::Active;
use super::plan::ServicePlan;
use super::pool::{Endpoint, Upstream};
use crate::connection::Connection;
use crate::refusal::Refused;
use crate::session::Session;
use crate::tls::mesh::ClientAlpn;
use crate::tunnel::{self, TunnelEnd};
use crate::worker::Worker;
use std::rc::Rc;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};

const ENDPOINTS_TRIED_MAX: usize = 3;

/// Connects to an endpoint of `plan` and copies until both sides have ended.
///
/// # Errors
/// Before the first byte from there only: no identity, nobody there who is expected, or somebody who refuses us.
pub async fn tunnel<IO>(
    connection: &Rc<Connection>,
    io: &mut IO,
    plan: &Arc<ServicePlan>,
    host: Option<&str>,
) -> Result<(), Refused>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    match reach_for(connection, plan, host).await? {
        Some(reached) => copy(connection, io, plan, reached).await,
        None => Ok(()),
    }
}

/// As [`reach`]. `None`: the caller's connection was cut meanwhile, and its session knows why.
///
/// # Errors
/// As [`tunnel`].
pub async fn reach_for(
    connection: &Rc<Connection>,
    plan: &Arc<ServicePlan>,
    host: Option<&str>,
) -> Result<Option<Reached>, Refused> {
    tokio::select! {
        biased;
        () = connection.session.was_cut() => Ok(None),
        reached = Box::pin(reach(&connection.worker, plan, host)) => reached.map(Some),
    }
}

/// Copies until both sides have ended.
///
/// # Errors
/// The peer refused us before its first byte.
pub async fn copy<IO>(
    connection: &Rc<Connection>,
    io: &mut IO,
    plan: &Arc<ServicePlan>,
    reached: Reached,
) -> Result<(), Refused>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let Reached { endpoint, mut connected, .. } = reached;
    let _active = Active::at(&endpoint);
    let trust = connected.session.as_ref().and_then(|session| session.trust());
    connection.audit_place().await;
    connection.upstream(endpoint.address.to_string(), connected.peer.clone(), trust.map(|trust| trust.own.clone()));
    let timeouts = connection.worker.policy().timeouts.clone();
    let counters = tunnel::Counters::default();
    let copying = tunnel::copy(io, &mut connected.io, &counters, timeouts.tcp_idle, timeouts.half_close_linger);
    // A direction whose writer is blocked does not touch its reader's socket: a cut of that one reaches it only from here.
    // Looked at first: bytes that were read before the cut wait to be copied.
    let ended = tokio::select! {
        biased;
        () = connection.session.was_cut() => None,
        () = was_cut(connected.session.as_deref()) => None,
        ended = copying => Some(ended),
    };
    let upstream_cut = connected.session.as_ref().filter(|session| session.is_cut());
    match (ended.map(|ended| ended.end), upstream_cut.and_then(|session| session.end_cause())) {
        (_, Some(cause)) => connection.ended(cause.as_str().to_owned()),
        // The caller's own connection was cut: its session knows why.
        (None | Some(TunnelEnd::BothClosed), None) => {}
        (Some(end), None) => {
            let alert = connected.session.as_ref().and_then(|session| session.peer_refused_us.get());
            if let Some(alert) = alert {
                return Err(upstream_refused_us(plan, &endpoint.address, *alert));
            }
            connection.ended(end.to_string());
        }
    }
    Ok(())
}

/// An endpoint that answered, and the connection to it.
pub struct Reached {
    pub upstream: Rc<Upstream>,
    pub endpoint: Rc<Endpoint>,
    pub connected: Connected,
}

/// The first endpoint that answers, and is who it should be.
///
/// # Errors
/// As [`tunnel`]; or as many connections as the service may have are open.
pub async fn reach(worker: &Rc<Worker>, plan: &Arc<ServicePlan>, host: Option<&str>) -> Result<Reached, Refused> {
    let upstream = worker.upstreams.get(plan, &worker.shared.discovery)?;
    let place = upstream.place_for_connection().await?;
    let mut tried: Vec<Rc<Endpoint>> = Vec::new();
    loop {
        let endpoint = upstream.pick(&tried).await?;
        let own = Own::of(plan, worker.identity())?;
        let asking = Asking { worker, upstream: &upstream, host, own: &own };
        let turn = asking.turn(&endpoint).await?;
        let opened = asking.open(&endpoint, ClientAlpn::None, place.clone()).await;
        drop(turn);
        match opened {
            Ok(connected) => {
                endpoint.health.answered();
                return Ok(Reached { upstream, endpoint, connected });
            }
            Err(refused) if is_final(refused.refusal) => return Err(refused),
            Err(refused) => {
                tried.push(endpoint);
                if tried.len() >= ENDPOINTS_TRIED_MAX || upstream.pick(&tried).await.is_err() {
                    return Err(refused);
                }
            }
        }
    }
}

async fn was_cut(session: Option<&Session>) {
    match session {
        Some(session) => session.was_cut().await,
        None => std::future::pending().await,
    }
}
