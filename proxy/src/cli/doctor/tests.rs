use super::{Report, Verdict, identity, network};
use crate::admin::tests::svid;
use crate::identity::SourceStatus;
use crate::identity::dev::{DevConfig, DevProvider, DevWorkload};
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, SystemTime};

fn verdicts(report: &Report) -> Vec<(Verdict, &'static str)> {
    report.0.iter().map(|finding| (finding.verdict, finding.subject)).collect()
}

#[test]
fn every_finding_that_is_not_fine_has_its_fix() {
    let mut report = Report::default();
    report.ok("user", "uid 7");
    report.warn("descriptors", "64 allowed", "raise `nofile`");
    report.fail("agent", "\u{1b}[2Jgone", "start it");
    let expected = "\
ok    user         uid 7
warn  descriptors  64 allowed
                   fix: raise `nofile`
FAIL  agent        ?[2Jgone
                   fix: start it

1 failure, 1 warning
";
    assert_eq!(report.render(), expected);
}

#[test]
fn judges_validity_against_the_clock() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    for (not_after, expected) in [
        (now + Duration::from_secs(900_000), vec![(Verdict::Ok, "identity")]),
        (now + Duration::from_secs(1), vec![(Verdict::Ok, "identity"), (Verdict::Warn, "identity")]),
        (now - Duration::from_secs(1), vec![(Verdict::Fail, "clock")]),
    ] {
        let mut report = Report::default();
        identity::issued(&mut report, &svid("web", not_after), now);
        assert_eq!(verdicts(&report), expected);
    }
    let mut report = Report::default();
    let before_it_begins = SystemTime::UNIX_EPOCH - Duration::from_secs(60);
    identity::issued(&mut report, &svid("web", now), before_it_begins);
    assert_eq!(verdicts(&report), [(Verdict::Fail, "clock")]);
}

#[test]
fn an_agent_that_is_not_there_fails_with_a_fix() {
    let mut report = Report::default();
    assert!(!identity::socket_reachable(&mut report, Path::new("/nowhere/at/all/api.sock")));
    assert_eq!(verdicts(&report), [(Verdict::Fail, "agent")]);
    let mut report = Report::default();
    assert!(identity::endpoint(&mut report, Some("http://agent"), None).is_none());
    assert_eq!(verdicts(&report), [(Verdict::Fail, "agent")]);
    let mut report = Report::default();
    identity::nothing_issued(&mut report, &SourceStatus::Denied { since: SystemTime::now(), cut: false });
    assert!(report.render().contains("registration entry"));
}

/// The embedded provider as agent: who we are, what is missing, and what the configuration wants of it in vain.
#[tokio::test]
async fn examines_an_agent_and_what_the_configuration_wants_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let id = |text: &str| postern_config::SpiffeId::parse(text).unwrap();
    let workload = |name: &str, svids: Vec<_>| DevWorkload {
        name: name.to_owned(),
        socket: None,
        svids,
        federates_with: Vec::new(),
    };
    let provider = DevProvider::start(DevConfig {
        state_dir: directory.path().to_owned(),
        trust_domains: vec![postern_config::TrustDomain::parse("shop.example").unwrap()],
        workloads: vec![
            workload("orders", vec![(id("spiffe://shop.example/orders"), None)]),
            workload("nobody", vec![(id("spiffe://shop.example/nobody"), None)]),
        ],
        svid_ttl: Duration::from_secs(3600),
        ca_ttl: Duration::from_secs(86400),
    });
    let provider = provider.unwrap();
    let uri = |name: &str| format!("unix://{}", provider.socket(name).unwrap().display());

    let text = "inbound:\n  - port: 8080\n    name: orders\n    svid: { hint: internal }\n    protocol: tcp\n    \
                allow: [{ spiffe: [spiffe://shop.example/web, spiffe://partner.example/web] }]\n";
    let mut report = Report::default();
    identity::examine(&mut report, Some(&config(text)), Some(&uri("orders"))).await;
    let text = report.render();
    for expected in [
        "ok    agent     listens on",
        "ok    identity  spiffe://shop.example/orders, expires in 59m",
        "FAIL  identity  orders wants an SVID with the hint internal, and the agent gives none such",
        "FAIL  trust     there is no usable bundle of partner.example",
        "ok    trust     shop.example, 1 usable root",
    ] {
        assert!(text.contains(expected), "{expected:?} in\n{text}");
    }

    provider.withdraw("nobody").unwrap();
    let mut report = Report::default();
    identity::examine(&mut report, None, Some(&uri("nobody"))).await;
    assert!(report.render().contains("has no identity for this workload"), "{}", report.render());
}

fn config(text: &str) -> postern_config::Config {
    postern_config::Config::from_str(Path::new("postern.yaml"), text).unwrap_or_else(|problems| panic!("{problems}"))
}

#[tokio::test]
async fn finds_a_port_that_is_taken_an_app_that_is_down_and_a_name_that_does_not_resolve() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap();
    let down = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let text = format!(
        "inbound:\n  - port: 8080\n    name: orders\n    listen: {taken}\n    app: {down}\n    protocol: tcp\n    \
         allow: [{{ spiffe: spiffe://shop.example/web }}]\n\
         outbound:\n  services:\n    - name: payments\n      hosts: [payments.shop.svc]\n      \
         endpoints: {{ dns: \"does-not-exist.invalid:8443\" }}\n      identity: spiffe://shop.example/payments\n\
         telemetry: {{ metrics: off, readiness: off }}\n"
    );
    let mut report = Report::default();
    network::examine(&mut report, &config(&text)).await;
    let found = verdicts(&report);
    drop(holder);
    for expected in [(Verdict::Fail, "ports"), (Verdict::Warn, "application"), (Verdict::Fail, "endpoints")] {
        assert!(found.contains(&expected), "{}", report.render());
    }
}
