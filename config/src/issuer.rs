//! `issuers:`: who issues tokens besides the mesh, and where the keys are that those are verified with.

use crate::authz::{FieldMatch, Fields};
use crate::identity::BundleUrl;
use crate::problem::Place;
use crate::read::{Field, Keys, Reader, Section};
use crate::values::{At, FilePath, Name, OneOrMany};
use schemars::JsonSchema;
use std::path::PathBuf;
use std::sync::Arc;

/// As many keep their keys; each has a task of its own.
const ISSUERS_MAX: usize = 64;
/// What a route writes for tokens of the mesh itself.
pub(crate) const SPIFFE: &str = "spiffe";
/// What the verifier knows: RFC 7518 §3.3 to §3.5. Neither `none` nor a shared secret (RFC 8725 §3.1, §3.2).
const ALGORITHMS: [&str; 9] = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"];

/// An issuer of tokens that is no trust domain.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenIssuer {
    pub name: String,
    /// `iss`, to the byte (RFC 7519 §4.1.1; OpenID Connect Discovery §4.3).
    pub issuer: String,
    pub keys: IssuerKeysFrom,
    /// Never empty.
    pub algorithms: Vec<String>,
    /// What each of its tokens has to say, whatever a route's rules ask for.
    pub required_claims: Vec<FieldMatch>,
    /// PEM roots to believe instead of the system's.
    pub roots: Option<PathBuf>,
    /// Keys may be fetched from this host and from private networks. Never from a cloud's metadata service.
    pub allow_private_addresses: bool,
}

/// Where an issuer's keys are.
#[derive(Clone, Debug, PartialEq)]
pub enum IssuerKeysFrom {
    /// Below the issuer's own URL: `/.well-known/openid-configuration` (OpenID Connect Discovery §4).
    Discovery(BundleUrl),
    Url(BundleUrl),
    /// Read again when it changes.
    File(PathBuf),
}

/// Somebody else than the mesh whose tokens routes may take: Kubernetes, a CI system, a cloud, an OpenID provider.
#[derive(JsonSchema)]
#[schemars(rename = "Issuer", deny_unknown_fields, extend("required" = ["name", "issuer"]))]
pub(crate) struct RawIssuer {
    /// How routes, logs and metrics call it.
    name: Field<Name>,
    /// `iss` of its tokens, compared byte by byte. Mostly an address, below which its keys are discovered
    /// (`/.well-known/openid-configuration`).
    issuer: Field<At<String>>,
    /// Where its keys are (a JWK Set), instead of what discovery says: `https://HOST[:PORT]/PATH`.
    #[schemars(extend("x-default" = "discovered"))]
    jwks_url: Field<BundleUrl>,
    /// A file with its keys (a JWK Set), read again when it changes. Then nothing is fetched.
    #[schemars(extend("x-default" = "discovered"))]
    jwks_file: Field<FilePath>,
    /// Algorithms that its tokens may be signed with.
    #[schemars(extend("x-default" = "RS, PS and ES with 256, 384 and 512 bits"))]
    algorithms: Field<OneOrMany<At<String>>>,
    /// What each of its tokens has to say besides being good: `name: value`, or a list of values of which one fits. An issuer that
    /// serves the whole world, as public CI systems do, needs one that names you.
    #[schemars(extend("x-default" = "nothing"))]
    required_claims: Field<Fields>,
    /// PEM roots to believe when keys are fetched, instead of the system's.
    roots: Field<FilePath>,
    /// Fetch keys also from loopback, link-local and private addresses, as those of an issuer within the cluster are. Never from
    /// a cloud's metadata service.
    #[schemars(extend("default" = false))]
    allow_private_addresses: Field<bool>,
    #[schemars(skip)]
    place: Place,
}

impl Section for RawIssuer {
    const NAME: &'static str = "an issuer";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self {
            place: keys.place(),
            name: keys.required("name", "name it: routes take its tokens by `token: { issuers: [NAME] }`"),
            issuer: keys.required("issuer", "write what `iss` says in its tokens, to the letter"),
            jwks_url: keys.optional("jwks_url"),
            jwks_file: keys.optional("jwks_file"),
            algorithms: keys.optional("algorithms"),
            required_claims: keys.optional("required_claims"),
            roots: keys.optional("roots"),
            allow_private_addresses: keys.optional("allow_private_addresses"),
        }
    }
}

impl RawIssuer {
    /// `None`: what is wrong with it has been told.
    fn check(self, reader: &mut Reader) -> Option<TokenIssuer> {
        let algorithms = check_algorithms(self.algorithms, reader)?;
        let required_claims = self.required_claims.or_default().0;
        let fetch_keys =
            [("roots", self.roots.place()), ("allow_private_addresses", self.allow_private_addresses.place())];
        if let (Some(file), Some(_)) = (self.jwks_file.place(), self.jwks_url.place()) {
            reader.problem(file, "the keys are in a file and at an address", "keep `jwks_file` or `jwks_url`");
            return None;
        }
        for (key, place) in fetch_keys {
            if let (Some(place), true) = (place, self.jwks_file.is_written()) {
                let what = format!("`{key}` is about fetching, and with `jwks_file` nothing is fetched");
                reader.problem(place, what, "remove one of the two");
            }
        }
        let At { value: issuer, place } = self.issuer.into_option()?;
        let keys = if self.jwks_file.is_written() {
            IssuerKeysFrom::File(self.jwks_file.into_option()?.0)
        } else if self.jwks_url.is_written() {
            IssuerKeysFrom::Url(self.jwks_url.into_option()?)
        } else {
            // OpenID Connect Discovery §4: a slash at the end is left out before the suffix is added.
            let address = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
            match BundleUrl::parse(&address) {
                Ok(url) if !issuer.contains('?') => IssuerKeysFrom::Discovery(url),
                _ => {
                    let what = format!("`{issuer}` is no `https` address below which keys could be discovered");
                    reader.problem(&place, what, "write `jwks_file:` or `jwks_url:` with where its keys are");
                    return None;
                }
            }
        };
        if issuer.is_empty() || issuer.starts_with("spiffe://") {
            let hint = "write what `iss` says in its tokens; JWT-SVIDs need no issuer here";
            reader.problem(&place, format!("`{issuer}` is no issuer of other tokens than the mesh's"), hint);
            return None;
        }
        Some(TokenIssuer {
            name: self.name.into_option()?.0,
            issuer,
            keys,
            algorithms,
            required_claims: required_claims.into_iter().map(|(name, _, values)| FieldMatch { name, values }).collect(),
            roots: self.roots.into_option().map(|roots| roots.0),
            allow_private_addresses: self.allow_private_addresses.or(false),
        })
    }
}

fn check_algorithms(written: Field<OneOrMany<At<String>>>, reader: &mut Reader) -> Option<Vec<String>> {
    let Some(place) = written.place().cloned() else {
        return Some(ALGORITHMS.iter().map(|&name| name.to_owned()).collect());
    };
    let written = written.into_option()?.0;
    let hint = format!("write some of {}, or remove the key", ALGORITHMS.join(", "));
    if written.is_empty() {
        reader.problem(&place, "`algorithms` allows none", &hint);
        return None;
    }
    for At { value, place } in &written {
        if !ALGORITHMS.contains(&value.as_str()) {
            // RFC 8725 §3.1: with `none` everybody signs, and with a shared secret everybody who can verify.
            reader.problem(place, format!("tokens signed with `{value}` are not taken"), &hint);
        }
    }
    let is_known = |it: &At<String>| ALGORITHMS.contains(&it.value.as_str());
    written.iter().all(is_known).then(|| written.into_iter().map(|it| it.value).collect())
}

/// Each name and each `iss` once: a token is one issuer's.
pub(crate) fn check_all(written: Vec<RawIssuer>, reader: &mut Reader) -> Vec<Arc<TokenIssuer>> {
    let mut checked: Vec<Arc<TokenIssuer>> = Vec::new();
    for raw in written {
        let place = raw.place.clone();
        let Some(issuer) = raw.check(reader) else { continue };
        if issuer.name == SPIFFE {
            let hint = "choose another: routes write `spiffe` for tokens of the mesh";
            reader.problem(&place, "no issuer can be named `spiffe`", hint);
        } else if let Some(other) = checked.iter().find(|it| it.name == issuer.name || it.issuer == issuer.issuer) {
            let what = format!("the issuer `{}` has the name or the `issuer` of `{}`", issuer.name, other.name);
            reader.problem(&place, what, "give each a name of its own, and write each `issuer` once");
        } else if checked.len() == ISSUERS_MAX {
            reader.problem(&place, format!("there are more than {ISSUERS_MAX} issuers"), "remove what no route takes");
            break;
        } else {
            checked.push(Arc::new(issuer));
        }
    }
    checked
}

#[cfg(test)]
mod tests {
    use super::IssuerKeysFrom;
    use crate::Config;
    use std::path::Path;

    fn load(issuer: &str, route: &str) -> Result<Config, String> {
        let text = format!(
            "identity: {{ files: {{ certificate: /c, key: /k, bundle: /b }} }}
issuers: [{issuer}]
inbound:
  - {{ port: 80, allow: [{{ spiffe: 'spiffe://td/a' }}], routes: [{{ match: {{}}, audience: a, {route} }}] }}\n"
        );
        Config::from_str(Path::new("t.yaml"), &text).map_err(|problems| problems.to_string())
    }

    const CI: &str = "name: ci, issuer: 'https://ci.example/'";
    const TAKES: &str = "binding: bearer, token: { issuers: ci }";

    #[test]
    fn an_issuer_says_where_its_keys_are() {
        for (keys, found) in [
            ("", "https://ci.example/.well-known/openid-configuration"),
            (", jwks_url: 'https://keys.example/jwks'", "https://keys.example/jwks"),
            (", jwks_file: /keys.json", "/keys.json"),
        ] {
            let config = load(&format!("{{ {CI}{keys} }}"), TAKES).expect(keys);
            let from = match &config.identity.issuers[0].keys {
                IssuerKeysFrom::Discovery(url) | IssuerKeysFrom::Url(url) => url.to_string(),
                IssuerKeysFrom::File(path) => path.display().to_string(),
            };
            assert_eq!(from, found);
            let token = config.inbound[0].routes[0].token.as_ref().expect("a token");
            assert!(!token.takes_svids && token.issuers[0].name == "ci", "files have no keys, and the issuer has");
        }
    }

    #[test]
    fn jw_01_algorithms_without_a_key_of_the_issuers_alone_are_load_errors() {
        for algorithm in ["none", "HS256", "hs512", "rs256", "EdDSA"] {
            let problems = load(&format!("{{ {CI}, algorithms: [RS256, {algorithm}] }}"), TAKES).expect_err(algorithm);
            assert!(problems.contains("are not taken"), "{problems}");
        }
        assert!(load(&format!("{{ {CI}, algorithms: [] }}"), TAKES).is_err());
    }

    #[test]
    fn what_cannot_be_meant_is_a_load_error() {
        for (issuer, route, says) in [
            ("name: ci, issuer: 'http://ci.example'", TAKES, "no `https` address"),
            ("name: ci, issuer: kubernetes/serviceaccount", TAKES, "no `https` address"),
            ("name: spiffe, issuer: 'https://ci.example'", TAKES, "named `spiffe`"),
            ("name: ci, issuer: 'spiffe://td', jwks_file: /k", TAKES, "no issuer of other tokens"),
            ("name: ci, issuer: a, jwks_file: /k, jwks_url: 'https://k/'", TAKES, "in a file and at an address"),
            ("name: ci, issuer: a, jwks_file: /k, roots: /r", TAKES, "nothing is fetched"),
            (CI, "binding: bearer, token: { issuers: [cj] }", "no issuer `cj`"),
            (CI, "binding: bearer, token: { issuers: [] }", "takes nobody's tokens"),
            (CI, "binding: peer, token: { issuers: [ci] }", "write `binding: bearer`"),
            (CI, "binding: bearer, token: { issuers: [ci, spiffe] }", "files bring no keys"),
            (CI, "binding: bearer", "files bring no keys"),
        ] {
            let problems = load(&format!("{{ {issuer} }}"), route).expect_err(says);
            assert!(problems.contains(says), "{says}: {problems}");
        }
        let twice = format!("{{ {CI} }}, {{ name: other, issuer: 'https://ci.example/' }}");
        assert!(load(&twice, TAKES).expect_err("twice").contains("write each `issuer` once"));
    }
}
