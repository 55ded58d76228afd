//! `postern explain`: what would be decided about a request, by which rule, and what the nearest one lacks. Without a network,
//! and by the data plane's own code.

use super::admin_client::{SOCKET_DEFAULT, get};
use super::output::print;
use super::verify::jwt;
use crate::authz::explain::principal_text;
use crate::authz::explanation::Explanation;
use crate::authz::{Asked, ConnectionFacts, Decision, Labels, Principal, RequestFacts, Site, TlsFacts};
use crate::http::bearer;
use crate::http::target::read_target;
use crate::identity::issuer_asks::IssuerAsks;
use crate::identity::{IssuerKeys, Snapshot, TokenKeys};
use crate::policy::{PortRules, TokenPlan};
use crate::refusal::{Refusal, Refused};
use crate::revocation::{Denials, Entry, Revocations};
use crate::token::{KeySet, Origin, Presenter, RememberedTokens, Verified};
use anyhow::{Context as _, anyhow, bail};
use clap::{Args, FromArgMatches as _};
use http::header::{AUTHORIZATION, HOST, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request};
use postern_config::{Config, DenyList, Inbound, Mode, SpiffeId};
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// `postern explain …`
#[derive(Args, Debug)]
pub struct ExplainArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE", required_unless_present = "decision")]
    config: Option<PathBuf>,
    /// Instead of a question: the id of a refusal that a running process made a moment ago, as its records have it
    #[arg(long, value_name = "ID", conflicts_with = "config")]
    decision: Option<String>,
    /// The admin socket of that process
    #[arg(long, value_name = "PATH", default_value = SOCKET_DEFAULT)]
    admin: PathBuf,
    /// The inbound port, by its name or number; not needed where there is one
    #[arg(long, value_name = "PORT")]
    port: Option<String>,
    /// The caller's SPIFFE ID; without it the caller is anonymous
    #[arg(long, value_name = "SPIFFE-ID")]
    peer: Option<String>,
    /// The original caller's SPIFFE ID, where the peer is one of the port's `forwarders` and speaks for it
    #[arg(long, value_name = "SPIFFE-ID", requires = "peer")]
    caller: Option<String>,
    /// The request's method
    #[arg(long, default_value = "GET")]
    method: String,
    /// The request's path, as callers send it, with its query; without it the question is about a whole connection
    #[arg(long)]
    path: Option<String>,
    /// The request's host
    #[arg(long, default_value = "localhost")]
    host: String,
    /// A header of the request, such as `x-purpose: audit`; may be repeated
    #[arg(long, value_name = "NAME: VALUE")]
    header: Vec<String>,
    /// File with the token that the caller shows, or - for standard input; for routes with an `audience`
    #[arg(long, value_name = "FILE", requires = "token_keys")]
    token: Option<PathBuf>,
    /// A trust domain and the keys of its tokens (a JWK Set, as the Workload API has them); may be repeated
    #[arg(long, value_name = "NAME=JWKS")]
    token_keys: Vec<String>,
    /// PEM file with the caller's certificate, for tokens that are bound to one
    #[arg(long, value_name = "PEM", requires = "token")]
    certificate: Option<PathBuf>,
    /// Where the caller is
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    source: IpAddr,
    /// The name that the caller asks for when TLS begins (SNI)
    #[arg(long, value_name = "NAME", requires = "peer")]
    sni: Option<String>,
    /// A label of our own workload that stands in a file or the environment, as NAME=VALUE; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    label: Vec<String>,
    /// When, such as 2026-11-22T01:00:00Z; now when absent
    #[arg(long, value_name = "RFC3339")]
    at: Option<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

const REFUSED: u8 = 1;

/// Exit 0: it would be allowed; 1: refused; 2 (as any misuse): there is no saying.
pub async fn run(arguments: ExplainArgs) -> anyhow::Result<ExitCode> {
    if let Some(id) = &arguments.decision {
        let answer = get(&arguments.admin, &format!("/decision?id={id}")).await?;
        print(&if arguments.json { format!("{answer:#}\n") } else { remembered(&answer) });
        return Ok(if answer["decision"] == "allowed" { ExitCode::SUCCESS } else { ExitCode::from(REFUSED) });
    }
    let explanation = match explain(&arguments) {
        Ok(explanation) => explanation,
        Err(error) => {
            eprintln!("could not tell: {error:#}");
            return Ok(ExitCode::from(2));
        }
    };
    match arguments.json {
        true => print(&format!("{:#}\n", explanation.to_json())),
        false => print(&explanation.to_text()),
    }
    Ok(if explanation.is_allowed() { ExitCode::SUCCESS } else { ExitCode::from(REFUSED) })
}

fn remembered(answer: &Value) -> String {
    let mut text = answer["text"].as_str().unwrap_or_default().to_owned();
    if answer["policy_digest"] != answer["decided_by_policy"] {
        text.push_str("the policy has changed since: this is what the one in force now decides\n");
    }
    text
}

/// The answer to a question that is put as on the command line, as `--json` prints it.
///
/// # Errors
/// The arguments make no question, or there is no saying.
pub fn answer(arguments: &[&str]) -> anyhow::Result<Value> {
    let command = ExplainArgs::augment_args(clap::Command::new("explain").no_binary_name(true));
    let arguments = ExplainArgs::from_arg_matches(&command.try_get_matches_from(arguments)?)?;
    Ok(explain(&arguments)?.to_json())
}

fn explain(arguments: &ExplainArgs) -> anyhow::Result<Explanation> {
    let config = arguments.config.as_deref().context("there is no --config")?;
    let config = Config::load(config).map_err(|problems| anyhow!("{problems}"))?;
    let inbound = port(&config, arguments.port.as_deref())?;
    let site = Site { labels: Arc::new(labels(&config, &arguments.label)?) };
    let rules = PortRules::compile(inbound, &site, &[]);
    let id = |text: &str| SpiffeId::parse(text).map_err(|error| anyhow!("`{text}` is no SPIFFE ID: it {error}"));
    let peer = arguments.peer.as_deref().map(id).transpose()?;
    let caller = arguments.caller.as_deref().map(id).transpose()?;
    let principal = peer.as_ref().map_or(Principal::Anonymous, Principal::Spiffe);
    let now = match &arguments.at {
        None => OffsetDateTime::now_utc(),
        Some(text) => OffsetDateTime::parse(text, &Rfc3339)
            .with_context(|| format!("`{text}` is no time; write it like 2026-11-22T01:00:00Z"))?,
    };
    let server_name = arguments.sni.as_deref().map(str::to_ascii_lowercase);
    let fingerprint = arguments.certificate.as_deref().map(jwt::fingerprint).transpose()?;
    let tls = TlsFacts { server_name: server_name.as_deref(), own: None, fingerprint: fingerprint.as_ref() };
    let connection = Asked {
        principal,
        source: Some(arguments.source),
        port: None,
        connection: ConnectionFacts { source_port: None, tls: peer.as_ref().map(|_| tls), version: None },
        now: now.unix_timestamp(),
        request: None,
    };
    let mut explanation = Explanation {
        port: inbound.name.clone(),
        caller: principal_text(&principal),
        original: None,
        route: None,
        token: None,
        readings: Vec::new(),
        rules: Vec::new(),
        verdict: Ok(Decision::NotAllowed),
        mode: Mode::Enforce,
    };
    let denials = denials(&config)?;
    if let Some(refused) = denied(&denials, peer.as_ref(), caller.as_ref(), now.into()) {
        return Ok(Explanation { verdict: Err(refused), ..explanation });
    }
    if let (Some(peer), Some(caller)) = (&peer, &caller)
        && let Err(refused) = check_speaks_for(inbound, peer, caller)?
    {
        return Ok(Explanation { verdict: Err(refused), ..explanation });
    }
    explanation.original = caller.as_ref().map(SpiffeId::to_string);
    let Some(path) = &arguments.path else {
        if inbound.is_about_requests() {
            bail!("port `{}` carries HTTP alone: ask about a request, with --path", inbound.name);
        }
        explanation.rules = rules.explain(None, &connection);
        explanation.verdict = Ok(rules.decide(None, &connection));
        explanation.mode = rules.mode;
        return Ok(explanation);
    };
    let head = request(arguments, path)?.into_parts().0;
    let target = match read_target(&head, None, None) {
        Ok(target) => target,
        Err(refusal) => return Ok(Explanation { verdict: Err(refusal.into()), ..explanation }),
    };
    let (route, readings) = match rules.route(&target, &head.method) {
        Ok(found) => found,
        Err(refused) => {
            let mode = rules.mode_without_route(refused.refusal, &head.method);
            return Ok(Explanation { verdict: Err(refused), mode, ..explanation });
        }
    };
    explanation.route = route.map(|route| route.name.to_string());
    explanation.readings = readings.iter().map(str::to_owned).collect();
    let mut token = None;
    if let Some(wanted) = route.and_then(|route| route.token.as_ref()) {
        match present_token(arguments, wanted, &head.headers, peer.as_ref(), denials, now.into())? {
            Ok(shown) => {
                explanation.token = Some(shown.shown_subject().to_string());
                token = Some(shown);
            }
            Err(refused) => return Ok(Explanation { verdict: Err(refused), ..explanation }),
        }
    }
    let shown = token.as_deref();
    let facts = RequestFacts::new(&head.method, &head.uri, &target.host, &readings, Some(&head.headers), shown);
    let facts = facts.for_caller(caller.as_ref());
    let asked = Asked { request: Some(facts), ..connection };
    explanation.rules = rules.explain(route, &asked);
    explanation.verdict = Ok(rules.decide(route, &asked));
    explanation.mode = rules.mode_of(route);
    Ok(explanation)
}

/// The outer error: there is no saying. Between the two there may be other forwarders, of whom nobody is asked.
fn check_speaks_for(inbound: &Inbound, peer: &SpiffeId, caller: &SpiffeId) -> anyhow::Result<Result<(), Refused>> {
    if !inbound.forwarders.iter().any(|forwarder| forwarder.is(peer)) {
        bail!("{peer} is none of the `forwarders` of port `{}`: it speaks for itself alone", inbound.name);
    }
    let may = inbound.forwarders.iter().any(|forwarder| forwarder.may_speak_for(caller));
    let refused = || Refused::new(Refusal::ForwardedCallerRefused, format!("no forwarder may speak for {caller}"));
    Ok(if may { Ok(()) } else { Err(refused()) })
}

/// What stands in the deny list that the configuration names, where that is here.
fn denials(config: &Config) -> anyhow::Result<Denials> {
    let list = match &config.revocation.deny_list {
        Some(path) if path.exists() => DenyList::load(path).map_err(|problems| anyhow!("{problems}"))?,
        _ => DenyList::default(),
    };
    Ok(Denials::new(Entry::of_file(list.entries)))
}

fn denied(denials: &Denials, peer: Option<&SpiffeId>, caller: Option<&SpiffeId>, now: SystemTime) -> Option<Refused> {
    let of = |id: &SpiffeId| denials.of_id(id, now).map(Entry::words);
    let of_peer =
        peer.and_then(of).map(|entry| Refused::new(Refusal::PeerNotVerified, format!("deny_listed: {entry}")));
    of_peer.or_else(|| {
        let (id, entry) = caller.and_then(|id| Some((id, of(id)?)))?;
        Some(Refused::new(Refusal::ForwardedCallerRefused, format!("{id} is denied: {entry}")))
    })
}

/// The token that the caller shows, judged by the data plane's own code. The outer error: there is no saying.
fn present_token(
    arguments: &ExplainArgs,
    wanted: &TokenPlan,
    headers: &HeaderMap,
    peer: Option<&SpiffeId>,
    denials: Denials,
    now: SystemTime,
) -> anyhow::Result<Result<Arc<Verified>, Refused>> {
    let mut headers = headers.clone();
    if let Some(path) = &arguments.token {
        let bearer = [b"Bearer ", jwt::read_token(path)?.as_slice()].concat();
        headers.append(AUTHORIZATION, HeaderValue::from_bytes(&bearer).context("--token has what no token has")?);
    }
    let (mut keys, mut issuer_keys) = (TokenKeys::new(), IssuerKeys::new());
    for text in &arguments.token_keys {
        let (name, path) = jwt::split_named(text)?;
        match wanted.issuers().iter().find(|issuer| issuer.name == name) {
            Some(issuer) => {
                let document = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
                let set = KeySet::parse(&document, Origin::Issuer)
                    .with_context(|| format!("{} is no JWK Set", path.display()))?;
                issuer_keys.insert(issuer.issuer.clone(), Arc::new(set));
            }
            None => jwt::add_bundle(&mut keys, name, path, Origin::WorkloadApi, &mut Vec::new())?,
        }
    }
    let revocations = Revocations { denials: Arc::new(denials), ..Revocations::default() };
    let (token_keys, issuer_keys) = (Arc::new(keys), Arc::new(issuer_keys));
    let identity = Snapshot { token_keys, issuer_keys, revocations: Arc::new(revocations), ..Snapshot::empty() };
    let mut remembered = RememberedTokens::default();
    let remembered = remembered.with(&identity);
    let presenter = match &arguments.certificate {
        Some(path) => Presenter::Certificate(jwt::fingerprint(path)?),
        None => Presenter::Unknown,
    };
    let nobody = IssuerAsks::default();
    let judged = bearer::authenticate(wanted, &headers, presenter, remembered, &nobody, now).and_then(|token| {
        bearer::check_binding(wanted, &token, peer)?;
        Ok(token)
    });
    Ok(judged)
}

/// Those that stand in the configuration itself, and what was said besides: this host is not where it is to run.
fn labels(config: &Config, said: &[String]) -> anyhow::Result<Labels> {
    let mut labels = Labels::default();
    for text in said {
        let (name, value) = text.split_once('=').with_context(|| format!("`{text}` is not of the form NAME=VALUE"))?;
        labels.add(name.to_owned(), value.to_owned());
    }
    for (name, value) in &config.workload.labels {
        labels.add(name.clone(), value.clone());
    }
    Ok(labels)
}

fn port<'a>(config: &'a Config, wanted: Option<&str>) -> anyhow::Result<&'a Inbound> {
    let names = || config.inbound.iter().map(|port| port.name.as_str()).collect::<Vec<_>>().join(", ");
    match (wanted, config.inbound.as_slice()) {
        (None, [only]) => Ok(only),
        (None, []) => bail!("the file has no inbound port"),
        (None, _) => bail!("the file has several inbound ports: say which with --port, one of {}", names()),
        (Some(wanted), ports) => {
            let found = ports.iter().find(|port| port.name == wanted || port.port.to_string() == wanted);
            found.with_context(|| format!("there is no inbound port `{wanted}`; known are {}", names()))
        }
    }
}

fn request(arguments: &ExplainArgs, path: &str) -> anyhow::Result<Request<()>> {
    let method = Method::from_bytes(arguments.method.as_bytes()).context("--method is no method")?;
    let mut request = Request::builder().method(method).uri(path).body(()).context("--path is no path")?;
    let host = HeaderValue::from_str(&arguments.host).context("--host is no host")?;
    request.headers_mut().insert(HOST, host);
    for line in &arguments.header {
        let (name, value) =
            line.split_once(':').with_context(|| format!("`{line}` is not of the form `name: value`"))?;
        let name: HeaderName = name.trim().parse().with_context(|| format!("`{name}` is no header's name"))?;
        let value = HeaderValue::from_str(value.trim()).with_context(|| format!("`{value}` is no header's value"))?;
        request.headers_mut().append(name, value);
    }
    Ok(request)
}

#[cfg(test)]
mod tests;
