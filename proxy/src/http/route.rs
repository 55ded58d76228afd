//! Which route a request belongs to. The most specific wins, whatever the order in the file: by host (exact, pattern, any),
//! then by path, then a route that names methods before one that does not. Ties are load errors.
//!
//! A request whose path can be read as belonging to two routes is refused: the route decides who may, and more (DESIGN,
//! ruling "path"). Pure, and without allocation.

use super::normalize::Readings;
use crate::authz::is_every_path;
use crate::authz::prefix_index::PrefixIndex;
use crate::lookup::Lookup;
use crate::refusal::Refusal;
use http::Method;
use postern_config::{HostPattern, PathPattern, Route};
use std::cmp::Reverse;

/// The routes of one port, compiled.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    by_host: Lookup<Box<str>, PrefixIndex<Entry>>,
    /// Routes of host patterns, and of any host.
    other_hosts: PrefixIndex<Entry>,
    /// Some route permits what `read_path` refuses unless it is lax.
    has_lax: bool,
    has_connect: bool,
}

/// A route under one of its hosts.
#[derive(Clone, Debug)]
struct Entry {
    /// Index in the routes as given.
    route: usize,
    /// Place in the order of all entries: the smallest that matches wins.
    rank: usize,
    /// `None`: any, or the exact one that the entry is filed under.
    host: Option<HostPattern>,
    path: PathPattern,
    is_every_path: bool,
    methods: Vec<Method>,
    /// CONNECT aside, which has to be said by `connect`.
    any_method: bool,
    connect: bool,
}

impl RouteTable {
    pub fn compile(routes: &[Route]) -> Self {
        let mut pairs: Vec<(usize, &Route, Option<&HostPattern>)> = Vec::new();
        for (index, route) in routes.iter().enumerate() {
            if route.hosts.is_empty() {
                pairs.push((index, route, None));
            }
            pairs.extend(route.hosts.iter().map(|host| (index, route, Some(host))));
        }
        // By name last: a tie that got past the load would not depend on the order in the file either.
        pairs.sort_by_cached_key(|(_, route, host)| (Reverse(route.specificity(*host)), route.name.clone()));
        let mut table = Self::default();
        for (rank, (index, route, host)) in pairs.into_iter().enumerate() {
            let exact = host.and_then(HostPattern::exact);
            let entry = Entry::compile(index, rank, route, host.filter(|_| exact.is_none()));
            table.has_lax |= route.lax_path;
            table.has_connect |= route.connect;
            let paths = match exact {
                Some(name) => table.by_host.entry(name.into()).or_default(),
                None => &mut table.other_hosts,
            };
            paths.insert(&route.path.to_string(), entry);
        }
        table
    }

    /// Whether it can help to read a path again with `lax`; the route selected then has to permit it.
    pub fn has_lax(&self) -> bool {
        self.has_lax
    }

    /// The index, in the routes as given, of the one that every reading selects. `host` as in [`super::target::Target`].
    ///
    /// # Errors
    /// `NoRoute`, `AmbiguousRoute`, or `ConnectRefused` for a CONNECT that no route speaks of.
    pub fn select(&self, host: &str, method: &Method, readings: &Readings<'_>) -> Result<usize, Refusal> {
        let none = if *method == Method::CONNECT { Refusal::ConnectRefused } else { Refusal::NoRoute };
        if *method == Method::CONNECT && !self.has_connect {
            return Err(none);
        }
        let exact = self.by_host.get(host);
        let mut selected = readings.iter().map(|path| {
            let exact = exact.and_then(|paths| best(paths, host, method, path));
            let other = best(&self.other_hosts, host, method, path);
            exact.into_iter().chain(other).min_by_key(|entry| entry.rank).map(|entry| entry.route)
        });
        let first = selected.next().flatten();
        if selected.any(|route| route != first) {
            return Err(Refusal::AmbiguousRoute);
        }
        first.ok_or(none)
    }
}

/// The best entry of `paths`: each list is in order of rank, so its first match is its best.
fn best<'a>(paths: &'a PrefixIndex<Entry>, host: &str, method: &Method, path: &'a str) -> Option<&'a Entry> {
    let filed_under = if path == "*" { "" } else { path };
    let firsts = paths
        .candidates(filed_under)
        .filter_map(|entries| entries.iter().find(|entry| entry.matches(host, method, path)));
    firsts.min_by_key(|entry| entry.rank)
}

impl Entry {
    fn compile(route_index: usize, rank: usize, route: &Route, host: Option<&HostPattern>) -> Self {
        Self {
            route: route_index,
            rank,
            host: host.cloned(),
            path: route.path.clone(),
            is_every_path: is_every_path(&route.path),
            methods: route.methods.iter().filter_map(|method| method.parse().ok()).collect(),
            any_method: route.methods.is_empty(),
            connect: route.connect,
        }
    }

    fn matches(&self, host: &str, method: &Method, path: &str) -> bool {
        (self.any_method || self.methods.contains(method))
            && (self.connect || *method != Method::CONNECT)
            && match path {
                // `CONNECT host:port` and `OPTIONS *` name no path; no `/` is implied (THREATS PN-28).
                "" | "*" => self.is_every_path,
                path => self.path.matches(path),
            }
            && self.host.as_ref().is_none_or(|pattern| pattern.matches(host).is_some())
    }
}

#[cfg(test)]
mod tests;
