//! `identity.federation`: bundles of other trust domains, fetched from their bundle endpoints (SPIFFE Federation §5).
//!
//! Nothing is inferred and no profile falls back to the other (§5.1, §7.2): trust domain, address and profile are all
//! written down.

use super::{Identity, IdentitySource};
use crate::problem::Place;
use crate::read::{Field, FromNode, Keys, Reader, Section};
use crate::spiffe_id::{SpiffeId, TrustDomain};
use crate::values::FilePath;
use crate::yaml::Node;
use schemars::JsonSchema;
use std::fmt;
use std::path::PathBuf;
use url::{Host, Url};

/// One relationship: whose bundle, from where, and whom to believe there.
#[derive(Clone, Debug, PartialEq)]
pub struct BundleEndpoint {
    /// The bundle vouches for this trust domain and no other.
    pub trust_domain: TrustDomain,
    pub url: BundleUrl,
    pub profile: EndpointProfile,
    /// Follow redirects to another address of the endpoint (SPIFFE Federation §5.2.1.4). Default true.
    pub follow_redirects: bool,
    /// Where the last fetched bundle is kept, for the next start.
    pub keep: Option<PathBuf>,
}

/// How the endpoint proves who it is.
#[derive(Clone, Debug, PartialEq)]
pub enum EndpointProfile {
    /// A Web PKI certificate for the host of the URL (SPIFFE Federation §5.2.1). `None`: the system's roots.
    HttpsWeb { roots: Option<PathBuf> },
    /// An X509-SVID with exactly this ID (SPIFFE Federation §5.2.2). `bootstrap`: the bundle of the ID's trust domain,
    /// PEM, or the SPIFFE bundle format when its name ends in `.json`.
    HttpsSpiffe { id: SpiffeId, bootstrap: PathBuf },
}

/// The address of a bundle endpoint: `https`, a host, no user (SPIFFE Federation §5.2.1.1, §5.2.2.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleUrl(Url);

/// The rule that an address breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleUrlError {
    #[error("is not a URL")]
    Malformed,
    #[error("has a character that does not belong in a URL (RFC 3986 §2)")]
    Character,
    #[error("has a scheme other than `https` (SPIFFE Federation §5.2.1.1)")]
    Scheme,
    #[error("has a user (SPIFFE Federation §5.2.1.1)")]
    User,
    #[error("has a fragment, which is never sent")]
    Fragment,
}

impl BundleUrl {
    /// # Errors
    /// One variant a rule.
    pub fn parse(text: &str) -> Result<Self, BundleUrlError> {
        only_url_characters(text)?;
        Self::checked(Url::parse(text).map_err(|_reason| BundleUrlError::Malformed)?)
    }

    /// Where a redirect to `location`, which may be relative, leads (RFC 9110 §10.2.2).
    ///
    /// # Errors
    /// As for [`BundleUrl::parse`]: the target has to be a valid endpoint address itself (SPIFFE Federation §5.2.1.4).
    pub fn redirected(&self, location: &str) -> Result<Self, BundleUrlError> {
        only_url_characters(location)?;
        Self::checked(self.0.join(location).map_err(|_reason| BundleUrlError::Malformed)?)
    }

    fn checked(url: Url) -> Result<Self, BundleUrlError> {
        if url.scheme() != "https" {
            return Err(BundleUrlError::Scheme);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(BundleUrlError::User);
        }
        if url.fragment().is_some() {
            return Err(BundleUrlError::Fragment);
        }
        match url.host() {
            Some(_) => Ok(Self(url)),
            None => Err(BundleUrlError::Malformed),
        }
    }

    /// A name or an address, as a certificate has to carry it: without brackets.
    pub fn host(&self) -> String {
        match self.0.host() {
            Some(Host::Ipv6(address)) => address.to_string(),
            Some(host) => host.to_string(),
            None => String::new(),
        }
    }

    pub fn port(&self) -> u16 {
        self.0.port_or_known_default().unwrap_or(443)
    }

    /// For the `host` field of a request: the port only where it is not 443.
    pub fn authority(&self) -> &str {
        self.0.authority()
    }

    pub fn path_and_query(&self) -> String {
        match self.0.query() {
            Some(query) => format!("{}?{query}", self.0.path()),
            None => self.0.path().to_owned(),
        }
    }
}

impl fmt::Display for BundleUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The parser follows browsers: it repairs backslashes and drops line breaks. What needs repair is refused instead.
fn only_url_characters(text: &str) -> Result<(), BundleUrlError> {
    let allowed = |c: char| c.is_ascii_graphic() && !matches!(c, '\\' | '"' | '<' | '>' | '^' | '`' | '{' | '|' | '}');
    if text.chars().all(allowed) { Ok(()) } else { Err(BundleUrlError::Character) }
}

/// Another trust domain's bundle, fetched over HTTPS and kept current. For where neither agent nor files bring it.
#[derive(JsonSchema)]
#[schemars(
    rename = "BundleEndpoint",
    deny_unknown_fields,
    extend("required" = ["trust_domain", "url", "profile"])
)]
pub(crate) struct RawBundleEndpoint {
    /// The trust domain whose bundle it is. The bundle vouches for this one only.
    trust_domain: Field<TrustDomain>,
    /// Where the bundle is, in the SPIFFE bundle format: `https://HOST[:PORT]/PATH`.
    url: Field<BundleUrl>,
    /// How the endpoint proves who it is: `https_web` by a Web PKI certificate, `https_spiffe` by an X509-SVID. Neither
    /// falls back to the other (SPIFFE Federation §5.2).
    profile: Field<ProfileName>,
    /// With `https_spiffe`: the SPIFFE ID of the endpoint, exactly.
    spiffe_id: Field<SpiffeId>,
    /// With `https_spiffe`: the bundle of the endpoint's trust domain for the first fetch, got by a way you trust: PEM, or
    /// the SPIFFE bundle format when its name ends in `.json`. Later fetches believe the last fetched one, until
    /// the content of this file changes.
    bootstrap: Field<FilePath>,
    /// With `https_web`: PEM roots to believe instead of the system's.
    roots: Field<FilePath>,
    /// Follow redirects, up to five and to `https` only. The same certificate rules hold for every target.
    #[schemars(extend("default" = true))]
    follow_redirects: Field<bool>,
    /// A file that Postern writes: the last fetched bundle, which serves from the next start until the endpoint has
    /// answered. With `https_spiffe`, set it: the endpoint's authorities rotate, and the bootstrap bundle ages.
    keep: Field<FilePath>,
    #[schemars(skip)]
    place: Place,
}

#[derive(Clone, Copy, PartialEq)]
enum ProfileName {
    HttpsWeb,
    HttpsSpiffe,
}

impl FromNode for ProfileName {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        reader.word(node, &[("https_web", Self::HttpsWeb), ("https_spiffe", Self::HttpsSpiffe)])
    }
}

impl JsonSchema for ProfileName {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "BundleEndpointProfile".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "enum": ["https_web", "https_spiffe"] })
    }
}

impl FromNode for BundleUrl {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        reader.parsed(node, "an address such as `https://spire.partner.example:8443/`", Self::parse)
    }
}

impl Section for RawBundleEndpoint {
    const NAME: &'static str = "a bundle endpoint";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self {
            place: keys.place(),
            trust_domain: keys.required("trust_domain", "name the trust domain whose bundle it is"),
            url: keys.required("url", "write the endpoint's address: `https://HOST[:PORT]/PATH`"),
            profile: keys.required("profile", "write `https_web` or `https_spiffe`; neither is assumed"),
            spiffe_id: keys.optional("spiffe_id"),
            bootstrap: keys.optional("bootstrap"),
            roots: keys.optional("roots"),
            follow_redirects: keys.optional("follow_redirects"),
            keep: keys.optional("keep"),
        }
    }
}

impl RawBundleEndpoint {
    fn check(self, reader: &mut Reader) -> Option<BundleEndpoint> {
        let profile = match self.profile.get()? {
            ProfileName::HttpsWeb => {
                foreign(reader, self.spiffe_id.place(), "spiffe_id", "https_spiffe");
                foreign(reader, self.bootstrap.place(), "bootstrap", "https_spiffe");
                EndpointProfile::HttpsWeb { roots: self.roots.into_option().map(|roots| roots.0) }
            }
            ProfileName::HttpsSpiffe => {
                foreign(reader, self.roots.place(), "roots", "https_web");
                let missing = [
                    (self.spiffe_id.is_written(), "spiffe_id", "write the SPIFFE ID of the endpoint"),
                    (self.bootstrap.is_written(), "bootstrap", "name a file with the bundle to believe at first"),
                ];
                for (_, key, hint) in missing.into_iter().filter(|(written, ..)| !written) {
                    reader.problem(&self.place, format!("`{key}` is missing, and `https_spiffe` needs it"), hint);
                }
                if let (Some(place), Some(id)) = (self.spiffe_id.place(), self.spiffe_id.get())
                    && id.path().is_empty()
                {
                    let what = format!("`{id}` is a trust domain, and no endpoint's certificate has such an ID");
                    reader.problem(place, what, "write the endpoint's own ID, such as `spiffe://…/spire/server`");
                }
                EndpointProfile::HttpsSpiffe {
                    id: self.spiffe_id.into_option()?,
                    bootstrap: self.bootstrap.into_option()?.0,
                }
            }
        };
        Some(BundleEndpoint {
            trust_domain: self.trust_domain.into_option()?,
            url: self.url.into_option()?,
            profile,
            follow_redirects: self.follow_redirects.or(true),
            keep: self.keep.into_option().map(|keep| keep.0),
        })
    }
}

fn foreign(reader: &mut Reader, place: Option<&Place>, key: &str, profile: &str) {
    if let Some(place) = place {
        let hint = format!("remove it, or write `profile: {profile}`");
        reader.problem(place, format!("`{key}` belongs to the profile `{profile}` alone"), hint);
    }
}

/// All endpoints, each trust domain once and not also from a file. Bundles are never merged (SPIFFE Federation §4.2).
pub(super) fn check_all(endpoints: Vec<RawBundleEndpoint>, identity: &mut Identity, reader: &mut Reader) {
    for raw in endpoints {
        let place = raw.trust_domain.place().unwrap_or(&raw.place).clone();
        let keep_place = raw.keep.place().unwrap_or(&raw.place).clone();
        let Some(endpoint) = raw.check(reader) else { continue };
        let known = &identity.federation;
        if known.iter().any(|known| known.trust_domain == endpoint.trust_domain) {
            let what = format!("`{}` has another bundle endpoint already", endpoint.trust_domain);
            reader.problem(&place, what, "keep one of them: bundles are not merged");
            continue;
        }
        if let IdentitySource::Files { federated, .. } = &identity.source
            && federated.iter().any(|(domain, _)| *domain == endpoint.trust_domain)
        {
            let what = format!("`{}` is among the `federated` files as well", endpoint.trust_domain);
            reader.problem(&place, what, "keep the file or the endpoint: bundles are not merged");
            continue;
        }
        let same_file = |known: &&BundleEndpoint| known.keep.is_some() && known.keep == endpoint.keep;
        if let Some(other) = known.iter().find(same_file) {
            let what = format!("`{}` keeps its bundle in the same file", other.trust_domain);
            reader.problem(&keep_place, what, "name a file for each");
            continue;
        }
        identity.federation.push(endpoint);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SPIFFE Federation §5.2.1.1 and §5.2.2.1.
    #[test]
    fn urls_are_https_without_user() {
        for (text, error) in [
            ("http://p.example/", BundleUrlError::Scheme),
            ("spiffe://p.example/", BundleUrlError::Scheme),
            ("https://user@p.example/", BundleUrlError::User),
            ("https://:secret@p.example/", BundleUrlError::User),
            ("https://p.example/#x", BundleUrlError::Fragment),
            ("https://", BundleUrlError::Malformed),
            ("p.example/bundle", BundleUrlError::Malformed),
            ("", BundleUrlError::Malformed),
            ("https://p.example:99999/", BundleUrlError::Malformed),
            ("https:\\\\p.example/", BundleUrlError::Character),
            ("https://p.exa\nmple/", BundleUrlError::Character),
            ("https://p.example/ bundle", BundleUrlError::Character),
            ("https://pärtner.example/", BundleUrlError::Character),
        ] {
            assert_eq!(BundleUrl::parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn urls_are_taken_apart() {
        let table = [
            ("https://P.example/bundle.json?v=1", "p.example", 443, "p.example", "/bundle.json?v=1"),
            ("https://p.example:8443", "p.example", 8443, "p.example:8443", "/"),
            ("https://[::1]:8443/x", "::1", 8443, "[::1]:8443", "/x"),
            ("https://192.0.2.1/", "192.0.2.1", 443, "192.0.2.1", "/"),
        ];
        for (text, host, port, authority, path) in table {
            let url = BundleUrl::parse(text).unwrap();
            let parts = (url.host(), url.port(), url.authority().to_owned(), url.path_and_query());
            assert_eq!(parts, (host.to_owned(), port, authority.to_owned(), path.to_owned()), "{text}");
        }
    }

    /// SPIFFE Federation §5.2.1.4: a redirect's target has to be a valid endpoint address.
    #[test]
    fn redirects_are_resolved_and_checked() {
        let from = BundleUrl::parse("https://p.example/a/b").unwrap();
        let to = |location: &str| from.redirected(location).map(|url| url.to_string());
        assert_eq!(to("c"), Ok("https://p.example/a/c".to_owned()));
        assert_eq!(to("/c?d"), Ok("https://p.example/c?d".to_owned()));
        assert_eq!(to("//q.example/c"), Ok("https://q.example/c".to_owned()));
        assert_eq!(to("https://q.example:1/"), Ok("https://q.example:1/".to_owned()));
        assert_eq!(to("http://p.example/"), Err(BundleUrlError::Scheme));
        assert_eq!(to("https://u:p@p.example/"), Err(BundleUrlError::User));
        assert_eq!(to("file:///etc/passwd"), Err(BundleUrlError::Scheme));
    }
}
