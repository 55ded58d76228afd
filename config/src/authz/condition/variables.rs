//! What a condition may name. `docs/authorization.md` says of each what it is, and when it is not known.

/// What is known of a request, and of the connection that it came over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variable {
    Method,
    Path,
    UrlPath,
    Query,
    Host,
    Scheme,
    Protocol,
    Headers,
    RequestId,
    UserAgent,
    Referer,
    Time,
    SourceAddress,
    SourcePort,
    DestinationPort,
    Mtls,
    ServerName,
    TlsVersion,
    PeerId,
    CallerId,
    PeerTrustDomain,
    PeerPath,
    PeerDigest,
    OwnId,
    TokenSubject,
    TokenIssuer,
    TokenAudience,
    TokenScopes,
    TokenClaims,
    Captures,
    Labels,
}

/// What a variable is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    Number,
    Truth,
    Moment,
    Texts,
    /// Text by name.
    Fields,
    /// Whatever an issuer wrote.
    Claims,
}

/// By the names that Envoy's RBAC and our own documents have for them; some have several.
pub const VARIABLES: &[(&str, Variable, Kind)] = &[
    ("request.method", Variable::Method, Kind::Text),
    ("request.path", Variable::Path, Kind::Text),
    ("request.url_path", Variable::UrlPath, Kind::Text),
    ("request.query", Variable::Query, Kind::Text),
    ("request.host", Variable::Host, Kind::Text),
    ("request.scheme", Variable::Scheme, Kind::Text),
    ("request.protocol", Variable::Protocol, Kind::Text),
    ("request.headers", Variable::Headers, Kind::Fields),
    ("request.id", Variable::RequestId, Kind::Text),
    ("request.useragent", Variable::UserAgent, Kind::Text),
    ("request.referer", Variable::Referer, Kind::Text),
    ("request.time", Variable::Time, Kind::Moment),
    ("source.address", Variable::SourceAddress, Kind::Text),
    ("source.port", Variable::SourcePort, Kind::Number),
    ("source.principal", Variable::PeerId, Kind::Text),
    ("destination.port", Variable::DestinationPort, Kind::Number),
    ("connection.mtls", Variable::Mtls, Kind::Truth),
    ("connection.requested_server_name", Variable::ServerName, Kind::Text),
    ("connection.tls_version", Variable::TlsVersion, Kind::Text),
    ("connection.uri_san_peer_certificate", Variable::PeerId, Kind::Text),
    ("connection.uri_san_local_certificate", Variable::OwnId, Kind::Text),
    ("connection.sha256_peer_certificate_digest", Variable::PeerDigest, Kind::Text),
    ("peer.spiffe_id", Variable::PeerId, Kind::Text),
    ("caller.spiffe_id", Variable::CallerId, Kind::Text),
    ("peer.trust_domain", Variable::PeerTrustDomain, Kind::Text),
    ("peer.path", Variable::PeerPath, Kind::Text),
    ("token.subject", Variable::TokenSubject, Kind::Text),
    ("token.issuer", Variable::TokenIssuer, Kind::Text),
    ("token.audience", Variable::TokenAudience, Kind::Texts),
    ("token.scopes", Variable::TokenScopes, Kind::Texts),
    ("token.claims", Variable::TokenClaims, Kind::Claims),
    ("captures", Variable::Captures, Kind::Fields),
    ("workload.labels", Variable::Labels, Kind::Fields),
];

impl Variable {
    pub(super) fn by_name(name: &str) -> Option<Self> {
        VARIABLES.iter().find(|(known, ..)| *known == name).map(|(_, variable, _)| *variable)
    }

    /// The first of its names, `""` of none: each stands in the table.
    pub fn name(self) -> &'static str {
        VARIABLES.iter().find(|(_, variable, _)| *variable == self).map_or("", |(name, ..)| name)
    }

    pub fn kind(self) -> Kind {
        VARIABLES.iter().find(|(_, variable, _)| *variable == self).map_or(Kind::Text, |(.., kind)| *kind)
    }

    /// Known of a request alone, not of a connection.
    pub fn is_of_request(self) -> bool {
        let is_of_line =
            matches!(self, Self::Method | Self::Query | Self::Host | Self::Scheme | Self::Protocol | Self::Time);
        is_of_line || self.is_of_path() || self.is_of_headers() || self.is_of_token()
    }

    pub fn is_of_token(self) -> bool {
        matches!(
            self,
            Self::TokenSubject | Self::TokenIssuer | Self::TokenAudience | Self::TokenScopes | Self::TokenClaims
        )
    }

    /// Read from the head's fields.
    pub fn is_of_headers(self) -> bool {
        matches!(self, Self::Headers | Self::RequestId | Self::UserAgent | Self::Referer)
    }

    /// Of which every plausible reading counts.
    pub fn is_of_path(self) -> bool {
        matches!(self, Self::Path | Self::UrlPath)
    }
}

/// Does a name begin like this one, `request` or `token`?
pub(super) fn is_namespace(name: &str) -> bool {
    VARIABLES.iter().any(|(known, ..)| known.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
}
