//! What the parts of the request path cost, each alone: `cargo run --profile dist -p postern-bench -- micro`.
//!
//! Times of a shared machine are noisy: compare the figures of one run with each other, and runs by their ratios.

use anyhow::Context as _;
use http::Method;
use postern::authz::{Principal, RuleSet};
use postern::http::normalize::read_path;
use postern::http::route::RouteTable;
use postern::identity::dev::{DevConfig, DevProvider, DevWorkload};
use postern::identity::{Counters, IdentityStore, Snapshot};
use postern::tls::{Accept, ClientAlpn, Connect, Role, ServerAlpn, Strictness, accept, connect, verify_svid};
use postern_config::identity::{Endpoint, IdentitySource};
use postern_config::{Config, Identity, SpiffeId, SpiffePattern, TrustDomain};
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

const ROUNDS: usize = 5;
const ROUTES: usize = 1000;
const HANDSHAKES: u32 = 300;

pub fn run() -> anyhow::Result<()> {
    println!("{:<44} {:>12}", "", "ns, best of 5");
    paths();
    routes_and_rules()?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(identity())
}

/// Runs `work` often enough to be timed, and prints what once takes in the best of the rounds.
fn measure(name: &str, count: u32, mut work: impl FnMut()) {
    let best = (0..ROUNDS)
        .map(|_| {
            let started = Instant::now();
            (0..count).for_each(|_| work());
            started.elapsed() / count
        })
        .min();
    println!("{name:<44} {:>12}", best.unwrap_or_default().as_nanos());
}

fn paths() {
    for (name, path) in [
        ("read a plain path", "/orders/7/items"),
        ("read a path with codes, dots and parameters", "/a/../orders;v=1/%37//items"),
    ] {
        measure(name, 200_000, || {
            black_box(read_path(black_box(path), false)).ok();
        });
    }
}

fn routes_and_rules() -> anyhow::Result<()> {
    let mut text =
        String::from("inbound:\n  - port: 8080\n    listen: 127.0.0.1:18080\n    protocol: http\n    routes:\n");
    for index in 0..ROUTES {
        text.push_str(&format!(
            "      - match: {{ path: \"/service-{index}/**\", methods: [GET] }}\n        allow: [{{ spiffe: \"spiffe://shop.example/ns/n{index}/sa/*\" }}]\n"
        ));
    }
    let config = Config::from_str(Path::new("bench.yaml"), &text)?;
    let inbound = config.inbound.first().context("the text above has a port")?;
    let table = RouteTable::compile(&inbound.routes);
    let rules: Vec<_> = inbound.routes.iter().flat_map(|route| route.allow.clone()).collect();
    let rules = RuleSet::compile(&rules);
    let caller = SpiffeId::parse("spiffe://shop.example/ns/n700/sa/web")?;
    let readings = read_path("/service-700/items/7", false)?;
    measure("choose one of 1,000 routes", 200_000, || {
        black_box(table.select("orders.shop", &Method::GET, &readings)).ok();
    });
    measure("decide by 1,000 rules with patterns", 20_000, || {
        black_box(rules.decide_http(&Principal::Spiffe(&caller), &Method::GET, &readings));
    });
    Ok(())
}

async fn identity() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let id = SpiffeId::parse("spiffe://shop.example/orders")?;
    let provider = DevProvider::start(DevConfig {
        state_dir: directory.path().join("identity"),
        trust_domains: vec![TrustDomain::parse("shop.example")?],
        workloads: vec![DevWorkload {
            name: "orders".to_owned(),
            socket: None,
            svids: vec![(id.clone(), None)],
            federates_with: Vec::new(),
        }],
        svid_ttl: Duration::from_secs(3600),
        ca_ttl: Duration::from_secs(86400),
    })?;
    let store = Arc::new(IdentityStore::default());
    let endpoint = Some(Endpoint::Unix(provider.socket("orders")?));
    let config = Identity { source: IdentitySource::WorkloadApi { endpoint }, ..Identity::default() };
    let mut changes = store.subscribe();
    let _source = postern::identity::spawn(&config, None, store.clone(), Arc::new(Counters::default()))?;
    while store.load().svids.is_empty() {
        changes.changed().await?;
    }
    let snapshot = store.load();
    let chain = snapshot.svids[0].certified.cert.clone();
    measure("verify an SVID", 300, || {
        let now = SystemTime::now();
        black_box(verify_svid(&chain, &snapshot.bundles, 1, Role::Client, now, Strictness::Strict)).ok();
    });
    let expected = [SpiffePattern::parse(id.as_str()).map_err(anyhow::Error::msg)?];
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let started = Instant::now();
        for _ in 0..HANDSHAKES {
            handshake(&snapshot, &expected).await?;
        }
        best = best.min(started.elapsed() / HANDSHAKES);
    }
    println!("{:<44} {:>12}", "an mTLS handshake, both sides", best.as_nanos());
    Ok(())
}

async fn handshake(snapshot: &Arc<Snapshot>, expected: &[SpiffePattern]) -> anyhow::Result<()> {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let (svid, deadline) = (&snapshot.svids[0], Duration::from_secs(5));
    let strictness = Strictness::Strict;
    let server = accept(ours, Accept { snapshot, svid, alpn: ServerAlpn::Http, strictness, deadline });
    let client = connect(theirs, Connect { snapshot, svid, expected, alpn: ClientAlpn::H2, strictness, deadline });
    tokio::try_join!(server, client)?;
    Ok(())
}
