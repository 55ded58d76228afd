//! `postern redirect`: installs, removes, checks and prints the rules by which connections are captured.

pub(super) mod check;
mod names;

use super::doctor::{Report, Verdict};
use super::output::print;
use crate::redirect::host::{self, Attempt, default_flavour, flavours};
use crate::redirect::nft::Layout;
use crate::redirect::{
    Backend, Families, Family, HostFacts, Interface, RedirectPlan, Wanted, iptables, nft, probe, proc, routes,
};
use anyhow::{Context as _, bail};
use check::Privilege;
use clap::{Args, Subcommand, ValueEnum};
use postern_config::{CaptureMode, Config, Network};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

/// `postern redirect …`
#[derive(Args, Debug)]
pub struct RedirectArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Install the rules, replacing ours if they are there, and see whether connections arrive
    Install(InstallArgs),
    /// Remove everything that `install` made, by whatever packet filter
    Remove,
    /// See whether the rules are as they should be and connections arrive, each finding with its fix
    Check(WantedArgs),
    /// Print what `install` would give to the packet filter
    Print(PrintArgs),
    /// A connection of another user, for the other actions
    #[command(hide = true)]
    Probe(ProbeArgs),
}

#[derive(Args, Debug)]
struct InstallArgs {
    #[command(flatten)]
    wanted: WantedArgs,
    /// By which packet filter; auto: the first that takes the rules
    #[arg(long, value_enum, default_value_t = BackendChoice::Auto)]
    backend: BackendChoice,
    /// Also where that may cut off the SSH session that this runs in
    #[arg(long)]
    yes: bool,
}

#[derive(Args, Debug)]
struct PrintArgs {
    #[command(flatten)]
    wanted: WantedArgs,
    /// For which packet filter; auto: nftables
    #[arg(long, value_enum, default_value_t = BackendChoice::Auto)]
    backend: BackendChoice,
}

#[derive(Args, Debug)]
struct ProbeArgs {
    #[arg(long)]
    to: SocketAddr,
    /// Whether who listens there says who it is
    #[arg(long)]
    greeted: bool,
}

/// What is to be captured: flags add to the lists of the file, and override the rest of it.
#[derive(Args, Debug)]
struct WantedArgs {
    /// The configuration with `capture:`; without it the flags say all, and both directions are captured
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where connections of other hosts are to arrive
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    inbound_port: Option<u16>,
    /// Where connections of the application are to arrive
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    outbound_port: Option<u16>,
    /// Where the application's name queries are to arrive, over UDP and TCP
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    dns_port: Option<u16>,
    /// A nameserver on loopback to which name queries are captured; without it: those of /etc/resolv.conf
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',', value_parser = loopback_address)]
    loopback_nameserver: Vec<IpAddr>,
    /// Who forwards name queries for this host, by name or number; without it: who holds such a nameserver's socket
    #[arg(long, value_name = "USER")]
    resolver_user: Vec<String>,
    /// Whose connections are not captured: the user that Postern runs as, by name or number
    #[arg(long, value_name = "USER")]
    exempt_user: Vec<String>,
    /// A port of this host that is left alone
    #[arg(long, value_name = "PORT", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..))]
    exclude_inbound_port: Vec<u16>,
    /// A port to which the application connects by itself
    #[arg(long, value_name = "PORT", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..))]
    exclude_outbound_port: Vec<u16>,
    /// A network to which the application connects by itself
    #[arg(long, value_name = "NETWORK", value_delimiter = ',', value_parser = network)]
    exclude_network: Vec<Network>,
    /// Capture connections to this network (and others so named) alone
    #[arg(long, value_name = "NETWORK", value_delimiter = ',', value_parser = network)]
    only_network: Vec<Network>,
    /// Connections through this interface arrive uncaptured
    #[arg(long, value_name = "INTERFACE", value_delimiter = ',', value_parser = interface)]
    exclude_interface: Vec<String>,
    /// How inbound connections are diverted
    #[arg(long, value_enum)]
    mode: Option<ModeChoice>,
    /// Drop what leaves this host past Postern
    #[arg(long)]
    closed_egress: bool,
    /// Which addresses the rules are about; auto: those that this kernel has
    #[arg(long, value_enum, default_value_t = FamilyChoice::Auto)]
    family: FamilyChoice,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ModeChoice {
    Redirect,
    Tproxy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum FamilyChoice {
    V4,
    V6,
    Both,
    Auto,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum BackendChoice {
    Auto,
    Nft,
    Iptables,
    IptablesNft,
    IptablesLegacy,
}

fn network(text: &str) -> Result<Network, String> {
    Network::parse(text).map_err(|error| format!("it {error}"))
}

fn loopback_address(text: &str) -> Result<IpAddr, String> {
    let ip = text.parse::<IpAddr>().map_err(|error| error.to_string())?.to_canonical();
    if ip.is_loopback() { Ok(ip) } else { Err("it is not on loopback, and captured anyway".to_owned()) }
}

fn interface(text: &str) -> Result<String, String> {
    Interface::parse(text).map(|name| name.to_string()).map_err(|error| error.to_string())
}

/// Exit 1 if the rules are not there, or a connection does not arrive.
pub fn run(arguments: &RedirectArgs) -> anyhow::Result<ExitCode> {
    match &arguments.action {
        Action::Install(arguments) => install(arguments),
        Action::Remove => remove(),
        Action::Check(arguments) => {
            let mut report = Report::default();
            check::examine(&mut report, &wanted(arguments)?, arguments.family, Privilege::Mandatory);
            Ok(finish(&report))
        }
        Action::Print(arguments) => {
            let plan = plan(&wanted(&arguments.wanted)?, arguments.wanted.family)?;
            print(&names::comments(&plan, &proc::passwd()));
            print(&rules(&plan, arguments.backend));
            Ok(ExitCode::SUCCESS)
        }
        Action::Probe(arguments) => {
            print(&format!("{}\n", probe::connect(arguments.to, arguments.greeted)));
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn finish(report: &Report) -> ExitCode {
    print(&report.render());
    if report.count(Verdict::Fail) == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn install(arguments: &InstallArgs) -> anyhow::Result<ExitCode> {
    let plan = plan(&wanted(&arguments.wanted)?, arguments.wanted.family)?;
    let session = std::env::var("SSH_CONNECTION").ok();
    if let (Some(port), false) = (session.as_deref().and_then(port_of_session), arguments.yes)
        && plan.captures_inbound(port)
    {
        bail!(
            "this session came in by port {port}, which would be captured: it may end, and no new one gets in\n  fix: add \
             --exclude-inbound-port {port}, or --yes if you mean it"
        );
    }
    match host::install(&plan, &candidates(arguments.backend)) {
        Ok(backend) => print(&format!("installed by {backend}: {}\n\n", summary(&plan))),
        Err(attempts) => bail!("no packet filter took the rules, and nothing was changed\n{}", told(&attempts)),
    }
    let mut report = Report::default();
    names::examine(&mut report, &plan);
    check::arrivals(&mut report, &plan);
    Ok(finish(&report))
}

fn remove() -> anyhow::Result<ExitCode> {
    match host::remove() {
        Ok(()) => print("removed: nothing of ours is installed\n"),
        Err(error) => bail!("{error}\n  fix: {}", error.fix()),
    }
    Ok(ExitCode::SUCCESS)
}

/// `$SSH_CONNECTION`: the client's address and port, then the server's (ssh(1)).
fn port_of_session(variable: &str) -> Option<u16> {
    variable.split_ascii_whitespace().nth(3)?.parse().ok()
}

/// A refused capability is the same for every packet filter, and told once.
fn told(attempts: &[Attempt]) -> String {
    let told = |attempt: &Attempt| format!("  {}: {}\n  fix: {}", attempt.backend, attempt.error, attempt.error.fix());
    let mut lines: Vec<String> = Vec::new();
    for attempt in attempts {
        let fix = format!("fix: {}", attempt.error.fix());
        if !lines.iter().any(|line| line.ends_with(&fix)) {
            lines.push(told(attempt));
        }
    }
    lines.join("\n")
}

fn summary(plan: &RedirectPlan) -> String {
    let families: Vec<String> = plan.families.list().iter().map(Family::to_string).collect();
    let mut parts = Vec::new();
    if let Some(port) = plan.inbound {
        let how = if plan.diverts() { " by TPROXY" } else { "" };
        parts.push(format!("inbound to {port}{how}"));
    }
    parts.extend(plan.outbound.map(|port| format!("outbound to {port}")));
    parts.extend(plan.names.as_ref().map(|names| format!("name queries to {}", names.port)));
    if plan.closed_egress {
        parts.push("egress closed".to_owned());
    }
    format!("{}, {}", parts.join(", "), families.join(" and "))
}

/// What the file says, with the flags.
fn wanted(arguments: &WantedArgs) -> anyhow::Result<Wanted> {
    let flags_name_a_port = arguments.inbound_port.is_some() || arguments.outbound_port.is_some();
    let mut wanted = match &arguments.config {
        Some(path) => {
            let config = Config::load(path)
                .map_err(|problems| anyhow::anyhow!("{problems}"))
                .with_context(|| format!("{} cannot be used", path.display()))?;
            match Wanted::of_file(&config) {
                Some(wanted) => wanted,
                None if flags_name_a_port => {
                    Wanted::of_file(&Config { capture: Some(nothing()), ..config }).expect("set")
                }
                None => bail!(
                    "{} has no `capture:`; add `capture: {{ inbound: 15006, outbound: 15001 }}`, or give --inbound-port \
                     and --outbound-port",
                    path.display()
                ),
            }
        }
        None if flags_name_a_port => Wanted { capture: nothing(), ..Wanted::without_a_file() },
        None => Wanted::without_a_file(),
    };
    name_queries(arguments, &mut wanted)?;
    let capture = &mut wanted.capture;
    capture.inbound = arguments.inbound_port.or(capture.inbound);
    capture.outbound = arguments.outbound_port.or(capture.outbound);
    match arguments.mode {
        Some(ModeChoice::Redirect) => capture.mode = CaptureMode::Redirect,
        Some(ModeChoice::Tproxy) => capture.mode = CaptureMode::Tproxy,
        None => {}
    }
    let redirect = &mut capture.redirect;
    redirect.exempt_users.extend(arguments.exempt_user.iter().cloned());
    redirect.exclude_inbound_ports.extend(&arguments.exclude_inbound_port);
    redirect.exclude_outbound_ports.extend(&arguments.exclude_outbound_port);
    redirect.exclude_networks.extend(&arguments.exclude_network);
    redirect.only_networks.extend(&arguments.only_network);
    redirect.exclude_interfaces.extend(arguments.exclude_interface.iter().cloned());
    redirect.closed_egress |= arguments.closed_egress;
    Ok(wanted)
}

/// Of name queries.
fn name_queries(arguments: &WantedArgs, wanted: &mut Wanted) -> anyhow::Result<()> {
    if let Some(port) = arguments.dns_port {
        wanted.names.get_or_insert_default().port = port;
    }
    let Some(names) = &mut wanted.names else {
        if arguments.loopback_nameserver.is_empty() && arguments.resolver_user.is_empty() {
            return Ok(());
        }
        bail!("name queries are not captured; add --dns-port 15053, or `capture.dns` to the file");
    };
    if !arguments.loopback_nameserver.is_empty() {
        names.loopback_nameservers.get_or_insert_default().extend(&arguments.loopback_nameserver);
    }
    if !arguments.resolver_user.is_empty() {
        names.resolver_users.get_or_insert_default().extend(arguments.resolver_user.iter().cloned());
    }
    Ok(())
}

/// Flags that name a port name all of them.
fn nothing() -> postern_config::Capture {
    postern_config::Capture { inbound: None, outbound: None, ..Wanted::without_a_file().capture }
}

fn plan(wanted: &Wanted, family: FamilyChoice) -> anyhow::Result<RedirectPlan> {
    let (passwd, resolv_conf) = (proc::passwd(), proc::resolv_conf());
    // Looking for the holders of sockets means looking at every process.
    let nameservers = if wanted.names.is_some() { proc::nameservers() } else { Vec::new() };
    let facts = HostFacts {
        passwd: &passwd,
        resolv_conf: &resolv_conf,
        nameservers: &nameservers,
        uid: crate::admin::own_uid(),
        families: match family {
            FamilyChoice::V4 => Families::V4,
            FamilyChoice::V6 => Families::V6,
            FamilyChoice::Both => Families::Both,
            FamilyChoice::Auto => proc::families(),
        },
        tcp_be_liberal: proc::setting("net/netfilter/nf_conntrack_tcp_be_liberal") == Some(1),
    };
    Ok(RedirectPlan::new(wanted, facts)?)
}

/// What is tried, in this order.
fn candidates(choice: BackendChoice) -> Vec<Backend> {
    let nft = [Backend::Nft(Layout::Inet), Backend::Nft(Layout::Split)];
    match choice {
        BackendChoice::Nft => nft.to_vec(),
        BackendChoice::Iptables => vec![Backend::Iptables(default_flavour())],
        BackendChoice::IptablesNft => vec![Backend::Iptables("iptables-nft")],
        BackendChoice::IptablesLegacy => vec![Backend::Iptables("iptables-legacy")],
        BackendChoice::Auto => {
            let mut all = nft.to_vec();
            all.push(Backend::Iptables(default_flavour()));
            let more = flavours().into_iter().map(Backend::Iptables);
            all.extend(more.filter(|backend| *backend != Backend::Iptables(default_flavour())));
            all
        }
    }
}

fn rules(plan: &RedirectPlan, backend: BackendChoice) -> String {
    let mut text = match backend {
        BackendChoice::Auto | BackendChoice::Nft => format!("# nft -f -\n{}", nft::install(plan, Layout::Inet, &[])),
        _ => {
            let program =
                |family: &Family| if *family == Family::V4 { "iptables-restore" } else { "ip6tables-restore" };
            let part = |family| format!("# {} --noflush\n{}", program(family), iptables::install(plan, *family, ""));
            plan.families.list().iter().map(part).collect()
        }
    };
    for command in routes::commands(plan) {
        text += &format!("# {command}\n");
    }
    text
}

#[cfg(test)]
mod tests;
