use super::{FAMILIES, Kind, Metrics};
use crate::admin::tests::svid;
use crate::identity::{Bundle, IdentityState, Snapshot, SourceStatus, TokenKeys};
use crate::refusal::Refusal;
use crate::telemetry::ExternalVerdict;
use crate::token::{KeySet, Origin};
use postern_config::{IssuerKeysFrom, TokenIssuer, TrustDomain};
use std::collections::{HashMap, HashSet};
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

fn has(page: &str, line: &str) -> bool {
    page.lines().any(|other| other == line)
}

fn no_keys_of(trust_domain: TrustDomain) -> Arc<TokenKeys> {
    let none = KeySet::parse(br#"{"keys":[]}"#, Origin::WorkloadApi).unwrap();
    Arc::new(HashMap::from([(trust_domain, Arc::new(none))]))
}

/// The `prometheus` crate's own vectors would give these four one series (its hash joins values without a separator).
#[test]
fn label_values_that_join_to_the_same_text_are_different_series() {
    let metrics = Metrics::new();
    metrics.inbound("ab").refused(Refusal::NoRoute);
    metrics.inbound("a").refused(Refusal::NoRoute);
    metrics.inbound("a").refused(Refusal::NoRoute);
    metrics.outbound("ab").refused(Refusal::NoRoute);
    let page = metrics.render();
    for (direction, name, count) in [("inbound", "ab", 1), ("inbound", "a", 2), ("outbound", "ab", 1)] {
        let line =
            format!(r#"postern_refusals_total{{direction="{direction}",name="{name}",code="no_route"}} {count}"#);
        assert!(has(&page, &line), "{line}");
    }
    // Two SVIDs whose ID and hint join to the same text.
    let later = SystemTime::now() + Duration::from_secs(100);
    let with_hint = |name: &str, hint: &str| {
        let plain = Arc::into_inner(svid(name, later)).unwrap();
        Arc::new(crate::identity::Svid { hint: Some(hint.to_owned()), ..plain })
    };
    let svids = vec![with_hint("ab", "c"), with_hint("a", "bc")];
    metrics.update_identity(&Snapshot { svids, ..Snapshot::empty() }, SystemTime::now());
    assert_eq!(metrics.render().matches("postern_svid_expiry_seconds{").count(), 2);
}

#[test]
fn one_name_has_one_handle() {
    let metrics = Metrics::new();
    let (first, second) = (metrics.inbound("orders"), metrics.inbound("orders"));
    assert!(Arc::ptr_eq(&first, &second));
    assert!(!Arc::ptr_eq(&first, &metrics.outbound("orders")));
}

#[test]
fn a_port_is_forgotten_when_neither_configuration_nor_a_connection_holds_it() {
    let metrics = Metrics::new();
    let held = metrics.inbound("held");
    drop(metrics.inbound("gone"));
    drop(metrics.inbound("named"));
    metrics.retain_ports(|_, name| name == "named");
    let names: Vec<_> = metrics.ports().into_iter().map(|(_, name, _)| name).collect();
    assert_eq!(names, ["held", "named"]);
    drop(held);
}

#[test]
fn histograms_are_cumulative_and_add_up() {
    let metrics = Metrics::new();
    let port = metrics.inbound("orders");
    port.request(200, 0.0007);
    port.request(200, 0.0007);
    port.request(503, 100.0);
    let page = metrics.render();
    for line in [
        r#"postern_request_duration_seconds_bucket{direction="inbound",name="orders",le="0.0005"} 0"#,
        r#"postern_request_duration_seconds_bucket{direction="inbound",name="orders",le="0.001"} 2"#,
        r#"postern_request_duration_seconds_bucket{direction="inbound",name="orders",le="60"} 2"#,
        r#"postern_request_duration_seconds_bucket{direction="inbound",name="orders",le="+Inf"} 3"#,
        r#"postern_request_duration_seconds_count{direction="inbound",name="orders"} 3"#,
        r#"postern_requests_total{direction="inbound",name="orders",status="2xx"} 2"#,
        r#"postern_requests_total{direction="inbound",name="orders",status="5xx"} 1"#,
    ] {
        assert!(has(&page, line), "{line} in {page}");
    }
}

#[test]
fn identity_is_shown_as_it_is_and_what_is_gone_is_gone() {
    let metrics = Metrics::new();
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let trust_domain = TrustDomain::parse("shop.example").unwrap();
    let bundle = Bundle {
        trust_domain: trust_domain.clone(),
        anchors: Vec::new(),
        updated_at: now - Duration::from_secs(60),
        fetched: false,
    };
    let snapshot = Snapshot {
        generation: 4,
        svids: vec![svid("web", now + Duration::from_secs(30)), svid("old", now - Duration::from_secs(5))],
        bundles: HashMap::from([(trust_domain.clone(), Arc::new(bundle))]),
        token_keys: no_keys_of(trust_domain),
        source: SourceStatus::Broken { since: now, reason: "gone".to_owned() },
        received_at: Some(now - Duration::from_secs(10)),
        ..Snapshot::empty()
    };
    metrics.update_identity(&snapshot, now);
    let page = metrics.render();
    for line in [
        r#"postern_identity_state{state="serving stale"} 1"#,
        r#"postern_identity_state{state="fresh"} 0"#,
        "postern_identity_generation 4",
        "postern_identity_update_age_seconds 10",
        r#"postern_svid_expiry_seconds{svid="spiffe://shop.example/web",hint=""} 30"#,
        r#"postern_svid_expiry_seconds{svid="spiffe://shop.example/old",hint=""} -5"#,
        r#"postern_bundle_anchors{trust_domain="shop.example"} 0"#,
        r#"postern_bundle_update_age_seconds{trust_domain="shop.example"} 60"#,
        r#"postern_token_keys{trust_domain="shop.example"} 0"#,
    ] {
        assert!(has(&page, line), "{line} in {page}");
    }
    metrics.update_identity(&Snapshot::empty(), now);
    let page = metrics.render();
    assert!(
        !page.contains("svid_expiry") && !page.contains("bundle_anchors") && !page.contains("token_keys"),
        "{page}"
    );
    let state = IdentityState::NoIdentity.as_str();
    assert!(has(&page, &format!(r#"postern_identity_state{{state="{state}"}} 1"#)));
}

fn issuer(name: &str) -> TokenIssuer {
    TokenIssuer {
        name: name.to_owned(),
        issuer: format!("https://{name}.example"),
        keys: IssuerKeysFrom::File("/keys.json".into()),
        algorithms: vec!["ES256".to_owned()],
        required_claims: Vec::new(),
        roots: None,
        allow_private_addresses: false,
    }
}

#[test]
fn issuers_are_shown_from_the_start_and_gone_ones_are_not_counted() {
    let metrics = Metrics::new();
    let counters = metrics.identity_counters();
    counters.keep_issuers(&[Arc::new(issuer("ci")), Arc::new(issuer("gone"))]);
    counters.issuer_asked("ci", 2, Ok(SystemTime::now()));
    counters.issuer_asked("ci", 2, Err("away".to_owned()));
    let page = metrics.render();
    for line in [
        r#"postern_issuer_keys{issuer="ci"} 2"#,
        r#"postern_issuer_fetches_total{issuer="ci",result="success"} 1"#,
        r#"postern_issuer_fetches_total{issuer="ci",result="failure"} 1"#,
        r#"postern_issuer_keys{issuer="gone"} 0"#,
    ] {
        assert!(has(&page, line), "{line} in {page}");
    }
    counters.keep_issuers(&[Arc::new(issuer("ci"))]);
    // Its task may end a moment later than its configuration.
    counters.issuer_asked("gone", 1, Ok(SystemTime::now()));
    let page = metrics.render();
    assert!(has(&page, r#"postern_issuer_keys{issuer="ci"} 2"#) && !page.contains("gone"), "{page}");
}

#[test]
fn teardown_causes_are_bounded() {
    let metrics = Metrics::new();
    for index in 0..100 {
        // Leaked, because causes are constants of the program.
        metrics.teardown(Box::leak(format!("cause{index}").into_boxed_str()), Duration::from_millis(3));
    }
    assert_eq!(metrics.render().matches("postern_teardown_seconds_count").count(), super::CAUSES_MAX);
}

#[test]
fn names_follow_prometheus_conventions() {
    let mut seen = HashSet::new();
    for family in FAMILIES {
        assert!(seen.insert(family.name), "{} twice", family.name);
        assert_eq!(family.name.ends_with("_total"), family.kind == Kind::Counter, "{}", family.name);
        assert!(family.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{}", family.name);
        assert!(family.name.starts_with("postern_") || family.name.starts_with("process_"), "{}", family.name);
        assert!(family.help.ends_with('.'), "{}", family.name);
    }
}

/// Every family has a sample, so that none is declared and never fed.
#[test]
fn every_declared_metric_can_be_seen() {
    let metrics = Metrics::new();
    let port = metrics.inbound("orders");
    port.refused(Refusal::NotAllowed);
    port.ended(crate::session::EndCause::BodyIdle);
    port.http2_reset(1);
    metrics.authorizer("opa").count(ExternalVerdict::Allowed, Duration::from_millis(1));
    metrics.teardown("authority_removed", Duration::from_millis(3));
    let now = SystemTime::now();
    metrics.config_taken(1, "d1", now);
    let trust_domain = TrustDomain::parse("shop.example").unwrap();
    let bundle = Bundle { trust_domain: trust_domain.clone(), anchors: Vec::new(), updated_at: now, fetched: true };
    metrics.identity_counters().fetched(&trust_domain, Ok(now));
    metrics.identity_counters().keep_issuers(&[Arc::new(issuer("ci"))]);
    let snapshot = Snapshot {
        svids: vec![svid("web", now)],
        bundles: HashMap::from([(trust_domain.clone(), Arc::new(bundle))]),
        token_keys: no_keys_of(trust_domain),
        received_at: Some(now),
        ..Snapshot::empty()
    };
    metrics.update_identity(&snapshot, now);
    let page = metrics.render();
    for family in FAMILIES {
        assert!(page.contains(&format!("# TYPE {} ", family.name)), "{} has no sample", family.name);
    }
    let info = format!(r#"postern_info{{version="{}",policy_digest="d1"}} 1"#, env!("CARGO_PKG_VERSION"));
    assert!(has(&page, &info), "{page}");
}

/// Names, kinds and labels are contract: the page is made from them, and changes only together with them.
#[test]
fn the_page_of_metrics_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let expected = page_of_metrics();
    if std::fs::read_to_string(&path).unwrap_or_default() != expected {
        std::fs::write(&path, expected).unwrap();
        panic!("docs/metrics.md was not current and has been written anew: look at the change and commit it");
    }
}

fn page_of_metrics() -> String {
    let mut page = concat!(
        "# Metrics\n\n",
        "Made by a test from `proxy/src/telemetry/metrics.rs`; do not edit.\n\n",
        "Served in Prometheus' text format at `GET /metrics` (default port 15020), and on the admin socket. Label values\n",
        "come from the configuration (`name`: a listener's or service's), from our own SVIDs and bundles, or from closed\n",
        "sets; never from what a peer sent. A `code` is the same word in the access log and in the metric.\n\n",
        "| metric | type | labels | meaning |\n|---|---|---|---|\n",
    )
    .to_owned();
    for family in FAMILIES {
        let labels: Vec<_> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        let kind = format!("{:?}", family.kind).to_lowercase();
        writeln!(page, "| `{}` | {kind} | {} | {} |", family.name, labels.join(" "), family.help).unwrap();
    }
    page
}
