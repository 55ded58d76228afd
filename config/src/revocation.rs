//! `revocation:`: trust that is taken back before it expires.

use crate::bounds::Count;
use crate::problem::Place;
use crate::read::{Field, FromNode, Keys, Reader, Section};
use crate::upstream::Percent;
use crate::values::{FilePath, OneOrMany, Span};
use crate::yaml::Node;
use schemars::JsonSchema;
use std::path::PathBuf;
use std::time::Duration;

/// Where it is said whose trust has ended, and what happens before much of what lives is cut.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Revocation {
    /// Read by [`DenyList::load`](crate::DenyList::load), and watched. `None`: only the admin socket denies.
    pub deny_list: Option<PathBuf>,
    /// Certificate revocation lists, besides those that the Workload API brings.
    pub crls: Vec<PathBuf>,
    pub stale_crls: StaleCrls,
    pub guard: Guard,
}

/// What a CRL is worth whose `nextUpdate` has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum StaleCrls {
    /// What it revokes stays revoked, and others are let in; there is an alarm.
    #[default]
    Allow,
    /// Nobody is let in whose issuer's list is stale.
    Refuse,
}

impl StaleCrls {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Refuse => "refuse",
        }
    }
}

/// Held against every change of bundles, policy and deny list before it acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard {
    /// Of the live connections, in percent: a change that would cut more is told. Default 50.
    pub share_percent: u8,
    /// With fewer connections nothing is said. Default 10.
    pub connections_min: usize,
    pub hold: Hold,
}

/// What happens to a change that the guard tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Hold {
    /// It acts at once, and is told.
    #[default]
    Off,
    /// It waits, for somebody's word or for so long.
    For(Duration),
    /// It waits for somebody's word.
    UntilTold,
}

impl Default for Guard {
    fn default() -> Self {
        Self { share_percent: 50, connections_min: 10, hold: Hold::Off }
    }
}

/// Trust that is taken back before it expires. Each acts on live connections at once, and on no others.
#[derive(JsonSchema)]
#[schemars(rename = "Revocation", deny_unknown_fields, extend("required" = []))]
pub(crate) struct RawRevocation {
    /// A file of SPIFFE IDs, certificates and tokens that are refused, whatever vouches for them. It is watched. A file that
    /// is broken or gone changes nothing: to end its entries, write `deny: []`.
    #[schemars(extend("x-default" = "what the admin socket is told"))]
    deny_list: Field<FilePath>,
    /// Certificate revocation lists, PEM or DER, besides those that the Workload API brings. They are watched. A list counts
    /// for the authority whose key signed it, and for no other.
    #[schemars(extend("default" = []))]
    crls: Field<OneOrMany<FilePath>>,
    /// What a list is worth whose `nextUpdate` has passed: `allow` keeps refusing whom it names and lets others in, with an
    /// alarm; `refuse` lets in nobody of that authority.
    #[schemars(extend("default" = "allow"))]
    stale_crls: Field<StaleCrls>,
    /// Changes of bundles, policy and deny list that would cut much of what lives.
    #[schemars(extend("x-default" = "told, and not held"))]
    guard: Field<RawGuard>,
}

impl Section for RawRevocation {
    const NAME: &'static str = "`revocation`";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self {
            deny_list: keys.optional("deny_list"),
            crls: keys.optional("crls"),
            stale_crls: keys.optional("stale_crls"),
            guard: keys.optional("guard"),
        }
    }
}

impl RawRevocation {
    pub fn check(self, reader: &mut Reader) -> Revocation {
        let crls: Vec<PathBuf> = self.crls.or_default().0.into_iter().map(|file| file.0).collect();
        Revocation {
            deny_list: self.deny_list.into_option().map(|file| file.0),
            crls,
            stale_crls: self.stale_crls.or_default(),
            guard: self.guard.into_option().map_or_else(Guard::default, |guard| guard.check(reader)),
        }
    }
}

/// Looks at every change of bundles, policy and deny list before it acts: how many live connections would it cut?
#[derive(JsonSchema)]
#[schemars(rename = "Guard", deny_unknown_fields, extend("required" = []))]
pub(crate) struct RawGuard {
    /// Of the live connections: a change that would cut more is told, in the log, a metric and the audit log.
    #[schemars(extend("default" = "50%"))]
    share: Field<Percent>,
    /// With fewer live connections nothing is told or held.
    #[schemars(extend("default" = 10))]
    connections: Field<Count>,
    /// Whether such a change waits: for a duration, or until `postern held apply`. Until then what was before stays in force
    /// whole, our own new SVIDs among it.
    #[schemars(extend("default" = "off"))]
    hold: Field<Hold>,
    #[schemars(skip)]
    place: Place,
}

impl Section for RawGuard {
    const NAME: &'static str = "`guard`";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self {
            share: keys.optional("share"),
            connections: keys.optional("connections"),
            hold: keys.optional("hold"),
            place: keys.place(),
        }
    }
}

impl RawGuard {
    fn check(self, reader: &mut Reader) -> Guard {
        let default = Guard::default();
        let share_percent = self.share.into_option().map_or(default.share_percent, |share| share.0);
        if share_percent == 100 {
            let hint = "write a smaller share, such as `50%`";
            reader.problem(&self.place, "no change can cut more than 100% of what lives", hint);
        }
        let connections_min = self.connections.into_option().map_or(default.connections_min, Count::as_usize);
        Guard { share_percent, connections_min, hold: self.hold.or_default() }
    }
}

impl FromNode for StaleCrls {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        reader.word(node, &[("allow", Self::Allow), ("refuse", Self::Refuse)])
    }
}

impl JsonSchema for StaleCrls {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "StaleCrls".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "enum": ["allow", "refuse"] })
    }
}

impl FromNode for Hold {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        match reader.scalar(node, "`off`, a duration or `until_told`")? {
            "off" => Some(Self::Off),
            "until_told" => Some(Self::UntilTold),
            _ => Span::from_node(node, reader).map(|span| Self::For(span.0)),
        }
    }
}

impl JsonSchema for Hold {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Hold".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let span = generator.subschema_for::<Span>();
        schemars::json_schema!({ "anyOf": [{ "type": "string", "enum": ["off", "until_told"] }, span] })
    }
}

#[cfg(test)]
mod tests {
    use super::{Guard, Hold, Revocation, StaleCrls};
    use crate::Config;
    use std::path::Path;
    use std::time::Duration;

    fn read(text: &str) -> Result<Revocation, String> {
        let config = Config::from_str(Path::new("/etc/postern/postern.yaml"), text);
        config.map(|config| config.revocation).map_err(|problems| problems.to_string())
    }

    #[test]
    fn what_is_not_written_denies_nobody_and_holds_nothing() {
        assert_eq!(read("workers: 1\n"), Ok(Revocation::default()));
        assert_eq!(read("revocation: {}\n"), Ok(Revocation::default()));
    }

    #[test]
    fn files_begin_at_the_directory_of_the_file_that_names_them() {
        let text = "revocation: { deny_list: deny.yaml, crls: [a.pem, /b.crl], stale_crls: refuse }\n";
        let revocation = read(text).unwrap();
        assert_eq!(revocation.deny_list.as_deref(), Some(Path::new("/etc/postern/deny.yaml")));
        assert_eq!(revocation.crls, [Path::new("/etc/postern/a.pem"), Path::new("/b.crl")]);
        assert_eq!(revocation.stale_crls, StaleCrls::Refuse);
    }

    #[test]
    fn a_guard_holds_for_a_time_or_for_a_word() {
        let guard = |text: &str| read(&format!("revocation: {{ guard: {text} }}\n")).map(|revocation| revocation.guard);
        let default = Guard::default();
        assert_eq!(guard("{ hold: off }"), Ok(default));
        let minutes = Hold::For(Duration::from_secs(300));
        assert_eq!(guard("{ share: 20%, hold: 5m }"), Ok(Guard { share_percent: 20, hold: minutes, ..default }));
        let told = Guard { connections_min: 1, hold: Hold::UntilTold, ..default };
        assert_eq!(guard("{ connections: 1, hold: until_told }"), Ok(told));
        assert!(guard("{ share: 100% }").unwrap_err().contains("no change can cut more"));
        assert!(guard("{ hold: 5 }").unwrap_err().contains("`5s` for seconds"));
        assert!(guard("{ hold: 0s }").unwrap_err().contains("would end everything at once"));
    }
}
