//! A rule as it is written, and its checks.

use super::conditions::{Fields, check_headers, check_query};
use super::time_window::RawTimeWindow;
use super::token_match::RawTokenMatch;
use super::{Condition, Effect, FieldMatch, Principal, Rule};
use crate::network::Network;
use crate::pattern::{HostPattern, PathPattern, SpiffePattern};
use crate::problem::Place;
use crate::read::{Field, Keys, Reader, Section};
use crate::spiffe_id::TrustDomain;
use crate::values::{At, Method, Name, OneOrMany};
use schemars::JsonSchema;

/// One rule: it fits what fits all of its parts.
#[derive(JsonSchema)]
#[schemars(rename = "Rule", deny_unknown_fields, extend("required" = []))]
pub(crate) struct RawRule {
    /// What logs and refusals call this rule.
    #[schemars(extend("x-default" = "allow-N, deny-N, require-N; of a port port-deny-N, port-require-N"))]
    name: Field<Name>,
    /// Callers whose verified SPIFFE ID fits one of these: exact, `*` for one segment, a final `/**` for everything
    /// below. The trust domain is always written out. `{name}` stands for one segment that has to be the same in the
    /// rule's paths or hosts.
    spiffe: Field<OneOrMany<At<SpiffePattern>>>,
    /// Callers of these trust domains.
    trust_domain: Field<OneOrMany<TrustDomain>>,
    /// Only when the original caller fits one of these, which has no `{name}`: whom the peer speaks for, where it is one of the
    /// port's `forwarders`, else the peer.
    #[schemars(extend("x-default" = "any"))]
    caller: Field<OneOrMany<At<SpiffePattern>>>,
    /// Plaintext callers, of whom nothing is known; only on ports with `tls: permissive` or `off`.
    #[schemars(extend("default" = false))]
    anonymous: Field<bool>,
    /// Only from these networks. Behind another proxy that is where the proxy is.
    #[schemars(extend("x-default" = "any"))]
    source: Field<OneOrMany<Network>>,
    /// Only at these times.
    #[schemars(extend("x-default" = "always"))]
    time: Field<RawTimeWindow>,
    /// Only when the caller asked for one of these names when TLS began (SNI). Callers in a mesh often ask for none: then a rule
    /// that allows does not fit, and one that denies does.
    #[schemars(extend("x-default" = "any"))]
    sni: Field<OneOrMany<HostPattern>>,
    /// Only on these ports, as `port` of an inbound port has them: for rules that several ports include.
    #[schemars(extend("x-default" = "any"))]
    ports: Field<OneOrMany<u16>>,
    /// Only where our own workload has these labels: `name: value`, or a list of values; `abc*`, `*abc` and `*` as for `headers`.
    /// Decided when the file is read; see `workload`.
    #[schemars(extend("x-default" = "any"))]
    labels: Field<Fields>,
    /// Only these methods. HTTP only.
    #[schemars(extend("x-default" = "any"))]
    methods: Field<OneOrMany<Method>>,
    /// Only these hosts: exact, `*` or `{name}` for one label, `**` first for one or more. HTTP only.
    #[schemars(extend("x-default" = "any"))]
    hosts: Field<OneOrMany<HostPattern>>,
    /// Only these paths: exact, `{name}` or `*` for one segment, a final `/**` for the path and everything below.
    /// A rule that allows fits when every reading of the request's path does, one that denies when any does. HTTP only.
    #[schemars(extend("x-default" = "any"))]
    paths: Field<OneOrMany<PathPattern>>,
    /// Only with these headers: `name: value`, or a list of values; `abc*` and `*abc` for the beginning and the end, `*` for any.
    /// A header that comes several times fits a rule that allows when each of its values does, one that denies when one
    /// does. HTTP only.
    #[schemars(extend("x-default" = "any"))]
    headers: Field<Fields>,
    /// Only with these parameters of the query, decoded, as for `headers`. HTTP only.
    #[schemars(extend("x-default" = "any"))]
    query: Field<Fields>,
    /// Only when the caller's token says this. Only on routes with an `audience`.
    #[schemars(extend("x-default" = "any token"))]
    token: Field<RawTokenMatch>,
    /// Only when this condition holds: CEL over what is known of request, connection, caller and token. What it asks for and is
    /// not known counts against the request.
    #[schemars(extend("x-default" = "none"))]
    when: Field<Condition>,
    #[schemars(skip)]
    place: Place,
}

impl Section for RawRule {
    const NAME: &'static str = "a rule";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self {
            name: keys.optional("name"),
            spiffe: keys.optional("spiffe"),
            trust_domain: keys.optional("trust_domain"),
            caller: keys.optional("caller"),
            anonymous: keys.optional("anonymous"),
            source: keys.optional("source"),
            time: keys.optional("time"),
            sni: keys.optional("sni"),
            ports: keys.optional("ports"),
            labels: keys.optional("labels"),
            methods: keys.optional("methods"),
            hosts: keys.optional("hosts"),
            paths: keys.optional("paths"),
            headers: keys.optional("headers"),
            query: keys.optional("query"),
            token: keys.optional("token"),
            when: keys.optional("when"),
            place: keys.place(),
        }
    }
}

impl RawRule {
    /// `default_name`: where it has none of its own. `None`: this rule's problems have been told.
    fn check(self, default_name: impl FnOnce() -> String, effect: Effect, reader: &mut Reader) -> Option<Rule> {
        self.refuse_empty(reader);
        let callers = self.spiffe.get().map(|callers| callers.0.clone()).unwrap_or_default();
        let who = self.who(effect, reader)?;
        let original = original_callers(read_or_nothing(self.caller)?, reader)?;
        let time = match self.time.is_written() {
            true => Some(self.time.into_option()?.check(reader)?),
            false => None,
        };
        let token = match self.token.is_written() {
            true => Some(self.token.into_option()?.check(reader)?),
            false => None,
        };
        let when = match self.when.is_written() {
            true => Some(self.when.into_option()?),
            false => None,
        };
        let rule = Rule {
            name: self.name.into_option().map_or_else(default_name, |name| name.0),
            who,
            callers: original,
            source: read_or_nothing(self.source)?.0,
            time,
            sni: read_or_nothing(self.sni)?.0,
            ports: read_or_nothing(self.ports)?.0,
            labels: field_matches(read_or_nothing(self.labels)?),
            methods: read_or_nothing(self.methods)?.0.into_iter().map(|method| method.0).collect(),
            hosts: read_or_nothing(self.hosts)?.0,
            paths: read_or_nothing(self.paths)?.0,
            headers: check_headers(read_or_nothing(self.headers)?, reader),
            query: check_query(read_or_nothing(self.query)?, reader),
            token,
            when,
            place: self.place,
        };
        if effect != Effect::Allow && rule.who == Principal::Anyone && !rule.is_about_requests() {
            let says_nothing = rule.source.is_empty() && rule.time.is_none() && rule.when.is_none();
            let says_nothing = says_nothing
                && rule.callers.is_empty()
                && rule.sni.is_empty()
                && rule.ports.is_empty()
                && rule.labels.is_empty();
            if says_nothing {
                let hint = "say what it is about: `spiffe`, `source`, `paths`, …";
                reader.problem(&rule.place, format!("a rule of `{}` fits everything", effect.as_str()), hint);
                return None;
            }
        }
        check_captures(&callers, &rule, reader).then_some(rule)
    }

    /// THREATS CF-03: an empty matcher must not come to mean everything.
    fn refuse_empty(&self, reader: &mut Reader) {
        for (key, is_empty, place) in [
            ("trust_domain", self.trust_domain.get().is_some_and(|it| it.0.is_empty()), self.trust_domain.place()),
            ("caller", self.caller.get().is_some_and(|it| it.0.is_empty()), self.caller.place()),
            ("source", self.source.get().is_some_and(|it| it.0.is_empty()), self.source.place()),
            ("sni", self.sni.get().is_some_and(|it| it.0.is_empty()), self.sni.place()),
            ("ports", self.ports.get().is_some_and(|it| it.0.is_empty()), self.ports.place()),
            ("labels", self.labels.get().is_some_and(|it| it.0.is_empty()), self.labels.place()),
            ("methods", self.methods.get().is_some_and(|it| it.0.is_empty()), self.methods.place()),
            ("hosts", self.hosts.get().is_some_and(|it| it.0.is_empty()), self.hosts.place()),
            ("paths", self.paths.get().is_some_and(|it| it.0.is_empty()), self.paths.place()),
            ("headers", self.headers.get().is_some_and(|it| it.0.is_empty()), self.headers.place()),
            ("query", self.query.get().is_some_and(|it| it.0.is_empty()), self.query.place()),
        ] {
            if let (true, Some(place)) = (is_empty, place) {
                reader.problem(place, format!("`{key}` has nothing that could fit"), "name some, or remove the key");
            }
        }
    }

    fn who(&self, effect: Effect, reader: &mut Reader) -> Option<Principal> {
        let names_peers = self.spiffe.is_written() || self.trust_domain.is_written();
        let is_anonymous = self.anonymous.get() == Some(&true);
        match (names_peers, is_anonymous) {
            (true, true) => {
                let hint = "write two rules, one with `spiffe` and one with `anonymous: true`";
                reader.problem(&self.place, "a rule names both `spiffe` and `anonymous`", hint);
                None
            }
            (false, true) => Some(Principal::Anonymous),
            (false, false) if effect != Effect::Allow => Some(Principal::Anyone),
            (false, false) => {
                if !self.anonymous.is_written() || self.anonymous.get() == Some(&false) {
                    let hint = "add `spiffe: spiffe://…` (or `anonymous: true` for plaintext callers)";
                    reader.problem(&self.place, "a rule does not say who may call", hint);
                }
                None
            }
            (true, false) => self.peers(reader).map(Principal::Spiffe),
        }
    }

    fn peers(&self, reader: &mut Reader) -> Option<Vec<SpiffePattern>> {
        if let (true, Some(place)) = (self.spiffe.is_written(), self.trust_domain.place()) {
            let hint = "write `spiffe: spiffe://TRUST-DOMAIN/**` beside the others";
            reader.problem(place, "a rule names both `spiffe` and `trust_domain`", hint);
            return None;
        }
        if self.trust_domain.is_written() {
            let domains = &self.trust_domain.get()?.0;
            let patterns = domains.iter().map(|domain| SpiffePattern::parse(&format!("spiffe://{domain}/**")).ok());
            return patterns.collect::<Option<Vec<_>>>().filter(|patterns| !patterns.is_empty());
        }
        let (place, patterns) = (self.spiffe.place()?, &self.spiffe.get()?.0);
        if patterns.is_empty() {
            reader.problem(place, "`spiffe` has nothing that could fit", "name at least one SPIFFE ID or pattern");
            return None;
        }
        Some(patterns.iter().map(|pattern| pattern.value.clone()).collect())
    }
}

/// `None`: it was written and could not be read. Then the rule as a whole is none: without a part it would fit more.
pub(super) fn read_or_nothing<T: Default>(field: Field<T>) -> Option<T> {
    match field.is_written() {
        true => field.into_option(),
        false => Some(T::default()),
    }
}

/// `None`: one has a capture, which nothing would compare.
fn original_callers(written: OneOrMany<At<SpiffePattern>>, reader: &mut Reader) -> Option<Vec<SpiffePattern>> {
    let mut is_right = true;
    for At { value: pattern, place } in &written.0 {
        if pattern.has_capture() {
            let what = format!("`{pattern}` has a capture, which means nothing here");
            reader.problem(place, what, "write `*` for any one segment; captures are for `spiffe`");
            is_right = false;
        }
    }
    is_right.then(|| written.0.into_iter().map(|pattern| pattern.value).collect())
}

fn field_matches(fields: Fields) -> Vec<FieldMatch> {
    fields.0.into_iter().map(|(name, _, values)| FieldMatch { name, values }).collect()
}

/// What a caller's ID captures has to be asked for elsewhere in the rule, or it would be a `*` that looks like more.
fn check_captures(callers: &[At<SpiffePattern>], rule: &Rule, reader: &mut Reader) -> bool {
    let in_all_paths =
        |name: &str| !rule.paths.is_empty() && rule.paths.iter().all(|path| path.captures().contains(&name));
    let in_all_hosts =
        |name: &str| !rule.hosts.is_empty() && rule.hosts.iter().all(|host| host.captures().contains(&name));
    let asked = rule.when.as_ref().map_or(&[][..], Condition::captures);
    let mut is_right = true;
    for name in asked {
        if !callers.iter().any(|caller| caller.value.captures().contains(&name.as_str())) {
            let what = format!("`when` asks for `captures.{name}`, and nothing captures it");
            reader.problem(&rule.place, what, format!("write `{{{name}}}` into the rule's `spiffe`"));
            is_right = false;
        }
    }
    for At { value: pattern, place } in callers {
        for name in pattern.captures() {
            if !in_all_paths(name) && !in_all_hosts(name) && !asked.iter().any(|asked| asked == name) {
                let what =
                    format!("`{pattern}` has the capture `{{{name}}}`, and not every path or host of the rule has it");
                let hint =
                    format!("write `{{{name}}}` into each of its `paths` (or `hosts`), or `*` for any one segment");
                reader.problem(place, what, hint);
                is_right = false;
            }
        }
    }
    is_right
}

/// The rules of a list that could be read. `scope` stands in their default names before `deny-1` or `require-1`, so that those
/// of a port are others than its routes', on which they hold too.
pub(crate) fn check_rules(rules: Vec<RawRule>, effect: Effect, scope: &str, reader: &mut Reader) -> Vec<Rule> {
    let name = |index: usize| match effect {
        Effect::Allow => format!("allow-{}", index + 1),
        Effect::Deny | Effect::Require => format!("{scope}{}-{}", effect.as_str(), index + 1),
    };
    let numbered = rules.into_iter().enumerate();
    numbered.filter_map(|(index, rule)| rule.check(|| name(index), effect, reader)).collect()
}
