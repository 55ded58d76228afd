//! The table of endpoints: which door shows which, and what they answer.
//!
//! Paths are compared as they came, byte by byte: `//config` and `/%63onfig` are not `/config` (THREATS NW-08).

use super::socket::{AllowedUids, Right};
use super::{AdminState, inventory, levers, views};
use crate::audit::record::Event;
use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue, ORIGIN};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use std::sync::Arc;
use std::time::SystemTime;

pub(super) type Answer = Response<Full<Bytes>>;

/// By which way a caller came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    Metrics,
    Readiness,
    Socket,
    ReadOnly,
}

pub(super) struct Caller {
    pub(super) door: Door,
    /// At the socket: the kernel's word for who it is, and who may what.
    pub(super) user: Option<(u32, Arc<AllowedUids>)>,
}

impl Caller {
    pub(super) fn uid(&self) -> Option<u32> {
        self.user.as_ref().map(|(uid, _)| *uid)
    }

    /// Who may not, if it is one.
    fn lacks(&self, right: Right) -> Option<u32> {
        let (uid, allowed) = self.user.as_ref()?;
        (!allowed.permits(*uid, right)).then_some(*uid)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Endpoint {
    State,
    Config,
    Identities,
    Inventory,
    Connections,
    Decision,
    Log,
    SetLog,
    Metrics,
    Ready,
    Version,
    Drain,
    Denied,
    Deny,
    AllowAgain,
    Held,
    ApplyHeld,
}

const ENDPOINTS: &[(&str, Method, Endpoint)] = &[
    ("/state", Method::GET, Endpoint::State),
    ("/config", Method::GET, Endpoint::Config),
    ("/identities", Method::GET, Endpoint::Identities),
    ("/inventory", Method::GET, Endpoint::Inventory),
    ("/connections", Method::GET, Endpoint::Connections),
    ("/decision", Method::GET, Endpoint::Decision),
    ("/log", Method::GET, Endpoint::Log),
    ("/log", Method::POST, Endpoint::SetLog),
    ("/metrics", Method::GET, Endpoint::Metrics),
    ("/healthz/ready", Method::GET, Endpoint::Ready),
    ("/version", Method::GET, Endpoint::Version),
    ("/drain", Method::POST, Endpoint::Drain),
    ("/deny", Method::GET, Endpoint::Denied),
    ("/deny", Method::POST, Endpoint::Deny),
    ("/deny/remove", Method::POST, Endpoint::AllowAgain),
    ("/held", Method::GET, Endpoint::Held),
    ("/held/apply", Method::POST, Endpoint::ApplyHeld),
];

impl Door {
    fn shows(self, endpoint: Endpoint) -> bool {
        match self {
            Self::Metrics => endpoint == Endpoint::Metrics,
            Self::Readiness => endpoint == Endpoint::Ready,
            Self::Socket => true,
            // Changes only over the unix socket, by peer credentials.
            Self::ReadOnly => endpoint.right() == Right::Read,
        }
    }
}

impl Endpoint {
    fn right(self) -> Right {
        match self {
            Self::SetLog | Self::Drain => Right::Operate,
            Self::Deny | Self::AllowAgain | Self::ApplyHeld => Right::Revoke,
            Self::State
            | Self::Config
            | Self::Identities
            | Self::Inventory
            | Self::Connections
            | Self::Decision
            | Self::Log
            | Self::Metrics
            | Self::Ready
            | Self::Version
            | Self::Denied
            | Self::Held => Right::Read,
        }
    }
}

pub(super) async fn answer<B>(caller: &Caller, state: &AdminState, request: Request<B>) -> Answer {
    if let Some(uid) = caller.lacks(Right::Read) {
        tracing::warn!(uid, "a user who is not in `admin.uids` asked at the admin socket and was refused");
        let words = format!("user {uid} may not use this socket; list it under `admin: {{ uids: [{uid}] }}`\n");
        return text(StatusCode::FORBIDDEN, words);
    }
    if caller.door == Door::ReadOnly
        && let Some(refusal) = refuse_browser(&request)
    {
        return refusal;
    }
    match find(caller.door, request.method(), request.uri().path()) {
        Ok(endpoint) => {
            let (right, path) = (endpoint.right(), request.uri().path());
            if let Some(uid) = caller.lacks(right) {
                tracing::warn!(uid, path, "a user asked at the admin socket for what it may not do");
                state.audit.event(&Event::LeverRefused { lever: path, uid });
                let key = right.as_str();
                let words = format!("user {uid} may not do that; list it under `admin: {{ {key}: [{uid}] }}`\n");
                return text(StatusCode::FORBIDDEN, words);
            }
            serve(endpoint, caller, state, request.uri()).await
        }
        Err(NotFound::Path) => text(StatusCode::NOT_FOUND, "no such endpoint\n".to_owned()),
        Err(NotFound::Method { allowed }) => {
            let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, format!("only {allowed}\n"));
            refusal.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
            refusal
        }
    }
}

/// Why there is no endpoint for a request.
#[derive(Debug, PartialEq, Eq)]
enum NotFound {
    Path,
    Method { allowed: &'static str },
}

fn find(door: Door, method: &Method, path: &str) -> Result<Endpoint, NotFound> {
    let mut reads = false;
    let mut changes = false;
    for (_, of_endpoint, endpoint) in ENDPOINTS.iter().filter(|(at, _, endpoint)| *at == path && door.shows(*endpoint))
    {
        if of_endpoint == method {
            return Ok(*endpoint);
        }
        reads |= of_endpoint == Method::GET;
        changes |= of_endpoint == Method::POST;
    }
    Err(match (reads, changes) {
        (false, false) => NotFound::Path,
        (true, false) => NotFound::Method { allowed: "GET" },
        (false, true) => NotFound::Method { allowed: "POST" },
        (true, true) => NotFound::Method { allowed: "GET, POST" },
    })
}

/// A page in a browser on this host may send requests to loopback, under a name that its owner points here (DNS
/// rebinding). Such a request names that host, or has an `Origin`; an operator's names loopback and has none.
fn refuse_browser<B>(request: &Request<B>) -> Option<Answer> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let honest = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().is_ok_and(is_loopback_name),
        _ => false,
    };
    let authority_honest = request.uri().authority().is_none_or(|authority| is_loopback_name(authority.as_str()));
    if honest && authority_honest && !request.headers().contains_key(ORIGIN) {
        return None;
    }
    Some(text(StatusCode::FORBIDDEN, "ask as localhost, 127.0.0.1 or [::1], and not from a web page\n".to_owned()))
}

fn is_loopback_name(host: &str) -> bool {
    ["localhost", "127.0.0.1", "[::1]"].into_iter().any(|name| {
        host.len() >= name.len()
            && host.is_char_boundary(name.len())
            && host[..name.len()].eq_ignore_ascii_case(name)
            && match host[name.len()..].strip_prefix(':') {
                Some(port) => port.parse::<u16>().is_ok(),
                None => host.len() == name.len(),
            }
    })
}

async fn serve(endpoint: Endpoint, caller: &Caller, state: &AdminState, uri: &Uri) -> Answer {
    let now = SystemTime::now();
    match endpoint {
        Endpoint::State => json(StatusCode::OK, &views::state(state, now)),
        Endpoint::Config => raw(StatusCode::OK, "application/json", state.effective_config.load().as_str().to_owned()),
        Endpoint::Identities => {
            let counters = state.metrics.identity_counters();
            json(StatusCode::OK, &views::identities(&state.identity.load(), &counters, &state.own_tokens, now))
        }
        Endpoint::Inventory => json(StatusCode::OK, &inventory::inventory(state, now).await),
        Endpoint::Connections => json(StatusCode::OK, &(state.connections)().await),
        Endpoint::Decision => decision(state, uri).await,
        Endpoint::Log => json(StatusCode::OK, &serde_json::json!({ "filter": state.log.current() })),
        Endpoint::SetLog => set_log(caller, state, uri),
        Endpoint::Metrics => {
            state.metrics.update_identity(&state.identity.load(), now);
            raw(StatusCode::OK, prometheus::TEXT_FORMAT, state.metrics.render())
        }
        Endpoint::Ready => ready(state),
        Endpoint::Version => json(StatusCode::OK, &views::version()),
        Endpoint::Drain => {
            tracing::warn!("asked at the admin socket to drain");
            state.audit.event(&Event::LeverUsed { lever: "drain", detail: None, uid: caller.uid() });
            (state.drain)();
            json(StatusCode::ACCEPTED, &serde_json::json!({ "draining": true }))
        }
        Endpoint::Denied => json(StatusCode::OK, &levers::denied(state)),
        Endpoint::Deny => levers::deny(caller, state, uri).await,
        Endpoint::AllowAgain => levers::allow_again(caller, state, uri).await,
        Endpoint::Held => json(StatusCode::OK, &levers::held(state)),
        Endpoint::ApplyHeld => levers::apply_held(caller, state),
    }
}

async fn decision(state: &AdminState, uri: &Uri) -> Answer {
    let Some(id) = uri.query().and_then(|query| query.strip_prefix("id=")) else {
        return text(StatusCode::BAD_REQUEST, "write GET /decision?id=ID, as records have it\n".to_owned());
    };
    match (state.explain)(id).await {
        Some(explained) => json(StatusCode::OK, &explained),
        None => text(
            StatusCode::NOT_FOUND,
            "no request or L4 connection with this decision is remembered: only the last ones that routes and rules refused are\n"
                .to_owned(),
        ),
    }
}

fn set_log(caller: &Caller, state: &AdminState, uri: &Uri) -> Answer {
    let query = uri.query().unwrap_or_default();
    let Some(filter) = query.split('&').find_map(|pair| pair.strip_prefix("filter=")).and_then(percent_decoded) else {
        return text(StatusCode::BAD_REQUEST, "write POST /log?filter=info,postern::tls=debug\n".to_owned());
    };
    let before = state.log.current();
    match state.log.set_filter(&filter) {
        Ok(()) => {
            tracing::warn!(before, filter, "asked at the admin socket to change the log filter");
            state.audit.event(&Event::LeverUsed { lever: "log", detail: Some(&filter), uid: caller.uid() });
            json(StatusCode::OK, &serde_json::json!({ "filter": filter }))
        }
        Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
}

/// RFC 3986 §2.1; a filter holds `=`, `,` and `[…]`, which clients may or may not encode.
fn percent_decoded(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digit = |byte: u8| char::from(byte).to_digit(16);
            let value = digit(bytes.next()?)? * 16 + digit(bytes.next()?)?;
            decoded.push(u8::try_from(value).ok()?);
        } else {
            decoded.push(byte);
        }
    }
    String::from_utf8(decoded).ok()
}

fn ready(state: &AdminState) -> Answer {
    let missing = state.readiness.missing();
    let status = if missing.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json(status, &views::readiness(&missing, &state.notes()))
}

pub(super) fn json(status: StatusCode, value: &impl serde::Serialize) -> Answer {
    match serde_json::to_string_pretty(value) {
        Ok(body) => raw(status, "application/json", body + "\n"),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

pub(super) fn text(status: StatusCode, body: String) -> Answer {
    raw(status, "text/plain; charset=utf-8", body)
}

fn raw(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::{Door, Endpoint, NotFound, find, is_loopback_name, percent_decoded};
    use http::Method;

    #[test]
    fn a_door_shows_what_it_should_and_nothing_else() {
        let (get, post) = (Method::GET, Method::POST);
        for (door, method, path, expected) in [
            (Door::Metrics, &get, "/metrics", Ok(Endpoint::Metrics)),
            (Door::Metrics, &get, "/healthz/ready", Err(404)),
            (Door::Metrics, &get, "/config", Err(404)),
            (Door::Metrics, &post, "/metrics", Err(405)),
            (Door::Readiness, &get, "/healthz/ready", Ok(Endpoint::Ready)),
            (Door::Readiness, &get, "/metrics", Err(404)),
            (Door::Socket, &get, "/log", Ok(Endpoint::Log)),
            (Door::Socket, &post, "/log", Ok(Endpoint::SetLog)),
            (Door::Socket, &post, "/drain", Ok(Endpoint::Drain)),
            (Door::Socket, &get, "/drain", Err(405)),
            (Door::Socket, &get, "/inventory", Ok(Endpoint::Inventory)),
            (Door::Metrics, &get, "/inventory", Err(404)),
            (Door::ReadOnly, &get, "/log", Ok(Endpoint::Log)),
            (Door::ReadOnly, &post, "/log", Err(405)),
            (Door::ReadOnly, &post, "/drain", Err(404)),
            (Door::ReadOnly, &get, "/drain", Err(404)),
            (Door::ReadOnly, &get, "/config", Ok(Endpoint::Config)),
            (Door::ReadOnly, &get, "//config", Err(404)),
            (Door::ReadOnly, &get, "/Config", Err(404)),
            (Door::ReadOnly, &get, "/%63onfig", Err(404)),
            (Door::ReadOnly, &get, "/config/", Err(404)),
        ] {
            let found = find(door, method, path).map_err(|why| if why == NotFound::Path { 404 } else { 405 });
            assert_eq!(found, expected, "{door:?} {method} {path}");
        }
    }

    #[test]
    fn only_names_of_loopback_are_loopback() {
        for host in ["localhost", "LOCALHOST:15000", "127.0.0.1", "127.0.0.1:15000", "[::1]", "[::1]:15000"] {
            assert!(is_loopback_name(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "localhost:evil",
            "a@localhost",
            "::1",
        ] {
            assert!(!is_loopback_name(host), "{host}");
        }
    }

    #[test]
    fn decodes_a_query_once_and_refuses_broken_codes() {
        assert_eq!(percent_decoded("info%2Cpostern=debug").as_deref(), Some("info,postern=debug"));
        assert_eq!(percent_decoded("%2541").as_deref(), Some("%41"));
        for broken in ["%", "%4", "%zz", "%ff"] {
            assert_eq!(percent_decoded(broken), None, "{broken}");
        }
    }
}
