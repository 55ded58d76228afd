//! Parts of the request path, each alone: what `micro` times, and of what `instructions` counts the instructions.

pub mod identity;

use anyhow::{Context as _, ensure};
use http::Method;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::request;
use postern::authz::{Asked, ConnectionFacts, Principal, RequestFacts, RuleSet};
use postern::detect::{Detected, Verdict, classify};
use postern::http::headers::{check_framing, strip_request};
use postern::http::identity_headers::{RenderedIdentity, X_FORWARDED_CLIENT_CERT};
use postern::http::normalize::read_path;
use postern::http::route::RouteTable;
use postern_config::{Config, Rules, SpiffeId};
use std::cell::Cell;
use std::hint::black_box;
use std::net::Ipv4Addr;
use std::path::Path;

const ROUTES: usize = 1000;
/// Of what is timed, how much is counted: instructions hardly differ from call to call.
const COUNTED_SHARE: u32 = 500;
const COUNTED_MIN: u32 = 10;

pub struct Part {
    /// As the budget calls it.
    pub name: &'static str,
    pub title: &'static str,
    /// Calls that take long enough to be timed.
    pub timed: u32,
    /// False: it did not do what it is here for.
    work: Box<dyn FnMut() -> bool>,
}

impl Part {
    /// # Errors
    /// It does not work, which would be measured as fast.
    fn new(
        name: &'static str,
        title: &'static str,
        timed: u32,
        mut work: impl FnMut() -> bool + 'static,
    ) -> anyhow::Result<Self> {
        ensure!(work(), "{title}: it failed");
        Ok(Self { name, title, timed, work: Box::new(work) })
    }

    pub fn once(&mut self) {
        black_box((self.work)());
    }

    pub fn counted(&self) -> u32 {
        (self.timed / COUNTED_SHARE).max(COUNTED_MIN)
    }
}

/// In the order of a request's life.
pub fn all() -> anyhow::Result<Vec<Part>> {
    let identity = identity::Workload::new()?;
    let rendered = identity.rendered()?;
    let mut parts = vec![identity.verify()?];
    parts.push(identity.handshake()?);
    parts.push(detect()?);
    parts.extend(paths()?);
    parts.extend(routes_and_rules()?);
    parts.extend(conditions()?);
    parts.push(headers(rendered)?);
    Ok(parts)
}

fn detect() -> anyhow::Result<Part> {
    const BEGINNINGS: [(&[u8], Detected); 4] = [
        (b"GET /orders/7/items HTTP/1.1\r\nhost: orders.shop.svc\r\n", Detected::Http1),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Detected::Http2),
        (&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3], Detected::Tls),
        (&[0, 0, 0, 8, 4, 210, 22, 47], Detected::Opaque),
    ];
    Part::new("detect", "detect four protocols", 200_000, || {
        BEGINNINGS.iter().all(|(bytes, expected)| classify(black_box(bytes)) == Verdict::Known(*expected))
    })
}

fn paths() -> anyhow::Result<[Part; 2]> {
    Ok([
        Part::new("normalize-plain", "read a plain path", 200_000, || {
            read_path(black_box("/orders/7/items"), false).is_ok()
        })?,
        Part::new("normalize-coded", "read a path with codes, dots and parameters", 200_000, || {
            read_path(black_box("/a/../orders;v=1/%37//items"), false).is_ok()
        })?,
    ])
}

/// Several of what looks things up in tables whose hashes are seeded at random: one of them may be lucky.
struct Turns<T>(Vec<T>, Cell<usize>);

impl<T> Turns<T> {
    fn of(make: impl Fn() -> T) -> Self {
        Self(std::iter::repeat_with(make).take(64).collect(), Cell::new(0))
    }

    fn next(&self) -> &T {
        let turn = self.1.get();
        self.1.set((turn + 1) % self.0.len());
        &self.0[turn]
    }
}

fn routes_and_rules() -> anyhow::Result<[Part; 2]> {
    let mut text =
        String::from("inbound:\n  - port: 8080\n    listen: 127.0.0.1:18080\n    protocol: http\n    routes:\n");
    for index in 0..ROUTES {
        text.push_str(&format!(
            "      - match: {{ path: \"/service-{index}/**\", methods: [GET] }}\n        allow: [{{ spiffe: \"spiffe://shop.example/ns/n{index}/sa/*\" }}]\n"
        ));
    }
    let config = Config::from_str(Path::new("bench.yaml"), &text)?;
    let inbound = config.inbound.first().context("the text above has a port")?;
    let tables = Turns::of(|| RouteTable::compile(&inbound.routes));
    let allow: Vec<_> = inbound.routes.iter().flat_map(|route| route.rules.allow.clone()).collect();
    let rules = Turns::of(|| RuleSet::compile(&Rules { allow: allow.clone(), ..Rules::default() }));
    let caller = SpiffeId::parse("spiffe://shop.example/ns/n700/sa/web")?;
    let readings = read_path("/service-700/items/7", false)?;
    let same = readings.clone();
    Ok([
        Part::new("route", "choose one of 1,000 routes", 200_000, move || {
            tables.next().select("orders.shop", &Method::GET, black_box(&readings)).is_ok()
        })?,
        Part::new("authorize", "decide by 1,000 rules with patterns", 20_000, move || {
            let facts = RequestFacts {
                method: &Method::GET,
                host: "orders.shop",
                readings: &same,
                headers: None,
                query: None,
                token: None,
                caller: None,
            };
            let principal = Principal::Spiffe(black_box(&caller));
            rules
                .next()
                .decide(&Asked {
                    principal,
                    source: Some(Ipv4Addr::LOCALHOST.into()),
                    port: None,
                    connection: ConnectionFacts::default(),
                    now: 0,
                    request: Some(facts),
                })
                .is_allowed()
        })?,
    ])
}

const CONDITIONS: usize = 50;

/// Fifty rules with a condition each: for a caller that all of them name, of which the last one fits, and for one that none names.
fn conditions() -> anyhow::Result<[Part; 2]> {
    let mut text = String::from(
        "inbound:\n  - port: 8080\n    protocol: http\n    allow:\n      - spiffe: spiffe://shop.example/ns/ops/sa/admin\n",
    );
    for index in 1..=CONDITIONS {
        text.push_str(&format!(
            "      - spiffe: \"spiffe://shop.example/ns/web/sa/*\"\n        when: request.method == 'GET' && request.headers['x-shard'] == '{index}' && request.url_path.matches('^/orders/[0-9]+')\n"
        ));
    }
    let config = Config::from_str(Path::new("bench.yaml"), &text)?;
    let inbound = config.inbound.first().context("the text above has a port")?;
    let rules = RuleSet::compile(&inbound.rules);
    let readings = read_path("/orders/7/items", false)?;
    let headers: HeaderMap =
        [(HeaderName::from_static("x-shard"), HeaderValue::from(CONDITIONS))].into_iter().collect();
    let part = |name, title, timed, caller: &str| {
        let caller = SpiffeId::parse(caller)?;
        let (rules, readings, headers) = (rules.clone(), readings.clone(), headers.clone());
        Part::new(name, title, timed, move || {
            let facts = RequestFacts {
                method: &Method::GET,
                host: "orders.shop",
                readings: &readings,
                headers: Some(&headers),
                query: None,
                token: None,
                caller: None,
            };
            let principal = Principal::Spiffe(black_box(&caller));
            let connection = ConnectionFacts::default();
            rules
                .decide(&Asked { principal, source: None, port: None, connection, now: 0, request: Some(facts) })
                .is_allowed()
        })
    };
    Ok([
        part("conditions", "decide by 50 conditions", 2_000, "spiffe://shop.example/ns/web/sa/frontend")?,
        part("conditions-of-others", "decide beside 50 conditions", 200_000, "spiffe://shop.example/ns/ops/sa/admin")?,
    ])
}

/// What happens to the fields of a request on its way to the application. The copy of the head that is worked on counts too.
fn headers(rendered: RenderedIdentity) -> anyhow::Result<Part> {
    let mut request = http::Request::get("/orders/7/items").body(())?;
    *request.headers_mut() = head();
    let (parts, ()) = request.into_parts();
    let rewrite = move |parts: &request::Parts| {
        let mut parts = parts.clone();
        let is_clear = check_framing(&parts).is_ok();
        strip_request(&mut parts.headers, true);
        rendered.apply(&mut parts.headers);
        is_clear
            && parts.headers.get(X_FORWARDED_CLIENT_CERT).is_some_and(|told| told != "forged")
            && !parts.headers.contains_key("connection")
    };
    Part::new("headers", "rewrite a request's header", 100_000, move || rewrite(black_box(&parts)))
}

fn head() -> HeaderMap {
    let fields = [
        ("host", "orders.shop.svc"),
        ("user-agent", "bench/1"),
        ("accept", "*/*"),
        ("accept-encoding", "gzip, br"),
        ("authorization", "Bearer eyJhbGciOiJFUzI1NiJ9"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("connection", "keep-alive"),
        ("x-forwarded-client-cert", "forged"),
    ];
    fields.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::all;
    use std::collections::{BTreeMap, BTreeSet};

    #[test]
    fn every_part_works_and_has_a_budget() {
        let budget: BTreeMap<String, u64> = serde_json::from_str(include_str!("../../budget.json")).unwrap();
        let parts: BTreeSet<_> = all().unwrap().iter().map(|part| format!("part-{}", part.name)).collect();
        let budgeted = budget.into_keys().filter(|name| name.starts_with("part-")).collect();
        assert_eq!(parts, budgeted);
    }
}
