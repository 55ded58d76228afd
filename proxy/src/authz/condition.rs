//! What a rule's `when` is lent of a request, and whether it holds for all that the request may mean. Pure.

use super::rule::Captured;
use super::{Asked, Labels, Principal};
use crate::token::Verified;
use http::header::{CONNECTION, HeaderMap, REFERER, USER_AGENT};
use http::{HeaderName, Version};
use postern_config::SpiffeId;
use postern_config::authz::{Condition, ConditionError, Effect, Fact, Facts, NamedTexts, Variable, is_hidden_header};
use std::borrow::Cow;

const REQUEST_ID: &str = "x-request-id";

/// What is known of a connection besides who calls and from where.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConnectionFacts<'a> {
    /// The other end's. `None`: it has none.
    pub source_port: Option<u16>,
    /// `None`: no TLS.
    pub tls: Option<TlsFacts<'a>>,
    /// `None`: not known yet.
    pub version: Option<Version>,
}

/// What a handshake with a peer established.
#[derive(Clone, Copy, Debug)]
pub struct TlsFacts<'a> {
    /// What the caller asked for. `None`: nothing.
    pub server_name: Option<&'a str>,
    pub own: Option<&'a SpiffeId>,
    /// SHA-256 of the caller's certificate.
    pub fingerprint: Option<&'a [u8; 32]>,
}

/// Whether the condition holds: for a rule that allows, in each way in which the request can be read; for one that denies, in any.
///
/// # Errors
/// It could not be decided. Then a rule that allows does not fit, and one that denies does.
pub fn holds(
    condition: &Condition,
    asked: &Asked<'_>,
    captured: &Captured<'_>,
    labels: &Labels,
    effect: Effect,
) -> Result<bool, ConditionError> {
    let readings: &mut dyn Iterator<Item = &str> = match &asked.request {
        None => &mut std::iter::once(""),
        Some(request) if condition.uses().iter().any(|variable| variable.is_of_path()) => &mut request.readings.iter(),
        Some(request) => &mut std::iter::once(request.readings.raw()),
    };
    let headers = asked.request.as_ref().and_then(|request| request.headers);
    // What `Connection` names does not go on: nobody knows whether the application would have looked at it.
    let may_end_here = condition.needs_headers() && headers.is_some_and(|headers| headers.contains_key(CONNECTION));
    let mut is_asked = false;
    for path in readings {
        for all_headers in if may_end_here { &[true, false][..] } else { &[true] } {
            is_asked = true;
            let fields = headers.map(|headers| HeaderTexts { headers, all: *all_headers });
            let lent = Lent { asked, captured: Captures(captured), labels, path, headers: fields };
            match (condition.holds(&lent), effect) {
                (Ok(true), Effect::Deny) => return Ok(true),
                (Ok(false), Effect::Require | Effect::Allow) => return Ok(false),
                (Err(error), _) => return Err(error),
                (Ok(_), _) => {}
            }
        }
    }
    Ok(is_asked && effect != Effect::Deny)
}

/// What the condition asks for, and what it is lent, for people: of the path as it came.
pub fn seen(
    condition: &Condition,
    asked: &Asked<'_>,
    captured: &Captured<'_>,
    labels: &Labels,
) -> Vec<(&'static str, String)> {
    let request = asked.request.as_ref();
    let fields = request.and_then(|request| request.headers).map(|headers| HeaderTexts { headers, all: true });
    let path = request.map_or("", |request| request.readings.raw());
    condition.seen(&Lent { asked, captured: Captures(captured), labels, path, headers: fields })
}

struct Lent<'a> {
    asked: &'a Asked<'a>,
    captured: Captures<'a>,
    labels: &'a Labels,
    /// One reading of it.
    path: &'a str,
    headers: Option<HeaderTexts<'a>>,
}

impl Facts for Lent<'_> {
    fn fact(&self, variable: Variable) -> Option<Fact<'_>> {
        match variable {
            Variable::Captures => Some(Fact::Fields(&self.captured)),
            Variable::Labels => Some(Fact::Fields(self.labels)),
            Variable::Time => Some(Fact::Moment(self.asked.now)),
            variable if variable.is_of_headers() => self.header(variable),
            variable if variable.is_of_token() => token(self.asked.request.as_ref()?.token?, variable),
            variable if variable.is_of_request() => self.request(variable),
            variable => self.connection(variable),
        }
    }
}

impl Lent<'_> {
    fn header(&self, variable: Variable) -> Option<Fact<'_>> {
        let fields = self.headers.as_ref()?;
        let name = match variable {
            Variable::UserAgent => USER_AGENT.as_str(),
            Variable::Referer => REFERER.as_str(),
            Variable::RequestId => REQUEST_ID,
            _ => return Some(Fact::Fields(fields)),
        };
        fields.get(name).map(Fact::Text)
    }

    fn request(&self, variable: Variable) -> Option<Fact<'_>> {
        let request = self.asked.request.as_ref()?;
        Some(Fact::Text(match variable {
            Variable::Method => request.method.as_str().into(),
            Variable::UrlPath => self.path.into(),
            Variable::Path => match request.query {
                Some(query) => Cow::Owned(format!("{}?{query}", self.path)),
                None => self.path.into(),
            },
            Variable::Query => request.query.unwrap_or_default().into(),
            Variable::Host => request.host.into(),
            Variable::Scheme => if self.asked.connection.tls.is_some() { "https" } else { "http" }.into(),
            Variable::Protocol => match self.asked.connection.version? {
                Version::HTTP_2 => "HTTP/2",
                _ => "HTTP/1.1",
            }
            .into(),
            _ => return None,
        }))
    }

    fn connection(&self, variable: Variable) -> Option<Fact<'_>> {
        let connection = &self.asked.connection;
        let peer = match self.asked.principal {
            Principal::Spiffe(id) => Some(id),
            Principal::Anonymous => None,
        };
        Some(match variable {
            Variable::SourcePort => Fact::Number(connection.source_port?.into()),
            Variable::SourceAddress => Fact::Text(match (self.asked.source?, connection.source_port) {
                (source, Some(port)) => std::net::SocketAddr::new(source, port).to_string().into(),
                (source, None) => source.to_string().into(),
            }),
            Variable::DestinationPort => Fact::Number(self.asked.port?.into()),
            Variable::Mtls => Fact::Truth(peer.is_some()),
            Variable::ServerName => Fact::Text(connection.tls?.server_name?.into()),
            // Between sidecars there is no other (DESIGN, decisions).
            Variable::TlsVersion => Fact::Text(connection.tls.map(|_| "TLSv1.3")?.into()),
            Variable::OwnId => Fact::Text(connection.tls?.own?.as_str().into()),
            Variable::PeerDigest => Fact::Text(hex(connection.tls?.fingerprint?).into()),
            Variable::PeerId => Fact::Text(peer?.as_str().into()),
            Variable::CallerId => Fact::Text(self.asked.caller()?.as_str().into()),
            Variable::PeerTrustDomain => Fact::Text(split(peer?).0.into()),
            Variable::PeerPath => Fact::Text(split(peer?).1.into()),
            _ => return None,
        })
    }
}

/// Trust domain and path (SPIFFE ID §2).
fn split(id: &SpiffeId) -> (&str, &str) {
    let rest = id.as_str().trim_start_matches("spiffe://");
    rest.split_at(rest.find('/').unwrap_or(rest.len()))
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn token(token: &Verified, variable: Variable) -> Option<Fact<'_>> {
    Some(match variable {
        Variable::TokenSubject => Fact::Text(token.subject.as_str().into()),
        Variable::TokenIssuer => Fact::Text(token.registered.issuer.as_deref()?.into()),
        Variable::TokenAudience => Fact::Texts(&token.registered.audience),
        Variable::TokenScopes => Fact::Texts(&token.registered.scopes),
        Variable::TokenClaims => Fact::Claims(&token.claims),
        _ => return None,
    })
}

#[derive(Debug)]
struct Captures<'a>(&'a Captured<'a>);

impl NamedTexts for Captures<'_> {
    fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| Cow::Borrowed(*value))
    }

    fn names(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| name.as_str()).collect()
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

/// Several fields of a name are one, joined by commas (RFC 9110 §5.3). Claims of callers about themselves, and credentials, are
/// not shown.
#[derive(Debug)]
struct HeaderTexts<'a> {
    headers: &'a HeaderMap,
    /// Also what `Connection` names.
    all: bool,
}

impl HeaderTexts<'_> {
    fn shows(&self, name: &HeaderName) -> bool {
        !is_hidden_header(name.as_str()) && (self.all || !super::rule::ends_here(self.headers, name))
    }
}

impl NamedTexts for HeaderTexts<'_> {
    fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        let name: HeaderName = name.parse().ok()?;
        let mut values = self.headers.get_all(&name).iter();
        let first = values.next().filter(|_| self.shows(&name))?;
        // Bytes that are no text never equal one.
        let mut text = String::from_utf8_lossy(first.as_bytes());
        for value in values {
            let text = text.to_mut();
            text.push(',');
            text.push_str(&String::from_utf8_lossy(value.as_bytes()));
        }
        Some(text)
    }

    fn names(&self) -> Vec<&str> {
        self.headers.keys().filter(|name| self.shows(name)).map(HeaderName::as_str).collect()
    }

    fn len(&self) -> usize {
        self.headers.keys().filter(|name| self.shows(name)).count()
    }
}
