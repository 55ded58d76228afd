//! `postern dev-identity`: runs the embedded provider, and, as `dev-identity ctl`, tells a running one what to do.

use crate::identity::dev::control::{self, ControlAnswer, ControlRequest};
use crate::identity::dev::{DevConfig, DevProvider, DevWorkload};
use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use postern_config::units::parse_duration;
use postern_config::{SpiffeId, TrustDomain};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Serve the SPIFFE Workload API from a small CA of our own: for development, never for production.
///
/// It attests nobody: whoever can open a workload's socket is that workload. The CA's keys lie in the state directory.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct DevIdentityArgs {
    #[command(subcommand)]
    command: Option<DevIdentityCommand>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Args, Debug)]
struct ServeArgs {
    /// Where the CA keys and the sockets are kept. The same directory is the same CA, also after a restart.
    #[arg(long, value_name = "DIR", required = true)]
    state: Option<PathBuf>,
    /// A trust domain to be the CA of. May be given several times.
    #[arg(long = "trust-domain", value_name = "TD", required = true, value_parser = parse_trust_domain)]
    trust_domains: Vec<TrustDomain>,
    /// A workload and its SPIFFE IDs, the default one first: `NAME=spiffe://td/path[;hint=H][,spiffe://…]`.
    #[arg(long = "workload", value_name = "NAME=ID", required = true, value_parser = parse_workload)]
    workloads: Vec<DevWorkload>,
    /// Life of an SVID; it is issued anew at half of it.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse_duration)]
    ttl: Duration,
    /// Life of an authority; its successor is published at half of it.
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = parse_duration)]
    ca_ttl: Duration,
    /// Tell every workload the bundles of all trust domains given here.
    #[arg(long)]
    federate: bool,
}

#[derive(Subcommand, Debug)]
enum DevIdentityCommand {
    /// Tell the provider that runs with a state directory what to do.
    Ctl {
        #[arg(long, value_name = "DIR")]
        state: PathBuf,
        #[command(subcommand)]
        action: ControlAction,
    },
}

#[derive(Subcommand, Debug)]
enum ControlAction {
    /// Issue every SVID anew.
    RotateSvids,
    /// CA rotation, stage one: a new authority joins the bundle.
    PublishCa { trust_domain: Option<String> },
    /// CA rotation, stage two: SVIDs come from the newest authority.
    Reissue { trust_domain: Option<String> },
    /// CA rotation, last stage: older authorities leave the bundle.
    RemoveOldCa { trust_domain: Option<String> },
    /// All stages of a CA rotation.
    RotateCa {
        trust_domain: Option<String>,
        /// Pause between the stages, for everyone to follow.
        #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_duration)]
        wait: Duration,
    },
    /// Revoke the SVIDs that a workload has, by a CRL, and issue new ones.
    Revoke { workload: String },
    /// Deny a workload its identity.
    Withdraw { workload: String },
    /// Give a workload its identity again.
    Restore { workload: String },
    /// Print workloads, their SPIFFE IDs and sockets.
    List,
}

/// # Errors
/// What could not be started, or asked.
pub async fn run(arguments: DevIdentityArgs) -> anyhow::Result<ExitCode> {
    match arguments.command {
        Some(DevIdentityCommand::Ctl { state, action }) => tell(state, action).await,
        None => serve(arguments.serve).await,
    }
}

async fn serve(arguments: ServeArgs) -> anyhow::Result<ExitCode> {
    let ServeArgs { state, trust_domains, mut workloads, ttl, ca_ttl, federate } = arguments;
    let state_dir = std::path::absolute(state.context("--state DIR is needed")?)?;
    if federate {
        for workload in &mut workloads {
            let own: Vec<TrustDomain> = workload.svids.iter().map(|(id, _hint)| id.trust_domain()).collect();
            workload.federates_with = trust_domains.iter().filter(|name| !own.contains(name)).cloned().collect();
        }
    }
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let config = DevConfig { state_dir: state_dir.clone(), trust_domains, workloads, svid_ttl: ttl, ca_ttl };
    let provider = Arc::new(DevProvider::start(config)?);
    let listener = control::bind(&state_dir)?;
    print_sockets(&provider, &state_dir)?;
    tokio::select! {
        () = control::serve(provider.clone(), listener) => {}
        _ = interrupted.recv() => {}
        _ = terminated.recv() => {}
    }
    provider.stop();
    // The socket is ours alone; one that is gone already is no problem.
    let _ = std::fs::remove_file(control::control_socket(&state_dir));
    Ok(ExitCode::SUCCESS)
}

fn print_sockets(provider: &DevProvider, state_dir: &std::path::Path) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for workload in provider.list() {
        let ids: Vec<String> = workload.ids.iter().map(ToString::to_string).collect();
        writeln!(
            out,
            "SPIFFE_ENDPOINT_SOCKET=unix://{}  # {}: {}",
            workload.socket.display(),
            workload.name,
            ids.join(", ")
        )?;
    }
    writeln!(
        out,
        "# For development only: nobody is attested, and the CA keys are on disk in {}.",
        state_dir.display()
    )?;
    writeln!(out, "ready")?;
    out.flush()
}

async fn tell(state_dir: PathBuf, action: ControlAction) -> anyhow::Result<ExitCode> {
    let request = match action {
        ControlAction::RotateSvids => ControlRequest::RotateSvids,
        ControlAction::PublishCa { trust_domain } => ControlRequest::PublishCa { trust_domain },
        ControlAction::Reissue { trust_domain } => ControlRequest::Reissue { trust_domain },
        ControlAction::RemoveOldCa { trust_domain } => ControlRequest::RemoveOldCa { trust_domain },
        ControlAction::RotateCa { trust_domain, wait } => {
            ControlRequest::RotateCa { trust_domain, wait_ms: wait.as_millis().try_into().unwrap_or(u64::MAX) }
        }
        ControlAction::Revoke { workload } => ControlRequest::Revoke { workload },
        ControlAction::Withdraw { workload } => ControlRequest::Withdraw { workload },
        ControlAction::Restore { workload } => ControlRequest::Restore { workload },
        ControlAction::List => ControlRequest::List,
    };
    match control::ask(&state_dir, &request).await? {
        ControlAnswer::Done { lines } => {
            let mut out = std::io::stdout().lock();
            lines.iter().try_for_each(|line| writeln!(out, "{line}"))?;
            Ok(ExitCode::SUCCESS)
        }
        ControlAnswer::Failed { error } => bail!(error),
    }
}

fn parse_trust_domain(text: &str) -> anyhow::Result<TrustDomain> {
    TrustDomain::parse(text).with_context(|| format!("{text:?}"))
}

/// `NAME=ID[;hint=H][,ID…]`. Neither `,` nor `;` can be in a SPIFFE ID.
fn parse_workload(text: &str) -> anyhow::Result<DevWorkload> {
    let (name, ids) = text.split_once('=').context("write NAME=spiffe://trust-domain/path")?;
    let mut svids = Vec::new();
    for entry in ids.split(',') {
        let (id, hint) = match entry.split_once(';') {
            None => (entry, None),
            Some((id, option)) => match option.strip_prefix("hint=") {
                Some(hint) if !hint.is_empty() => (id, Some(hint.to_owned())),
                _ => bail!("after `;` only `hint=…` may come, not {option:?}"),
            },
        };
        svids.push((SpiffeId::parse(id).with_context(|| format!("{id:?}"))?, hint));
    }
    Ok(DevWorkload { name: name.to_owned(), socket: None, svids, federates_with: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        arguments: DevIdentityArgs,
    }

    fn parse(line: &str) -> Result<DevIdentityArgs, clap::Error> {
        Program::try_parse_from(std::iter::once("dev-identity").chain(line.split_whitespace()))
            .map(|program| program.arguments)
    }

    #[test]
    fn reads_workloads_with_several_ids_and_hints() {
        let line = "--state d --trust-domain a.example --workload web=spiffe://a.example/web,spiffe://a.example/x;hint=internal";
        let serve = parse(line).unwrap().serve;
        let workload = &serve.workloads[0];
        assert_eq!(workload.name, "web");
        let svids: Vec<_> = workload.svids.iter().map(|(id, hint)| (id.as_str(), hint.as_deref())).collect();
        assert_eq!(svids, [("spiffe://a.example/web", None), ("spiffe://a.example/x", Some("internal"))]);
        assert_eq!((serve.ttl, serve.ca_ttl), (Duration::from_secs(3600), Duration::from_secs(86400)));
    }

    #[test]
    fn refuses_what_is_not_a_workload() {
        let serve = |workload: &str| parse(&format!("--state d --trust-domain a.example --workload {workload}"));
        assert!(serve("web=spiffe://a.example/web").is_ok(), "the control");
        for wrong in [
            "web",
            "web=",
            "web=http://a/b",
            "web=spiffe://a.example/web;hint=",
            "web=spiffe://a.example/w;h=1",
            "web=spiffe://a.example/w,",
        ] {
            assert!(serve(wrong).is_err(), "{wrong}");
        }
        assert!(parse("--trust-domain a.example --workload web=spiffe://a.example/web").is_err(), "no state");
    }

    #[test]
    fn ctl_needs_no_arguments_of_the_server() {
        let arguments = parse("ctl --state d rotate-ca a.example --wait 50ms").unwrap();
        let Some(DevIdentityCommand::Ctl { action: ControlAction::RotateCa { trust_domain, wait }, .. }) =
            arguments.command
        else {
            panic!("not rotate-ca");
        };
        assert_eq!((trust_domain.as_deref(), wait), (Some("a.example"), Duration::from_millis(50)));
    }

    #[tokio::test]
    async fn a_running_provider_obeys_its_control_socket() {
        let directory = tempfile::tempdir().unwrap();
        let config = DevConfig {
            state_dir: directory.path().to_owned(),
            trust_domains: vec![TrustDomain::parse("a.example").unwrap()],
            workloads: vec![parse_workload("web=spiffe://a.example/web").unwrap()],
            svid_ttl: Duration::from_secs(60),
            ca_ttl: Duration::from_secs(600),
        };
        let provider = Arc::new(DevProvider::start(config).unwrap());
        let server = tokio::spawn(control::serve(provider.clone(), control::bind(directory.path()).unwrap()));
        let ask = async |request| control::ask(directory.path(), &request).await.unwrap();
        let trust_domain = TrustDomain::parse("a.example").unwrap();
        let before = provider.bundle(&trust_domain).unwrap();

        let answer = ask(ControlRequest::PublishCa { trust_domain: None }).await;
        assert_eq!(answer, ControlAnswer::Done { lines: vec!["a.example: published a new authority".to_owned()] });
        assert!(provider.bundle(&trust_domain).unwrap().len() > before.len());
        let answer = ask(ControlRequest::RotateCa { trust_domain: Some("a.example".to_owned()), wait_ms: 0 }).await;
        assert!(matches!(answer, ControlAnswer::Done { lines } if lines.len() == 3));
        ask(ControlRequest::Withdraw { workload: "web".to_owned() }).await;
        let ControlAnswer::Done { lines } = ask(ControlRequest::List).await else { panic!("list failed") };
        assert!(lines[0].starts_with("web (withdrawn): spiffe://a.example/web at unix:///"), "{lines:?}");
        let answer = ask(ControlRequest::Withdraw { workload: "nobody".to_owned() }).await;
        assert!(matches!(answer, ControlAnswer::Failed { error } if error.contains("nobody")));
        let answer = ask(ControlRequest::Reissue { trust_domain: Some("A!".to_owned()) }).await;
        assert!(matches!(answer, ControlAnswer::Failed { .. }));
        server.abort();
    }
}
