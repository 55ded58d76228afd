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
