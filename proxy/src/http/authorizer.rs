//! Asks an authorizer about a request that our own rules allow, and does what it says. What it is asked, and what its answer
//! means, is `authz/external`.

use super::body::{BodyError, RequestBody};
use super::http1::fields::read_length;
use super::record::Recorder;
use crate::authz::external::proto::{CHECK, CheckResponse};
use crate::authz::external::{
    AnswerFault, AuthorizerPlan, Change, Facts, Party, SentBody, Verdict, grpc_question, http_question, read_grpc,
    read_http,
};
use crate::connection::Connection;
use crate::policy::{Door, Policy};
use crate::refusal::{Refusal, Refused};
use crate::session::InFlight;
use crate::telemetry::ExternalVerdict;
use crate::upstream::client::{Destination, HttpVersion, send};
use crate::upstream::lease::Answer;
use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, TE};
use http::request::Parts;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version};
use http_body::Body;
use postern_config::{CheckForm, CheckedBody, OnError, OverBody};
use prost::Message;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Instant, SystemTime};

/// Of an answer's body, or of its message.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// gRPC over HTTP/2, "Length-Prefixed-Message".
const PREFIX_BYTES: usize = 5;

/// What a request said of itself before its head was made the next hop's.
#[derive(Clone)]
pub struct Before {
    version: Version,
    scheme: Option<Scheme>,
}

impl Before {
    pub fn of(head: &Parts) -> Self {
        Self { version: head.version, scheme: head.uri.scheme().cloned() }
    }
}

/// A request whose authorizer is asked.
pub struct Asking<'a> {
    pub connection: &'a Rc<Connection>,
    pub policy: &'a Policy,
    pub plan: &'a AuthorizerPlan,
    pub before: Before,
    pub request: &'a Rc<InFlight>,
}

/// Why there is no answer that could be followed.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("no answer within {0:?}")]
    Late(std::time::Duration),
    #[error("{}: {}", .0.refusal.code(), .0.detail)]
    Unreachable(Refused),
    #[error("its answer broke off")]
    Body(#[from] BodyError),
    #[error("its answer has more than {ANSWER_BYTES_MAX} bytes")]
    TooLarge,
    #[error("it answered with the HTTP status {0} where gRPC has 200")]
    NotGrpc(StatusCode),
    #[error("it answered with the gRPC status {code}: {message}")]
    Grpc { code: String, message: String },
    #[error("its answer is no message")]
    NoMessage,
    #[error("its answer is no CheckResponse")]
    Malformed(#[from] prost::DecodeError),
    #[error("the question has no path")]
    Path(#[from] http::uri::InvalidUri),
    #[error(transparent)]
    Fault(#[from] AnswerFault),
}

impl Asking<'_> {
    /// Changes the request as the authorizer wants; what it wants of the response is returned.
    ///
    /// # Errors
    /// `ExternalDenied` in the authorizer's words; `ExternalUnavailable` where there was no answer to follow, unless the file
    /// allows that; and what is wrong with a body that it was to be shown.
    ///
    /// # Cancellation
    /// Dropping it ends the question too.
    pub async fn authorize(
        self,
        head: &mut Parts,
        body: &mut RequestBody,
        recorder: &mut Recorder,
    ) -> Result<Vec<Change>, Refused> {
        let sent = match &self.plan.config.body {
            // Where there is none, nothing is said of it, as in Envoy.
            Some(wanted) if head.method != Method::CONNECT && !body.is_end_stream() => {
                Some(self.read_body(*wanted, head, body).await?)
            }
            _ => None,
        };
        let (asked, name) = (Instant::now(), &self.plan.name);
        let timeout = self.plan.config.timeout;
        let id = recorder.decision_id();
        let answer = match tokio::time::timeout(timeout, self.ask(head, sent, &id)).await {
            Ok(answer) => answer,
            Err(_) => Err(AskError::Late(timeout)),
        };
        let (verdict, result) = match answer {
            Ok(Verdict::Allowed(changes)) => {
                let claims = self.request.claim_headers.get().map(|names| &**names).unwrap_or_default();
                match changes.apply(head, claims).map_err(AskError::from) {
                    Ok(()) => (ExternalVerdict::Allowed, Ok(changes.response)),
                    // The head may be half changed: there is no letting it through.
                    Err(error) => (ExternalVerdict::ErrorRefused, Err(unavailable(name, &error))),
                }
            }
            Ok(Verdict::Denied(denial)) => (ExternalVerdict::Denied, Err(Refused::by_authorizer(name, denial))),
            Err(error) => match (self.plan.config.on_error, &error) {
                // A yes under a condition that cannot be met is no yes.
                (OnError::Allow, error) if !is_condition(error) => (ExternalVerdict::ErrorAllowed, Ok(Vec::new())),
                _ => (ExternalVerdict::ErrorRefused, Err(unavailable(name, &error))),
            },
        };
        self.plan.counters.count(verdict, asked.elapsed());
        recorder.authorized(name, verdict, asked.elapsed());
        result
    }

    async fn read_body(&self, wanted: CheckedBody, head: &Parts, body: &mut RequestBody) -> Result<SentBody, Refused> {
        let CheckedBody { max, over } = wanted;
        let too_large =
            || Refused::new(Refusal::BodyTooLarge, format!("authorizer {} is shown {max} bytes", self.plan.name));
        let announced = head.headers.get(CONTENT_LENGTH).and_then(read_length);
        if over == OverBody::Refuse && announced.is_some_and(|length| length > max as u64) {
            return Err(too_large());
        }
        // gRPC's streams may be silent for hours, and are not waited for as long.
        let reading = tokio::time::timeout(self.policy.timeouts.body_idle, body.read_ahead(max));
        let (bytes, is_partial) = match reading.await {
            Ok(Ok(read)) => read,
            Ok(Err(error)) => return Err(Refused::new(Refusal::BadRequest, error.to_string())),
            Err(_) => return Err(Refused::new(Refusal::BodyTimeout, "its authorizer was to be shown the body")),
        };
        if is_partial && over == OverBody::Refuse {
            return Err(too_large());
        }
        Ok(SentBody { bytes, is_partial })
    }

    async fn ask(&self, head: &Parts, sent: Option<SentBody>, id: &str) -> Result<Verdict, AskError> {
        let facts = self.facts(head, sent.as_ref(), id);
        match self.plan.config.form {
            CheckForm::Grpc => {
                let question = grpc_question(self.plan, &facts);
                let (status, headers, body, trailers) = self.exchange(self.grpc_request(&question)).await?;
                let message = grpc_message(status, &headers, &body, trailers.as_ref())?;
                Ok(read_grpc(CheckResponse::decode(message)?)?)
            }
            CheckForm::Http(_) => {
                let (question, body) = http_question(self.plan, &facts)?;
                let own = RequestBody::Own(Some(body).filter(|body| !body.is_empty()));
                let (status, headers, body, _) = self.exchange(question.map(|()| own)).await?;
                Ok(read_http(self.plan, status, &headers, body)?)
            }
        }
    }

    fn facts<'b>(&'b self, head: &'b Parts, body: Option<&'b SentBody>, id: &'b str) -> Facts<'b> {
        let connection = self.connection;
        let trust = connection.session.trust();
        let peer = trust.map(|trust| &trust.peer);
        let shown = peer.filter(|_| self.plan.config.certificate).and_then(|peer| peer.chain.first());
        let of_connection = if trust.is_some() { "https" } else { "http" };
        let (address, socket) = match &connection.door {
            Door::At(address) => (Some(*address), None),
            Door::Socket(path) => (None, Some(&**path)),
            Door::Port(_) => (None, None),
        };
        Facts {
            head,
            version: self.before.version,
            scheme: match (self.before.version, &self.before.scheme) {
                (Version::HTTP_2, Some(scheme)) => scheme.as_str(),
                _ => of_connection,
            },
            id,
            source: Party {
                address: connection.session.remote.address(),
                socket: None,
                principal: peer.map_or("", |peer| peer.id.as_str()),
                certificate: shown.map(|leaf| &**leaf),
            },
            destination: Party {
                address: connection.original().or(address),
                socket,
                principal: trust.map_or("", |trust| trust.own.id.as_str()),
                certificate: None,
            },
            time: SystemTime::now(),
            body,
            received: self.request.bytes_from_caller.get(),
        }
    }

    fn grpc_request(&self, question: &impl Message) -> Request<RequestBody> {
        let mut frame = BytesMut::with_capacity(PREFIX_BYTES + question.encoded_len());
        frame.put_u8(0);
        // A question is shorter than a head and a body may be together, which is far below 4 GiB.
        frame.put_u32(u32::try_from(question.encoded_len()).unwrap_or(u32::MAX));
        frame.extend_from_slice(&question.encode_to_vec());
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(self.plan.authority.clone());
        parts.path_and_query = Some(PathAndQuery::from_static(CHECK));
        let mut request = Request::new(RequestBody::Own(Some(frame.freeze())));
        *request.method_mut() = Method::POST;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        let milliseconds = self.plan.config.timeout.as_millis();
        if let Ok(timeout) = HeaderValue::try_from(format!("{milliseconds}m")) {
            headers.insert("grpc-timeout", timeout);
        }
        request
    }

    /// Sends a question, and reads the answer whole.
    async fn exchange(
        &self,
        question: Request<RequestBody>,
    ) -> Result<(StatusCode, HeaderMap, Bytes, Option<HeaderMap>), AskError> {
        let version = match self.plan.config.form {
            CheckForm::Grpc => HttpVersion::Http2,
            CheckForm::Http(_) => HttpVersion::Http1,
        };
        let to = Destination { plan: &self.plan.service, host: Some(self.plan.authority.host()), version };
        let sending = send(&self.connection.worker, &to, question);
        let Answer { response, mut lease } = sending.await.map_err(AskError::Unreachable)?;
        lease.answered(None);
        let (head, mut body) = response.into_parts();
        let (mut read, mut trailers) = (BytesMut::new(), None);
        while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            match frame?.into_data() {
                Ok(data) if read.len() + data.len() > ANSWER_BYTES_MAX => return Err(AskError::TooLarge),
                Ok(data) => read.extend_from_slice(&data),
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        lease.finished();
        Ok((head.status, head.headers, read.freeze(), trailers))
    }
}

/// It said yes, and what else it said cannot be done.
fn is_condition(error: &AskError) -> bool {
    matches!(error, AskError::Fault(fault) if !matches!(fault, AnswerFault::ServerError(_) | AnswerFault::Undecided(_)))
}

fn unavailable(name: &str, error: &AskError) -> Refused {
    let why = crate::upstream::client::chain(error);
    Refused::new(Refusal::ExternalUnavailable, format!("authorizer {name}: {why}"))
}

/// The one message of a unary answer, when its status is OK (gRPC over HTTP/2, "Responses").
fn grpc_message<'a>(
    status: StatusCode,
    headers: &HeaderMap,
    body: &'a [u8],
    trailers: Option<&HeaderMap>,
) -> Result<&'a [u8], AskError> {
    if status != StatusCode::OK {
        return Err(AskError::NotGrpc(status));
    }
    // An answer without messages has its status in the head.
    let said = |name: &str| trailers.and_then(|it| it.get(name)).or_else(|| headers.get(name));
    let text =
        |name: &str| said(name).map(|value| String::from_utf8_lossy(value.as_bytes()).chars().take(200).collect());
    match said("grpc-status") {
        Some(code) if code == "0" => {}
        _ => {
            let code = text("grpc-status").unwrap_or_else(|| "that is missing".to_owned());
            return Err(AskError::Grpc { code, message: text("grpc-message").unwrap_or_default() });
        }
    }
    let (prefix, message) = body.split_at_checked(PREFIX_BYTES).ok_or(AskError::NoMessage)?;
    // Compression was not offered.
    match <[u8; PREFIX_BYTES]>::try_from(prefix) {
        Ok([0, length @ ..]) if u32::from_be_bytes(length) as usize == message.len() => Ok(message),
        _ => Err(AskError::NoMessage),
    }
}

#[cfg(test)]
mod tests;
