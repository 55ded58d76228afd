use super::super::tests::Request;
use super::super::variables::VARIABLES;
use super::super::{ConditionError, Library, check, environment};
use super::Plan;
use proptest::prelude::*;
use std::sync::{Arc, LazyLock};

static LIBRARY: LazyLock<Library> =
    LazyLock::new(|| Library { patterns: Vec::new(), environment: Arc::new(environment()) });

fn by_plan_and_by_library(text: &str) -> [Result<bool, ConditionError>; 2] {
    let read = check::read(text, &LIBRARY.environment).unwrap_or_else(|faults| panic!("{text}: {faults:?}"));
    let facts = Request::default();
    [Plan::of(&read.expression), Plan::Rest(read.expression)].map(|plan| plan.holds(&LIBRARY, &facts))
}

/// Of each kind: known and not known, there and not there, of the right type and of another.
const TEXTS: &[&str] = &[
    "request.method",
    "request.url_path",
    "peer.trust_domain",
    "request.host",
    "connection.requested_server_name",
    "request.headers['x-env']",
    "request.headers['X-Empty']",
    "request.headers['nobody']",
    "captures.nobody",
    "token.claims.tenant",
    "token.claims.level",
    "token.claims.nobody",
    "'GET'",
    "'/orders/'",
    "''",
    "'ä'",
    "'prod'",
];
const TRUTHS: &[&str] = &[
    "connection.mtls",
    "has(request.host)",
    "has(request.method)",
    "token.claims.admin",
    "token.claims.tenant",
    "source.port > 1024",
    "true",
    "1 / 0 == 1",
    "'write' in token.scopes",
    "'x-env' in request.headers",
];

fn conditions() -> impl Strategy<Value = String> {
    let text = || prop::sample::select(TEXTS);
    let compared = (text(), prop::sample::select(&["==", "!="][..]), text());
    let asked = (text(), prop::sample::select(&["startsWith", "endsWith", "contains"][..]), text());
    let among = (text(), prop::collection::vec(text(), 0..3));
    let leaf = prop_oneof![
        compared.prop_map(|(one, operator, other)| format!("{one} {operator} {other}")),
        asked.prop_map(|(one, member, other)| format!("{one}.{member}({other})")),
        among.prop_map(|(one, texts)| format!("{one} in [{}]", texts.join(", "))),
        prop::sample::select(TRUTHS).prop_map(str::to_owned),
    ];
    leaf.prop_recursive(4, 24, 2, |part| {
        prop_oneof![
            (part.clone(), part.clone()).prop_map(|(one, other)| format!("({one}) && ({other})")),
            (part.clone(), part.clone()).prop_map(|(one, other)| format!("({one}) || ({other})")),
            part.prop_map(|part| format!("!({part})")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn means_what_the_library_makes_of_it(text in conditions()) {
        let [plan, library] = by_plan_and_by_library(&text);
        prop_assert_eq!(plan, library, "{}", text);
    }
}

#[test]
fn what_compares_texts_is_not_left_to_the_library() {
    let is_left = |plan: &Plan| {
        fn is_left(plan: &Plan) -> bool {
            match plan {
                Plan::Rest(_) => true,
                Plan::Not(part) => is_left(part),
                Plan::And(sides) | Plan::Or(sides) => sides.iter().any(is_left),
                _ => false,
            }
        }
        is_left(plan)
    };
    let plan = |text: &str| Plan::of(&check::read(text, &LIBRARY.environment).unwrap().expression);
    for text in [
        "request.method == 'GET' && request.url_path.startsWith('/a') && request.url_path.endsWith('b')",
        "request.method in ['GET', 'HEAD'] || !(request.host != 'a' && connection.mtls)",
        "has(request.referer) && request.headers['x-tenant'] == captures.tenant",
        "request.query.contains('x')",
    ] {
        assert!(!is_left(&plan(text)), "{text}");
    }
    for text in ["source.port > 1024", "token.claims.tenant == 'a'", "request.method.size() == 3", "true"] {
        assert!(is_left(&plan(text)), "{text}");
    }
}

#[test]
fn what_is_of_a_request_is_called_so() {
    for (name, variable, _) in VARIABLES {
        let is_named = |beginning: &str| name.starts_with(beginning);
        assert_eq!(variable.is_of_token(), is_named("token."), "{name}");
        assert_eq!(variable.is_of_request(), is_named("request.") || is_named("token."), "{name}");
    }
}
