//! `postern client` and `postern server`: a useful proxy without a file, on the agent at `$SPIFFE_ENDPOINT_SOCKET`.

use super::run::run_config;
use clap::{Args, ValueEnum};
use postern_config::authz::{Principal, Rule, Rules};
use postern_config::identity::{Endpoint, IdentitySource};
use postern_config::{
    Admin, AppAddress, AppHttp, Config, Drift, Endpoints, Hardening, Identity, IdentityHeaders, Inbound, InboundTls,
    Limits, ListenAddress, Mode, OnExpiry, Outbound, Place, Protocol, Resilience, Revocation, Service, ServiceProtocol,
    SpiffePattern, SvidSelector, Telemetry, Timeouts, Transport, Workload,
};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Clone, Copy, ValueEnum)]
enum ProtocolArg {
    Http,
    Tcp,
    Detect,
}

/// What both commands take.
#[derive(Args)]
struct Common {
    /// What the connections carry
    #[arg(long, value_enum, default_value = "detect")]
    protocol: ProtocolArg,
    /// The Workload API's endpoint [default: $SPIFFE_ENDPOINT_SOCKET]
    #[arg(long, value_name = "URI")]
    workload_api: Option<String>,
    /// Serve Prometheus metrics here
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<SocketAddr>,
    /// Serve /healthz/ready here
    #[arg(long, value_name = "ADDRESS")]
    readiness: Option<SocketAddr>,
    /// The admin socket, for `postern status`
    #[arg(long, value_name = "PATH")]
    admin: Option<PathBuf>,
    /// Threads of the data plane [default: the CPU quota]
    #[arg(long, value_name = "N")]
    workers: Option<NonZeroUsize>,
    /// Give up nothing at the start: see `hardening` of the configuration file
    #[arg(long)]
    no_hardening: bool,
}

#[derive(Args)]
pub struct ClientArgs {
    /// Where the application connects to: an address, or unix:/PATH
    #[arg(long, value_name = "ADDRESS")]
    listen: ListenAddress,
    /// Where the peer listens: an address, or a name and a port
    #[arg(long, value_name = "HOST:PORT")]
    to: String,
    /// Who has to answer there: a SPIFFE ID or a pattern; may be repeated
    #[arg(long, value_name = "SPIFFE-ID", required = true, num_args = 1..)]
    peer: Vec<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
pub struct ServerArgs {
    /// Where peers connect to
    #[arg(long, value_name = "ADDRESS")]
    listen: SocketAddr,
    /// The application: an address, or unix:/PATH
    #[arg(long, value_name = "ADDRESS")]
    app: String,
    /// Who may connect: a SPIFFE ID or a pattern; may be repeated
    #[arg(long, value_name = "SPIFFE-ID", required = true, num_args = 1..)]
    allow: Vec<String>,
    #[command(flatten)]
    common: Common,
}

/// # Errors
/// An argument that is not what it should be, or the proxy cannot start.
pub fn client(args: &ClientArgs) -> anyhow::Result<ExitCode> {
    let service = Service {
        name: "upstream".to_owned(),
        hosts: Vec::new(),
        addresses: Vec::new(),
        listen: Some(args.listen.clone()),
        users: Vec::new(),
        endpoints: endpoints(&args.to)?,
        protocol: match args.common.protocol {
            ProtocolArg::Http => ServiceProtocol::Http,
            ProtocolArg::Tcp => ServiceProtocol::Tcp,
            ProtocolArg::Detect => ServiceProtocol::Detect,
        },
        transport: Transport::Mesh {
            identity: patterns("--peer", &args.peer)?,
            svid: SvidSelector::Default,
            tunnel: None,
        },
        credential: None,
        on_expiry: OnExpiry::Keep,
        connect_timeout: None,
        resilience: Resilience::default(),
        place: Place::command_line(),
    };
    let outbound = Outbound { listen: Vec::new(), services: vec![service] };
    run_config(args.common.config(Vec::new(), outbound)?, None)
}

/// # Errors
/// As [`client`].
pub fn server(args: &ServerArgs) -> anyhow::Result<ExitCode> {
    let app = match args.app.strip_prefix("unix:") {
        Some(path) => AppAddress::Unix(PathBuf::from(path)),
        None => AppAddress::Tcp(args.app.parse().map_err(|error| {
            anyhow::anyhow!("--app {:?} is neither an address such as 127.0.0.1:8080 nor unix:/PATH: {error}", args.app)
        })?),
    };
    let allow =
        Rule::about("--allow".to_owned(), Principal::Spiffe(patterns("--allow", &args.allow)?), Place::command_line());
    let inbound = Inbound {
        mode: Mode::Enforce,
        name: "inbound".to_owned(),
        port: args.listen.port(),
        listen: Some(args.listen),
        app,
        protocol: match args.common.protocol {
            ProtocolArg::Http => Protocol::Http,
            ProtocolArg::Tcp => Protocol::Tcp,
            ProtocolArg::Detect => Protocol::Detect,
        },
        tls: InboundTls::Strict,
        app_http: AppHttp::Same,
        svid: SvidSelector::Default,
        forwarders: Vec::new(),
        identity_headers: IdentityHeaders { xfcc: true, spiffe_id: true, client_cert: false },
        rules: Rules { allow: vec![allow], ..Rules::default() },
        routes: Vec::new(),
        authorize: None,
        rate_limit: None,
        on_expiry: OnExpiry::Keep,
        request_timeout: None,
        place: Place::command_line(),
    };
    run_config(args.common.config(vec![inbound], Outbound::default())?, None)
}

impl Common {
    fn config(&self, inbound: Vec<Inbound>, outbound: Outbound) -> anyhow::Result<Config> {
        let endpoint = self
            .workload_api
            .as_deref()
            .map(|text| Endpoint::parse(text).map_err(|error| anyhow::anyhow!("--workload-api {text:?}: {error}")));
        let identity =
            Identity { source: IdentitySource::WorkloadApi { endpoint: endpoint.transpose()? }, ..Identity::default() };
        Ok(Config {
            revocation: Revocation::default(),
            break_glass: None,
            capture: None,
            tunnel: None,
            identity,
            inbound,
            outbound,
            authorizers: Vec::new(),
            audit: None,
            telemetry: Telemetry { metrics: self.metrics, readiness: self.readiness, ..Telemetry::default() },
            drift: Drift::default(),
            admin: Admin { socket: self.admin.clone(), ..Admin::default() },
            workers: self.workers,
            drain_timeout: None,
            timeouts: Timeouts::default(),
            limits: Limits::default(),
            workload: Workload::default(),
            hardening: if self.no_hardening { Hardening::NONE } else { Hardening::default() },
            sources: Vec::new(),
        })
    }
}

fn patterns(option: &str, texts: &[String]) -> anyhow::Result<Vec<SpiffePattern>> {
    let parse =
        |text: &String| SpiffePattern::parse(text).map_err(|error| anyhow::anyhow!("{option} {text:?}: {error}"));
    texts.iter().map(parse).collect()
}

fn endpoints(text: &str) -> anyhow::Result<Endpoints> {
    if let Ok(address) = text.parse() {
        return Ok(Endpoints::Static(vec![address]));
    }
    let parsed = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
    let (host, port) = parsed.filter(|(host, _)| !host.is_empty()).ok_or_else(|| {
        anyhow::anyhow!("--to {text:?} is neither an address nor HOST:PORT, such as orders.shop:8443")
    })?;
    Ok(Endpoints::Dns { host: host.to_owned(), port })
}
