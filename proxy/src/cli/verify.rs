//! `postern verify svid`: would the data plane accept this chain, and if not, which rule does it break? `postern verify jwt`,
//! the same for a token, is in `jwt`.
//!
//! The data plane's own code runs here ([`verify_svid`], [`load_bundle`]); this file reads files and prints.

pub mod jwt;

use crate::identity::Bundle;
use crate::tls::bundle::{AnchorProblem, load_bundle};
use crate::tls::certificate::hex;
use crate::tls::svid_error::instant;
use crate::tls::{Peer, Role, Strictness, SvidError, verify_svid};
use crate::token::KeySetError;
use clap::{Args, Subcommand, ValueEnum};
use postern_config::{SpiffeIdError, SpiffePattern, TrustDomain};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{self, PemObject};
use std::collections::HashMap;
use std::error::Error;
use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// `postern verify …`
#[derive(Args, Debug)]
pub struct VerifyArgs {
    #[command(subcommand)]
    pub what: What,
}

#[derive(Subcommand, Debug)]
pub enum What {
    /// Judge an X509-SVID as a sidecar would: exit 0 accepted, 1 refused, 2 could not tell
    Svid(SvidArgs),
    /// Judge a JWT-SVID, or a token of another issuer, as a sidecar would: exit 0 accepted, 1 refused, 2 could not tell
    Jwt(jwt::JwtArgs),
}

/// `postern verify svid …`
#[derive(Args, Debug, Clone)]
pub struct SvidArgs {
    /// PEM file with the authorities of the trust domain
    #[arg(long, value_name = "PEM")]
    pub bundle: PathBuf,
    /// PEM file with the presented certificates, leaf first
    #[arg(long, value_name = "PEM")]
    pub chain: PathBuf,
    /// The trust domain whose bundle --bundle is
    #[arg(long, value_name = "NAME")]
    pub trust_domain: String,
    /// Another trust domain and its bundle; may be repeated
    #[arg(long, value_name = "NAME=PEM")]
    pub federated: Vec<String>,
    /// The SPIFFE ID that is expected, or a pattern of it
    #[arg(long, value_name = "PATTERN")]
    pub id: Option<String>,
    /// The time to judge at, such as 2026-11-22T01:00:00Z; now when absent
    #[arg(long, value_name = "RFC3339")]
    pub at: Option<String>,
    /// The role in which the certificate is presented; both when absent
    #[arg(long, value_enum)]
    pub role: Option<RoleArg>,
    /// As with `compat: true`: accept leaves without basicConstraints or with non-critical keyUsage
    #[arg(long)]
    pub compat: bool,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoleArg {
    Client,
    Server,
}

const ACCEPTED: u8 = 0;
const REFUSED: u8 = 1;
const COULD_NOT_TELL: u8 = 2;

/// Judges and prints.
pub fn run(args: VerifyArgs) -> ExitCode {
    let judged = match args.what {
        What::Svid(args) => judge(&args, SystemTime::now()).map(|judgement| {
            for problem in &judgement.passed_over {
                eprintln!("warning: passed over in a bundle: {}", with_causes(problem));
            }
            (judgement.verdict.is_ok(), judgement.describe())
        }),
        What::Jwt(args) => jwt::judge(&args, SystemTime::now()).map(|judgement| {
            for (path, problem) in &judgement.passed_over {
                eprintln!("warning: passed over in {}: {problem}", path.display());
            }
            (judgement.verdict.is_ok(), judgement.describe())
        }),
    };
    match judged {
        Ok((accepted, description)) => {
            print!("{description}");
            ExitCode::from(if accepted { ACCEPTED } else { REFUSED })
        }
        Err(error) => {
            eprintln!("could not tell: {}", with_causes(&error));
            ExitCode::from(COULD_NOT_TELL)
        }
    }
}

/// What was found out.
pub struct Judgement {
    pub verdict: Result<Peer, Refused>,
    /// Certificates of the bundles that vouch for nobody.
    pub passed_over: Vec<AnchorProblem>,
}

/// Why a sidecar would refuse the chain.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("presented as a {role}")]
    Svid { role: Role, source: SvidError },
    #[error("its SPIFFE ID {found} is not the expected {expected}")]
    WrongIdentity { found: String, expected: String },
}

impl Refused {
    /// The rule broken, by its stable name.
    pub fn rule(&self) -> &'static str {
        match self {
            Self::Svid { source, .. } => source.code(),
            Self::WrongIdentity { .. } => "wrong_identity",
        }
    }

    pub fn section(&self) -> &'static str {
        match self {
            Self::Svid { source, .. } => source.section(),
            Self::WrongIdentity { .. } => "the expectation in --id",
        }
    }
}

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
pub enum CannotTell {
    #[error("cannot read certificates from {}", path.display())]
    Unreadable { path: PathBuf, source: pem::Error },
    #[error("there is no PEM certificate in {}; DER has to be converted: openssl x509 -inform der", path.display())]
    NoCertificate { path: PathBuf },
    #[error("`{text}` is no trust domain: it")]
    TrustDomain { text: String, source: SpiffeIdError },
    #[error("cannot read {}", path.display())]
    UnreadableFile { path: PathBuf, source: io::Error },
    #[error("{} is no set of keys", path.display())]
    KeySet { path: PathBuf, source: KeySetError },
    #[error("neither --trust-domain with --bundle nor --issuer with --jwks says whose tokens are believed")]
    NoTrust,
    #[error("`{text}` is not of the form NAME=FILE")]
    Federated { text: String },
    #[error("there are two bundles for the trust domain {trust_domain}")]
    TwoBundles { trust_domain: TrustDomain },
    #[error("`{text}` is no time; write it like 2026-11-22T01:00:00Z")]
    Time { text: String, source: time::error::Parse },
    #[error("`{text}` is no SPIFFE ID pattern: {why}")]
    Pattern { text: String, why: String },
}

/// The command without its printing; `now` stands unless `--at` is given.
///
/// # Errors
/// [`CannotTell`]: nothing is known about the chain.
pub fn judge(args: &SvidArgs, now: SystemTime) -> Result<Judgement, CannotTell> {
    let at = match &args.at {
        Some(text) => read_time(text)?,
        None => now,
    };
    let expected = args.id.as_deref().map(read_pattern).transpose()?;
    let (bundles, passed_over) = read_bundles(args, at)?;
    let chain = read_pem(&args.chain)?;
    if chain.is_empty() {
        return Err(CannotTell::NoCertificate { path: args.chain.clone() });
    }
    let (role, other_role) = match args.role {
        Some(RoleArg::Client) => (Role::Client, None),
        Some(RoleArg::Server) => (Role::Server, None),
        // X509-SVID §4.4: an SVID serves in both.
        None => (Role::Client, Some(Role::Server)),
    };
    let strictness = if args.compat { Strictness::Compat } else { Strictness::Strict };
    let in_role = |role: Role| {
        verify_svid(&chain, &bundles, 0, role, at, strictness).map_err(|source| Refused::Svid { role, source })
    };
    let verdict = in_role(role).and_then(|peer| other_role.map_or(Ok(peer), in_role)).and_then(|peer| match expected {
        Some(pattern) if !pattern.matches(&peer.id) => {
            Err(Refused::WrongIdentity { found: peer.id.to_string(), expected: pattern.to_string() })
        }
        _ => Ok(peer),
    });
    Ok(Judgement { verdict, passed_over })
}

impl Judgement {
    fn describe(&self) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail.
        let _ = match &self.verdict {
            Ok(peer) => writeln!(
                text,
                "accepted: {}\n  serial: {}\n  SHA-256: {}\n  valid until: {}\n  authority (SHA-256 of its key): {}",
                peer.id,
                peer.serial,
                hex(&peer.fingerprint),
                instant(peer.not_after),
                hex(&peer.authority.0),
            ),
            Err(refused) => writeln!(
                text,
                "refused: {}\n  rule: {}\n  section: {}",
                with_causes(refused),
                refused.rule(),
                refused.section(),
            ),
        };
        text
    }
}

type Bundles = HashMap<TrustDomain, Arc<Bundle>>;

fn read_bundles(args: &SvidArgs, at: SystemTime) -> Result<(Bundles, Vec<AnchorProblem>), CannotTell> {
    let mut named = vec![(args.trust_domain.as_str(), args.bundle.as_path())];
    for text in &args.federated {
        let (name, path) = text.split_once('=').ok_or_else(|| CannotTell::Federated { text: text.clone() })?;
        named.push((name, Path::new(path)));
    }
    let mut bundles = HashMap::new();
    let mut passed_over = Vec::new();
    for (name, path) in named {
        let trust_domain =
            TrustDomain::parse(name).map_err(|source| CannotTell::TrustDomain { text: name.to_owned(), source })?;
        let (bundle, problems) = load_bundle(trust_domain.clone(), read_pem(path)?, at);
        passed_over.extend(problems);
        if bundles.insert(trust_domain.clone(), Arc::new(bundle)).is_some() {
            return Err(CannotTell::TwoBundles { trust_domain });
        }
    }
    Ok((bundles, passed_over))
}

/// An empty file is an empty list; bytes without a PEM certificate in them are a mistake.
pub(super) fn read_pem(path: &Path) -> Result<Vec<CertificateDer<'static>>, CannotTell> {
    let bytes = std::fs::read(path)
        .map_err(|source| CannotTell::Unreadable { path: path.to_owned(), source: pem::Error::Io(source) })?;
    let certificates = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| CannotTell::Unreadable { path: path.to_owned(), source })?;
    if certificates.is_empty() && !bytes.trim_ascii().is_empty() {
        return Err(CannotTell::NoCertificate { path: path.to_owned() });
    }
    Ok(certificates)
}

fn read_time(text: &str) -> Result<SystemTime, CannotTell> {
    OffsetDateTime::parse(text, &Rfc3339)
        .map(SystemTime::from)
        .map_err(|source| CannotTell::Time { text: text.to_owned(), source })
}

pub(super) fn read_pattern(text: &str) -> Result<SpiffePattern, CannotTell> {
    SpiffePattern::parse(text).map_err(|why| CannotTell::Pattern { text: text.to_owned(), why })
}

/// The whole chain of causes, once, at the edge.
pub(super) fn with_causes(error: &(dyn Error + 'static)) -> String {
    std::iter::successors(error.source(), |cause| (*cause).source())
        .fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests;
