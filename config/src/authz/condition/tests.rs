use super::{Condition, ConditionError, Fact, Facts, Fault, NamedTexts, Variable, compile, environment};
use crate::Config;
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

fn read(text: &str) -> Result<Condition, Vec<Fault>> {
    compile(text, Arc::new(environment()))
}

/// The words of its first problem, and where it stands.
fn fault(text: &str) -> (usize, String) {
    let fault = read(text).expect_err(text).remove(0);
    (fault.at, format!("{}; {}", fault.what, fault.hint))
}

#[derive(Debug, Default)]
struct Named(BTreeMap<&'static str, &'static str>);

impl NamedTexts for Named {
    fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        self.0.get(name.to_ascii_lowercase().as_str()).map(|value| Cow::Borrowed(*value))
    }

    fn names(&self) -> Vec<&str> {
        self.0.keys().copied().collect()
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

pub(super) struct Request {
    headers: Named,
    claims: Map<String, Value>,
    scopes: Vec<String>,
    server_name: Option<&'static str>,
}

impl Default for Request {
    fn default() -> Self {
        let claims = json!({
            "tenant": "acme", "level": 3, "ratio": 0.5, "admin": true, "groups": ["ops", "dev"], "act": { "sub": "agent" },
            "nothing": null, "large": u64::MAX, "many": vec![1; 300],
        });
        Self {
            headers: Named([("x-env", "prod"), ("x-empty", "")].into()),
            claims: claims.as_object().cloned().unwrap(),
            scopes: vec!["read".to_owned(), "write".to_owned()],
            server_name: None,
        }
    }
}

impl Facts for Request {
    fn fact(&self, variable: Variable) -> Option<Fact<'_>> {
        Some(match variable {
            Variable::Method => Fact::Text("GET".into()),
            Variable::Path => Fact::Text("/orders/7?x=1".into()),
            Variable::UrlPath => Fact::Text("/orders/7".into()),
            Variable::Headers => Fact::Fields(&self.headers),
            // Tuesday, 2026-11-24T10:20:30Z.
            Variable::Time => Fact::Moment(1_795_515_630),
            Variable::SourcePort => Fact::Number(40_000),
            Variable::Mtls => Fact::Truth(true),
            Variable::ServerName => Fact::Text(self.server_name?.into()),
            Variable::PeerTrustDomain => Fact::Text("shop.example".into()),
            Variable::TokenScopes => Fact::Texts(&self.scopes),
            Variable::TokenClaims => Fact::Claims(&self.claims),
            _ => return None,
        })
    }
}

fn holds(text: &str) -> Result<bool, ConditionError> {
    read(text).unwrap_or_else(|faults| panic!("{text}: {faults:?}")).holds(&Request::default())
}

#[test]
fn conditions_are_evaluated_with_what_they_are_lent() {
    for (text, expected) in [
        ("request.method == 'GET'", true),
        ("request.method in ['PUT', 'POST']", false),
        ("request.url_path.startsWith('/orders/') && !request.path.endsWith('7')", true),
        ("request.url_path.matches('^/orders/[0-9]+$')", true),
        ("matches(request.url_path, r'^/orders/\\d{2}$')", false),
        ("request.headers['X-Env'] == 'prod' && request.headers['x-env'].size() == 4", true),
        ("request.headers.nothing == 'a' || true", true),
        ("has(request.headers.nothing) || 'x-empty' in request.headers", true),
        ("request.headers[?'nothing'].orValue('none') == 'none'", true),
        ("request.time > timestamp('2026-01-01T00:00:00Z')", true),
        ("request.time.getDayOfWeek() == 2 && request.time.getHours() == 10 && request.time.getMonth() == 10", true),
        (
            "request.time.getDate() == 24 && request.time.getDayOfMonth() == 23 && request.time.getFullYear() == 2026",
            true,
        ),
        ("source.port >= 1024 && source.port < 65536", true),
        ("connection.mtls", true),
        ("has(connection.requested_server_name)", false),
        ("!has(connection.requested_server_name) || connection.requested_server_name == 'a'", true),
        ("'write' in token.scopes && token.scopes.exists(x, x.startsWith('re'))", true),
        ("token.scopes.all(x, x in ['read', 'write', 'admin'])", true),
        ("token.claims.tenant == 'acme' && token.claims.level >= 3 && token.claims.admin", true),
        ("token.claims.act.sub == 'agent' && has(token.claims.act.sub) && !has(token.claims.act.x)", true),
        ("token.claims['groups'].exists_one(group, group == 'ops')", true),
        ("token.claims.ratio < 1.0 && token.claims.large > 1 && token.claims.nothing == null", true),
        ("peer.trust_domain == 'shop.example' ? source.port == 40000 : false", true),
        ("request.headers['x-env'].lowerAscii() == 'prod'", true),
        ("{'a': 1}.a == 1 && [1, 2][1] == 2 && size([1]) == 1", true),
    ] {
        assert_eq!(holds(text), Ok(expected), "{text}");
    }
}

#[test]
fn what_is_not_there_is_an_error_and_no_value() {
    let unknown = ConditionError::Unknown("connection.requested_server_name");
    assert_eq!(holds("connection.requested_server_name != 'a'"), Err(unknown));
    assert_eq!(holds("request.headers['x-debug'] != '1'"), Err(ConditionError::NoSuchKey("x-debug".to_owned())));
    assert_eq!(holds("token.claims.nobody == 'a'"), Err(ConditionError::NoSuchKey("nobody".to_owned())));
    assert_eq!(holds("token.claims.tenant"), Err(ConditionError::NoTruth));
    assert_eq!(holds("token.claims.tenant > 3"), Err(ConditionError::Types));
    // A list that is longer than any that a rule is about.
    assert_eq!(holds("1 in token.claims.many"), Err(ConditionError::Failed));
    // What decides alone needs nothing else.
    assert_eq!(holds("connection.requested_server_name == 'a' && false"), Ok(false));
}

#[test]
fn what_can_be_wrong_is_found_when_it_is_read() {
    for (text, at, words) in [
        ("request.methd == 'GET'", 0, "nothing is called `request.methd`; did you mean `request.method`?"),
        ("true && reqest.method == 'GET'", 8, "did you mean `request.method`?"),
        ("x == 1", 0, "nothing is called `x`"),
        ("has(request.hoast)", 4, "did you mean `request.host`?"),
        ("request.path.startWith('/')", 22, "there is no function `startWith`; did you mean `startsWith`?"),
        ("request.method == 'GET", 18, "is not CEL"),
        ("request.method = 'GET'", 15, "is not CEL"),
        ("request.path.matches(request.query)", 28, "the pattern of `matches` is not written out"),
        ("request.path.matches('(')", 21, "the pattern cannot be used"),
        ("request.path.matches('(a{1000}){1000}')", 21, "the pattern cannot be used"),
        ("request.method", 7, "is a string, and not true or false"),
        ("source.port == '80'", 12, "compares a int with a string"),
        ("source.port.startsWith('8')", 22, "`startsWith` is given values that it is not for"),
        ("request.method && true", 15, "is given values"),
        ("1 / 0 == 1", 2, "can never be computed"),
        ("request.method > 1", 15, "is given values"),
        ("request.headers['authorization'] == 'a'", 15, "a rule cannot ask for the header `authorization`"),
        ("'X_Forwarded_Client_Cert' in request.headers", 26, "a rule cannot ask for the header"),
        ("request.headers.cookie == 'a'", 15, "a rule cannot ask for the header `cookie`"),
        ("request.headers.exists(x, x == 'a')", 22, "goes through what is no list"),
        ("captures[request.method] == 'a'", 8, "whose name is not written out"),
        ("token.scopes.exists(x, token.scopes.exists(y, x == y))", 42, "within another"),
        ("token.scopes.exists(request, request == 'a')", 19, "stands for something else"),
        ("request.headers == workload.labels", 16, "compares maps"),
        ("Message{a: 1} == 1", 7, "makes a message"),
    ] {
        let (found_at, found) = fault(text);
        assert!(found.contains(words), "{text}: {found}");
        assert_eq!(found_at, at, "{text}: {found}");
    }
    // Several at once.
    assert_eq!(read("request.a == 'b' && request.c == 'd'").unwrap_err().len(), 2);
}

#[test]
fn size_and_depth_have_bounds() {
    let deep = |depth: usize| format!("{}true{}", "(".repeat(depth), ")".repeat(depth));
    assert!(read(&deep(20)).is_ok());
    assert!(fault(&deep(40)).1.contains("deeper than 32"));
    let sum = |terms: usize| format!("source.port == {}1", "1 + ".repeat(terms));
    assert!(read(&sum(20)).is_ok());
    assert!(fault(&sum(40)).1.contains("deeper than 32"), "{:?}", fault(&sum(40)));
    assert!(fault(&sum(500)).1.contains("deeper than 32") || fault(&sum(500)).1.contains("is not CEL"));
    assert!(fault(&"!".repeat(2000)).1.contains("is not CEL"));
    assert!(fault(&"-".repeat(2000)).1.contains("is not CEL"));
    let long = format!("request.method == '{}'", "x".repeat(3000));
    assert!(fault(&long).1.contains("longer than 2048"));
}

#[test]
fn what_it_asks_for_is_known() {
    let found =
        read("request.headers['a'] == 'b' && captures.ns == 'c' && has(connection.requested_server_name)").unwrap();
    assert!(found.needs_headers() && found.is_about_requests() && found.asks_for(Variable::Captures));
    assert_eq!(found.captures(), ["ns"]);
    let found = read("source.port > 1024 && peer.path == '/a'").unwrap();
    assert!(!found.needs_headers() && !found.is_about_requests());
}

#[test]
fn every_problem_has_its_place_in_the_file() {
    let file = |when: &str| {
        format!(
            "inbound:\n  - port: 80\n    app: 127.0.0.1:81\n    allow:\n      - spiffe: spiffe://a/b\n        when: {when}\n"
        )
    };
    for (when, line, column) in [
        ("request.methd == 'GET'", 6, 15),
        ("'request.methd == \"GET\"'", 6, 16),
        ("\"request.host == \\\"a\\\" && nobody\"", 6, 41),
        ("|\n          request.host == 'a'\n          && nobody", 8, 14),
        (">-\n          request.host == 'a' &&\n\n          nobody", 9, 11),
        ("request.host == 'a'\n          && nobody", 7, 14),
        ("request.host == 'ä€' && nobody", 6, 39),
    ] {
        let problems = Config::from_str(Path::new("f"), &file(when)).expect_err(when);
        let problem = problems.0.iter().find(|problem| problem.what.contains("nothing is called")).expect(when);
        assert_eq!((problem.place.line, problem.place.column), (line, column), "{when}: {problem}");
    }
}
