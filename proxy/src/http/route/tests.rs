use super::RouteTable;
use crate::http::normalize::{Readings, read_path};
use crate::refusal::Refusal;
use http::Method;
use postern_config::{HostPattern, PathPattern, Place, Route};
use proptest::prelude::*;
use std::path::PathBuf;
use std::sync::Arc;

fn route(name: &str, hosts: &[&str], path: &str, methods: &[&str]) -> Route {
    Route {
        mode: postern_config::Mode::Enforce,
        name: name.to_owned(),
        hosts: hosts.iter().map(|host| HostPattern::parse(host).expect("a pattern")).collect(),
        path: PathPattern::parse(path).expect("a pattern"),
        methods: methods.iter().map(|method| (*method).to_owned()).collect(),
        token: None,
        rules: postern_config::Rules::default(),
        authorize: None,
        rate_limit: None,
        connect: false,
        lax_path: false,
        request_timeout: None,
        place: Place { file: Arc::new(PathBuf::from("test.yaml")), line: 1, column: 1 },
    }
}

/// Checks in the order given and in the reverse: it must not matter.
fn check(routes: &[Route], host: &str, method: &str, path: &str, expected: Result<&str, Refusal>) {
    let reversed: Vec<Route> = routes.iter().rev().cloned().collect();
    let read = read_path(path, false).unwrap_or_else(|problem| panic!("{path}: {problem}"));
    for routes in [routes, &reversed] {
        let selected = RouteTable::compile(routes).select(host, &method.parse().expect("a method"), &read);
        let selected = selected.map(|index| routes[index].name.as_str());
        assert_eq!(selected, expected, "{method} {host}{path}");
    }
}

#[test]
fn the_most_specific_path_wins() {
    let routes = [
        route("all", &[], "/**", &[]),
        route("orders", &[], "/orders/**", &[]),
        route("items", &[], "/orders/{id}/items", &[]),
        route("seven", &[], "/orders/7/items", &[]),
        route("list", &[], "/orders", &[]),
    ];
    for (path, name) in [
        ("/", "all"),
        ("/ordersx", "all"),
        ("/orders", "list"),
        ("/orders/", "orders"),
        ("/orders/7", "orders"),
        ("/orders/8/items", "items"),
        ("/orders/7/items", "seven"),
        ("/orders/7/items/1", "orders"),
    ] {
        check(&routes, "shop", "GET", path, Ok(name));
    }
}

#[test]
fn the_host_decides_before_the_path() {
    let routes = [
        route("any", &[], "/orders/7", &[]),
        route("pattern", &["*.shop.svc"], "/orders/**", &[]),
        route("exact", &["a.shop.svc", "b.shop.svc"], "/**", &[]),
    ];
    check(&routes, "a.shop.svc", "GET", "/orders/7", Ok("exact"));
    check(&routes, "b.shop.svc", "GET", "/x", Ok("exact"));
    check(&routes, "c.shop.svc", "GET", "/orders/7", Ok("pattern"));
    check(&routes, "c.shop.svc", "GET", "/x", Err(Refusal::NoRoute));
    check(&routes, "other", "GET", "/orders/7", Ok("any"));
    check(&routes, "other", "GET", "/x", Err(Refusal::NoRoute));
}

#[test]
fn a_route_that_names_methods_wins_over_one_that_does_not() {
    let routes = [route("any", &[], "/orders", &[]), route("write", &[], "/orders", &["POST", "PUT"])];
    for (method, name) in [("GET", "any"), ("POST", "write"), ("post", "any"), ("PURGE", "any")] {
        check(&routes, "shop", method, "/orders", Ok(name));
    }
    check(&routes[1..], "shop", "GET", "/orders", Err(Refusal::NoRoute));
}

#[test]
fn refuses_readings_that_select_different_routes() {
    let routes = [
        route("admin", &[], "/admin/**", &[]),
        route("public", &[], "/public/**", &[]),
        route("item", &[], "/item/{id}", &[]),
    ];
    for path in [
        "/public/../admin",
        "/public/%2e%2e/admin",
        "//admin",
        "/%61dmin",
        "/item/a%2Fb",
        "/admin/../none",
        "/none/../admin",
    ] {
        check(&routes, "shop", "GET", path, Err(Refusal::AmbiguousRoute));
    }
    for (path, name) in
        [("/admin/../admin/x", "admin"), ("/public//x", "public"), ("/public/a%2Fb", "public"), ("/item/a;b=c", "item")]
    {
        check(&routes, "shop", "GET", path, Ok(name));
    }
    check(&routes, "shop", "GET", "//none", Err(Refusal::NoRoute));
}

#[test]
fn pn28_connect_needs_a_route_that_says_so() {
    let mut tunnel = route("tunnel", &["good"], "/**", &[]);
    tunnel.connect = true;
    let plain = [route("all", &[], "/**", &[]), route("named", &[], "/**", &["CONNECT"])];
    let select = |routes: &[Route], host: &str, target: &'static str| {
        RouteTable::compile(routes).select(host, &Method::CONNECT, &Readings::of_no_path(target))
    };
    assert_eq!(select(&plain, "good", ""), Err(Refusal::ConnectRefused));
    let with_tunnel = [plain[0].clone(), tunnel.clone()];
    assert_eq!(select(&with_tunnel, "good", ""), Ok(1));
    assert_eq!(select(&with_tunnel, "evil", ""), Err(Refusal::ConnectRefused));
    // No implicit `/`.
    let mut root = route("root", &[], "/", &[]);
    root.connect = true;
    assert_eq!(select(&[root], "good", ""), Err(Refusal::ConnectRefused));
    check(&with_tunnel, "good", "GET", "/x", Ok("tunnel"));
}

#[test]
fn pn15_the_asterisk_takes_the_route_of_everything() {
    let routes = [route("orders", &[], "/{any}", &[]), route("all", &[], "/**", &[])];
    let select =
        |routes: &[Route]| RouteTable::compile(routes).select("good", &Method::OPTIONS, &Readings::of_no_path("*"));
    assert_eq!(select(&routes), Ok(1));
    assert_eq!(select(&routes[..1]), Err(Refusal::NoRoute));
}

#[test]
fn says_whether_a_lax_reading_can_help() {
    let mut lax = route("lax", &[], "/lax/**", &[]);
    lax.lax_path = true;
    assert!(!RouteTable::compile(&[route("all", &[], "/**", &[])]).has_lax());
    assert!(RouteTable::compile(&[lax]).has_lax());
}

#[test]
fn cf08_each_of_a_thousand_routes_is_found() {
    let routes: Vec<Route> = (0..1000)
        .map(|index| match index % 4 {
            0 => route(&format!("r{index}"), &[], &format!("/api/v1/r{index}"), &[]),
            1 => route(&format!("r{index}"), &[], &format!("/api/v1/r{index}/**"), &[]),
            2 => route(&format!("r{index}"), &[], &format!("/api/v1/r{index}/{{id}}"), &[]),
            _ => route(&format!("r{index}"), &[&format!("h{index}.shop.svc")], "/**", &[]),
        })
        .collect();
    let table = RouteTable::compile(&routes);
    for index in 0..1000 {
        let path = format!("/api/v1/r{index}{}", if index % 4 == 2 { "/7" } else { "" });
        let read = read_path(&path, false).expect("plain");
        assert_eq!(table.select(&format!("h{index}.shop.svc"), &Method::GET, &read), Ok(index));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// The table says what a plain loop says that keeps the best of all that match.
    #[test]
    fn pn_27_selects_as_a_plain_loop(
        routes in proptest::collection::btree_set((0..HOSTS.len(), 0..PATHS.len(), any::<bool>()), 0..8),
        host in 0..3_usize, path in 0..REQUESTED.len(), post: bool,
    ) {
        let routes: Vec<Route> = routes.into_iter()
            .map(|(host, path, post)| route(&format!("{host}-{path}-{post}"), HOSTS[host], PATHS[path], if post { &["POST"] } else { &[] }))
            .collect();
        let (host, path) = (["a.shop", "b.shop", "other"][host], REQUESTED[path]);
        let method = if post { Method::POST } else { Method::GET };
        let key = |route: &Route| {
            let host = route.hosts.iter().filter(|pattern| pattern.matches(host).is_some())
                .map(|pattern| (pattern.exact().is_some(), pattern.specificity())).max();
            (host, route.path.specificity(), !route.methods.is_empty())
        };
        let fitting = routes.iter().enumerate().filter(|(_, route)| {
            (route.hosts.is_empty() || route.hosts.iter().any(|pattern| pattern.matches(host).is_some()))
                && route.path.matches(path)
                && (route.methods.is_empty() || route.methods.iter().any(|name| name == method.as_str()))
        });
        let expected = fitting.max_by_key(|(_, route)| key(route)).map(|(index, _)| index).ok_or(Refusal::NoRoute);
        let read = read_path(path, false).expect("plain");
        prop_assert_eq!(RouteTable::compile(&routes).select(host, &method, &read), expected);
    }
}

const HOSTS: [&[&str]; 4] = [&[], &["a.shop"], &["*.shop"], &["b.shop", "**.shop"]];
const PATHS: [&str; 6] = ["/**", "/a/**", "/a/{id}", "/a/b", "/a/b/", "/{x}/{y}/c"];
const REQUESTED: [&str; 8] = ["/", "/a", "/a/", "/a/b", "/a/b/", "/a/x", "/z/b/c", "/a/b/c"];
