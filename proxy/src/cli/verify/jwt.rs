//! `postern verify jwt`: would the data plane accept this token, and if not, which rule does it break?
//!
//! The data plane's own code runs here ([`crate::token::judge()`]); this file reads files and prints.

use super::{CannotTell, read_pem, read_time, with_causes};
use crate::tls::certificate::hex;
use crate::tls::svid_error::instant;
use crate::token::shown::Shown;
use crate::token::{self, Algorithm, Expectation, Issuer, KeySet, Origin, Presenter, TokenProblem, Trust, Verified};
use aws_lc_rs::digest::{SHA256, digest};
use clap::{ArgGroup, Args, ValueEnum};
use postern_config::TrustDomain;
use postern_config::units::parse_duration;
use std::collections::HashMap;
use std::fmt::Write;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// `postern verify jwt …`
#[derive(Args, Debug, Clone)]
#[command(group = ArgGroup::new("trust").required(true).args(["trust_domain", "issuer"]))]
pub struct JwtArgs {
    /// File with the token, or - for standard input; never the token itself, which other users could see in the arguments
    #[arg(long, value_name = "FILE")]
    pub token: PathBuf,
    /// A name that we go by; may be repeated, and the token has to be for one of them
    #[arg(long, value_name = "AUDIENCE", required = true)]
    pub audience: Vec<String>,
    /// A JWT-SVID is expected: the trust domain whose keys --bundle has
    #[arg(long, value_name = "NAME", requires = "bundle")]
    pub trust_domain: Option<String>,
    /// JWK Set of the trust domain
    #[arg(long, value_name = "JWKS", requires = "trust_domain")]
    pub bundle: Option<PathBuf>,
    /// Another trust domain and its JWK Set; may be repeated
    #[arg(long, value_name = "NAME=JWKS", requires = "trust_domain")]
    pub federated: Vec<String>,
    /// What the JWK Sets of trust domains are: as the Workload API has them, or SPIFFE bundles, whose keys need a `use`
    #[arg(long, value_enum, default_value = "workload-api")]
    pub bundle_format: BundleFormat,
    /// A token of this issuer is expected: its `iss`, to the letter
    #[arg(long, value_name = "URL", requires = "jwks")]
    pub issuer: Option<String>,
    /// JWK Set of the issuer
    #[arg(long, value_name = "JWKS", requires = "issuer")]
    pub jwks: Option<PathBuf>,
    /// Algorithms that the issuer's tokens may have, such as RS256,ES256; all nine when absent
    #[arg(long, value_name = "NAMES", value_delimiter = ',', requires = "issuer")]
    pub algorithms: Vec<Algorithm>,
    /// PEM file with the certificate of who presents the token, for tokens that are bound to one
    #[arg(long, value_name = "PEM")]
    pub certificate: Option<PathBuf>,
    /// The time to judge at, such as 2026-11-22T01:00:00Z; now when absent
    #[arg(long, value_name = "RFC3339")]
    pub at: Option<String>,
    /// How far clocks may be apart
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    pub leeway: Duration,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum BundleFormat {
    WorkloadApi,
    Spiffe,
}

/// What was found out.
pub struct Judgement {
    pub verdict: Result<Verified, TokenProblem>,
    /// Keys that cannot vouch for a token, with the file that they are from. Those for other purposes are not among them.
    pub passed_over: Vec<(PathBuf, String)>,
}

/// The command without its printing; `now` stands unless `--at` is given.
///
/// # Errors
/// [`CannotTell`]: nothing is known about the token.
pub fn judge(args: &JwtArgs, now: SystemTime) -> Result<Judgement, CannotTell> {
    let at = args.at.as_deref().map_or(Ok(now), read_time)?;
    let presenter = match &args.certificate {
        Some(path) => Presenter::Certificate(fingerprint(path)?),
        None => Presenter::Unknown,
    };
    let expected = Expectation { audiences: &args.audience, leeway: args.leeway, presenter };
    let mut passed_over = Vec::new();
    let verdict = match (&args.trust_domain, &args.bundle, &args.issuer, &args.jwks) {
        (Some(trust_domain), Some(bundle), None, None) => {
            let bundles = read_bundles(args, trust_domain, bundle, &mut passed_over)?;
            token::judge(&read_token(&args.token)?, &Trust::TrustDomains(&bundles), &expected, at)
        }
        (None, None, Some(name), Some(jwks)) => {
            let keys = Arc::new(read_keys(jwks, Origin::Issuer, &mut passed_over)?);
            let algorithms = if args.algorithms.is_empty() { &Algorithm::ALL[..] } else { &args.algorithms };
            let issuer = Issuer { name: name.clone(), algorithms: algorithms.to_vec(), keys };
            token::judge(&read_token(&args.token)?, &Trust::Issuers(&[issuer]), &expected, at)
        }
        _ => return Err(CannotTell::NoTrust),
    };
    Ok(Judgement { verdict, passed_over })
}

impl Judgement {
    pub(super) fn describe(&self) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail.
        let _ = match &self.verdict {
            Ok(token) => writeln!(
                text,
                "accepted: {}\n  issuer: {}\n  audience: {}\n  id (SHA-256): {}\n  valid until: {}\n  algorithm: {}\n  \
                 kid: {}\n  authority (thumbprint of its key): {}",
                Shown::of(token.subject.as_str()),
                shown_or_none(token.registered.issuer.as_deref()),
                Shown::list(token.registered.audience.iter().map(String::as_str)),
                hex(&token.id_hash),
                instant(token.registered.expires_at),
                token.algorithm,
                shown_or_none(token.key_id.as_deref()),
                token.authority,
            ),
            Err(problem) => writeln!(
                text,
                "refused: {}\n  rule: {}\n  section: {}",
                with_causes(problem),
                problem.code(),
                problem.section(),
            ),
        };
        text
    }
}

fn shown_or_none(text: Option<&str>) -> Shown {
    Shown::of(text.unwrap_or("(none)"))
}

pub type PassedOver = Vec<(PathBuf, String)>;

fn read_bundles(
    args: &JwtArgs,
    trust_domain: &str,
    bundle: &Path,
    passed_over: &mut PassedOver,
) -> Result<HashMap<TrustDomain, Arc<KeySet>>, CannotTell> {
    let origin = match args.bundle_format {
        BundleFormat::WorkloadApi => Origin::WorkloadApi,
        BundleFormat::Spiffe => Origin::SpiffeBundle,
    };
    let mut named = vec![(trust_domain, bundle)];
    for text in &args.federated {
        named.push(split_named(text)?);
    }
    let mut bundles = HashMap::new();
    for (name, path) in named {
        add_bundle(&mut bundles, name, path, origin, passed_over)?;
    }
    Ok(bundles)
}

/// `NAME=FILE`.
pub fn split_named(text: &str) -> Result<(&str, &Path), CannotTell> {
    let (name, path) = text.split_once('=').ok_or_else(|| CannotTell::Federated { text: text.to_owned() })?;
    Ok((name, Path::new(path)))
}

pub fn add_bundle(
    bundles: &mut HashMap<TrustDomain, Arc<KeySet>>,
    name: &str,
    path: &Path,
    origin: Origin,
    passed_over: &mut PassedOver,
) -> Result<(), CannotTell> {
    let trust_domain =
        TrustDomain::parse(name).map_err(|source| CannotTell::TrustDomain { text: name.to_owned(), source })?;
    let keys = read_keys(path, origin, passed_over)?;
    match bundles.insert(trust_domain.clone(), Arc::new(keys)) {
        Some(_) => Err(CannotTell::TwoBundles { trust_domain }),
        None => Ok(()),
    }
}

fn read_keys(path: &Path, origin: Origin, passed_over: &mut PassedOver) -> Result<KeySet, CannotTell> {
    let keys = KeySet::parse(&read_file(path)?, origin)
        .map_err(|source| CannotTell::KeySet { path: path.to_owned(), source })?;
    let odd = keys.ignored().iter().filter(|ignored| !ignored.is_foreign());
    passed_over.extend(odd.map(|ignored| (path.to_owned(), with_causes(ignored))));
    Ok(keys)
}

/// Editors and `echo` end a file with a newline, which no token has.
pub fn read_token(path: &Path) -> Result<Vec<u8>, CannotTell> {
    let mut token = if path == Path::new("-") {
        let mut token = Vec::new();
        let read = std::io::stdin().lock().read_to_end(&mut token);
        read.map_err(|source| CannotTell::UnreadableFile { path: path.to_owned(), source })?;
        token
    } else {
        read_file(path)?
    };
    token.truncate(token.trim_ascii_end().len());
    Ok(token)
}

fn read_file(path: &Path) -> Result<Vec<u8>, CannotTell> {
    std::fs::read(path).map_err(|source| CannotTell::UnreadableFile { path: path.to_owned(), source })
}

pub fn fingerprint(path: &Path) -> Result<[u8; 32], CannotTell> {
    let certificates = read_pem(path)?;
    let leaf = certificates.first().ok_or_else(|| CannotTell::NoCertificate { path: path.to_owned() })?;
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(digest(&SHA256, leaf).as_ref());
    Ok(fingerprint)
}

#[cfg(test)]
mod tests;
