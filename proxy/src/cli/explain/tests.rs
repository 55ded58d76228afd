use super::{ExplainArgs, explain};
use crate::token::tests::signers::Signer;
use clap::Parser;
use std::path::Path;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    arguments: ExplainArgs,
}

/// With the example of the documentation.
fn asked(arguments: &[&str]) -> ExplainArgs {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/examples/rules.yaml");
    let example = example.to_str().expect("a path of ours");
    let all = [&["explain", "--config", example, "--source", "10.1.2.3"], arguments].concat();
    Command::try_parse_from(all).unwrap_or_else(|error| panic!("{error}")).arguments
}

fn json(arguments: &[&str]) -> serde_json::Value {
    explain(&asked(arguments)).unwrap_or_else(|error| panic!("{error:#}")).to_json()
}

const ACME: &str = "spiffe://shop.example/tenant/acme/sa/web";
const FINANCE: &str = "spiffe://shop.example/ns/finance/sa/closing";

#[test]
fn the_documentation_shows_what_it_says() {
    let text = explain(&asked(&["--peer", ACME, "--path", "/tenants/other/orders"])).unwrap().to_text();
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/authorization.md");
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains(&text), "docs/authorization.md lacks:\n{text}");
}

#[test]
fn a_verdict_names_its_rule_and_a_refusal_the_nearest_one() {
    let office = ["--at", "2026-11-23T10:00:00Z"];
    let report = |more: &[&str]| {
        let common = ["--peer", FINANCE, "--path", "/reports/7", "--method", "POST"];
        json(&[&common, more].concat())
    };
    let allowed = report(&[&office[..], &["--header", "x-purpose: audit-7"]].concat());
    assert_eq!((&allowed["decision"], &allowed["rule"]), (&"allowed".into(), &"finance".into()));
    assert!(allowed["nearest"].is_null() && allowed["refusal"].is_null());

    let purpose = report(&office);
    assert_eq!((&purpose["refusal"], &purpose["rule"]), (&"not_allowed".into(), &serde_json::Value::Null));
    assert_eq!(purpose["nearest"]["lacks"]["headers"], "x-purpose: closing or audit-*");

    let late = report(&["--at", "2026-11-23T22:00:00Z", "--header", "x-purpose: closing"]);
    assert_eq!((&late["refusal"], &late["nearest"]["rule"]), (&"requirement_unmet".into(), &"office-hours".into()));

    let denied = json(&["--peer", FINANCE, "--path", "/debug/vars"]);
    assert_eq!((&denied["refusal"], &denied["rule"]), (&"denied".into(), &"no-debugging".into()));
}

#[test]
fn what_rules_are_never_asked_about_is_explained_too() {
    let ambiguous = json(&["--peer", ACME, "--path", "/tenants/acme/..;/../reports"]);
    assert_eq!((&ambiguous["refusal"], &ambiguous["status"]), (&"ambiguous_route".into(), &400.into()));
    let bad = json(&["--peer", ACME, "--path", "/a%00"]);
    assert_eq!(bad["refusal"], "bad_path");
    assert!(bad["rules"].as_array().unwrap().is_empty());
}

#[test]
fn what_is_not_enforced_is_said_with_the_verdict() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("postern.yaml");
    let port = |number: u16, more: &str| {
        format!(
            "  - {{ name: p{number}, port: {number}, listen: \"127.0.0.1:1{number}\", protocol: http, {more}, \
             routes: [{{ match: {{ path: /a/** }} }}, {{ match: {{ path: /b/** }}, mode: enforce }}] }}\n"
        )
    };
    let allow = "allow: [{ spiffe: spiffe://shop.example/web, methods: GET }]";
    let ports = [port(8080, &format!("mode: observe, {allow}")), port(8081, &format!("mode: \"off\", {allow}"))];
    std::fs::write(&file, format!("inbound:\n{}", ports.concat())).unwrap();
    let ask = |port: &str, path: &str, method: &str| {
        let common = ["explain", "--config", file.to_str().unwrap(), "--peer", "spiffe://shop.example/web"];
        let all = [&common[..], &["--port", port, "--path", path, "--method", method]].concat();
        explain(&Command::try_parse_from(all).unwrap().arguments).unwrap()
    };
    for (port, path, method, refusal, mode, let_through) in [
        ("p8080", "/a/1", "GET", None, "observe", true),
        ("p8080", "/a/1", "POST", Some("not_allowed"), "observe", true),
        ("p8081", "/a/1", "POST", Some("not_allowed"), "off", true),
        ("p8080", "/b/1", "POST", Some("not_allowed"), "enforce", false),
        ("p8080", "/c", "GET", Some("no_route"), "observe", true),
        ("p8080", "/a%00", "GET", Some("bad_path"), "enforce", false),
    ] {
        let said = ask(port, path, method);
        assert_eq!(said.to_text().contains("let through all the same"), let_through && refusal.is_some(), "{path}");
        let said = said.to_json();
        assert_eq!((said["refusal"].as_str(), said["mode"].as_str()), (refusal, Some(mode)), "{said:#}");
        assert_eq!(said["let_through"], let_through, "{said:#}");
    }
}

#[test]
fn the_deny_list_of_the_file_is_asked_first() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("postern.yaml");
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/examples/forwarders.yaml");
    let text = std::fs::read_to_string(example).unwrap();
    std::fs::write(&file, format!("{text}\nrevocation: {{ deny_list: deny.yaml }}\n")).unwrap();
    let ask = |more: &[&str]| {
        let gateway = "spiffe://shop.example/ns/edge/sa/gateway";
        let common = ["explain", "--config", file.to_str().unwrap(), "--peer", gateway, "--path", "/orders/1"];
        let all = [&common[..], &["--at", "2026-11-23T10:00:00Z"], more].concat();
        explain(&Command::try_parse_from(all).unwrap().arguments).map(|explanation| explanation.to_json())
    };
    let for_web = ["--caller", "spiffe://shop.example/ns/web/sa/a"];
    let write = |spiffe: &str, expires: &str| {
        let entry = format!("deny: [{{ spiffe: {spiffe}, reason: leaked, author: alice, expires: {expires} }}]\n");
        std::fs::write(directory.path().join("deny.yaml"), entry).unwrap();
    };
    assert_eq!(ask(&for_web).unwrap()["decision"], "allowed", "the list is not here");
    write("spiffe://shop.example/ns/edge/sa/*", "2026-11-23T09:00:00Z");
    assert_eq!(ask(&for_web).unwrap()["decision"], "allowed", "it has expired");
    write("spiffe://shop.example/ns/edge/sa/*", "2026-12-24T00:00:00Z");
    let said = ask(&for_web).unwrap();
    assert_eq!(said["refusal"], "peer_not_verified");
    assert!(said["detail"].as_str().unwrap().contains("leaked (alice)"), "{said:#}");
    write("spiffe://shop.example/ns/web/**", "2026-12-24T00:00:00Z");
    assert_eq!(ask(&for_web).unwrap()["refusal"], "forwarded_caller_refused");
    std::fs::write(directory.path().join("deny.yaml"), "deny: 1\n").unwrap();
    assert!(ask(&for_web).is_err(), "no list");
}

#[test]
fn what_makes_no_question_is_told() {
    for (arguments, words) in [
        (&["--peer", "foo", "--path", "/"][..], "is no SPIFFE ID"),
        (&["--path", "/", "--port", "nowhere"], "known are orders"),
        (&["--peer", ACME], "ask about a request"),
        (&["--path", "/", "--header", "nonsense"], "name: value"),
        (&["--path", "/", "--at", "tomorrow"], "is no time"),
        (&["--path", "no path"], "--path is no path"),
    ] {
        let error = explain(&asked(arguments)).map(|_| ()).unwrap_err();
        assert!(format!("{error:#}").contains(words), "{error:#}");
    }
}

#[test]
fn a_route_that_wants_a_token_is_explained_with_one() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/examples/tokens.yaml");
    let directory = tempfile::tempdir().unwrap();
    let (token, keys) = (directory.path().join("token.jwt"), directory.path().join("keys.json"));
    let signer = Signer::p256();
    let claims = serde_json::json!({
        "sub": "spiffe://shop.example/ns/web/sa/frontend",
        "aud": ["spiffe://shop.example/ns/shop/sa/orders"],
        "exp": 1_795_309_323_u64,
    });
    std::fs::write(&token, signer.token(r#"{"alg":"ES256","kid":"k1"}"#, &claims.to_string())).unwrap();
    std::fs::write(&keys, serde_json::json!({ "keys": [signer.jwk("k1")] }).to_string()).unwrap();
    let keys = format!("shop.example={}", keys.display());
    let ask = |peer: &str, method: &str, more: &[&str]| {
        let common =
            ["explain", "--config", example.to_str().unwrap(), "--path", "/orders/7", "--at", "2026-11-22T01:00:00Z"];
        let all = [&common[..], &["--peer", peer, "--method", method], more].concat();
        let arguments = Command::try_parse_from(all).unwrap_or_else(|error| panic!("{error}")).arguments;
        explain(&arguments).unwrap_or_else(|error| panic!("{error:#}")).to_json()
    };
    let shown = ["--token", token.to_str().unwrap(), "--token-keys", &keys];
    let (web, gateway) = ("spiffe://shop.example/ns/web/sa/frontend", "spiffe://shop.example/ns/edge/sa/gateway");
    let allowed = ask(web, "POST", &shown);
    assert_eq!((&allowed["decision"], &allowed["token_subject"]), (&"allowed".into(), &web.into()));
    assert_eq!(ask(web, "POST", &[])["refusal"], "token_missing");
    // Of somebody else's: a forwarder may, where it is one.
    assert_eq!(ask(gateway, "GET", &shown)["decision"], "allowed");
    assert_eq!(ask(gateway, "POST", &shown)["refusal"], "token_not_bound");
}

#[test]
fn the_original_caller_decides_where_a_forwarder_speaks_for_it() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/examples/forwarders.yaml");
    let asked = |peer: &str, more: &[&str]| {
        let peer = format!("spiffe://shop.example/ns/{peer}");
        let common = ["explain", "--config", example.to_str().unwrap(), "--peer", &peer, "--path", "/orders/1"];
        explain(&Command::try_parse_from([&common, more].concat()).unwrap().arguments)
    };
    for (more, refusal, rule) in [
        (&["--caller", "spiffe://shop.example/ns/web/sa/a"][..], None, Some("through-the-gateway")),
        (&["--caller", "spiffe://partner.example/a", "--method", "PUT"], Some("denied"), Some("partners-only-read")),
        (&["--caller", "spiffe://other.example/a"], Some("forwarded_caller_refused"), None),
        (&[], Some("not_allowed"), None),
    ] {
        let said = asked("edge/sa/gateway", more).unwrap().to_json();
        assert_eq!((said["refusal"].as_str(), said["rule"].as_str()), (refusal, rule), "{said:#}");
    }
    assert!(asked("web/sa/a", &["--caller", "spiffe://partner.example/a"]).is_err(), "it speaks for nobody");
}
