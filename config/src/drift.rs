//! `drift:`, what is told, or refused, of things that are valid and not what they were before.

use crate::bounds::Count;
use crate::read::{Field, FromNode, Keys, Reader, Section};
use crate::units::print_duration;
use crate::values::Span;
use crate::yaml::Node;
use schemars::JsonSchema;
use serde_json::{Value, json};
use std::time::Duration;

/// How long what was seen counts unless the file says otherwise: longer than a caller's pause between two connections.
pub const WINDOW_DEFAULT: Duration = Duration::from_secs(600);
/// An SVID rarely lives longer.
const WINDOW_MAX: Duration = Duration::from_secs(24 * 3600);
/// Enough for what an application calls once an hour.
pub const LEARN_DEFAULT: Duration = Duration::from_secs(3600);
const LEARN_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// What one network of a cloud or one node of a cluster usually has.
const IPV4_PREFIX_DEFAULT: u8 = 24;
/// What one link has (RFC 4291 §2.5.4).
const IPV6_PREFIX_DEFAULT: u8 = 64;

/// What comes of each kind of drift.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drift {
    pub certificate_from_two_networks: OnDrift,
    pub token_from_two_networks: OnDrift,
    pub token_of_another_subject: OnDrift,
    pub upstream_changed_identity: OnDrift,
    /// Never `Deny`; so the next.
    pub new_destination: OnDrift,
    pub own_svid_changed: OnDrift,
    /// How long what was seen counts.
    pub window: Duration,
    /// From the start of the process: destinations that are called in it are known.
    pub learn: Duration,
    /// Addresses with as many leading bits in common are of one network. At most 32.
    pub ipv4_prefix: u8,
    /// At most 128.
    pub ipv6_prefix: u8,
}

/// What comes of a drift.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, JsonSchema)]
#[schemars(rename_all = "lowercase")]
pub enum OnDrift {
    /// Nobody looks.
    Off,
    /// It is counted, logged, and recorded.
    Event,
    /// It is refused besides.
    Deny,
}

impl Default for Drift {
    /// What costs nothing on the way of a request is looked at, and nothing is refused.
    fn default() -> Self {
        Self {
            certificate_from_two_networks: OnDrift::Event,
            token_from_two_networks: OnDrift::Off,
            token_of_another_subject: OnDrift::Off,
            upstream_changed_identity: OnDrift::Event,
            new_destination: OnDrift::Off,
            own_svid_changed: OnDrift::Event,
            window: WINDOW_DEFAULT,
            learn: LEARN_DEFAULT,
            ipv4_prefix: IPV4_PREFIX_DEFAULT,
            ipv6_prefix: IPV6_PREFIX_DEFAULT,
        }
    }
}

impl Drift {
    /// As the file would say it.
    pub(crate) fn effective_json(&self) -> Value {
        json!({
            "certificate_from_two_networks": self.certificate_from_two_networks.as_str(),
            "token_from_two_networks": self.token_from_two_networks.as_str(),
            "token_of_another_subject": self.token_of_another_subject.as_str(),
            "upstream_changed_identity": self.upstream_changed_identity.as_str(),
            "new_destination": self.new_destination.as_str(),
            "own_svid_changed": self.own_svid_changed.as_str(),
            "window": print_duration(self.window),
            "learn": print_duration(self.learn),
            "ipv4_prefix": self.ipv4_prefix,
            "ipv6_prefix": self.ipv6_prefix,
        })
    }
}

impl OnDrift {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Event => "event",
            Self::Deny => "deny",
        }
    }
}

impl FromNode for OnDrift {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        reader.word(node, &[("off", Self::Off), ("event", Self::Event), ("deny", Self::Deny)])
    }
}

/// What is told of things that are valid, and not what they were: counted, logged and recorded (`event`), or refused
/// besides (`deny`).
#[derive(JsonSchema)]
#[schemars(rename = "Drift", deny_unknown_fields, extend("required" = []))]
pub(crate) struct RawDrift {
    /// A peer's certificate comes from a network while connections made with it from another one live, or did within
    /// `window`. `off` where peers come through something that hides their addresses, or move.
    #[schemars(extend("default" = "event"))]
    certificate_from_two_networks: Field<OnDrift>,
    /// A token is shown from another network than within `window` before. Each request with a token is looked at.
    #[schemars(extend("default" = "off"))]
    token_from_two_networks: Field<OnDrift>,
    /// A JWT-SVID is shown by a caller that it is not about, where the route does not name that caller as a forwarder.
    /// `deny` makes of `binding: bearer` what `binding: peer` is, for callers with an identity.
    #[schemars(extend("default" = "off"))]
    token_of_another_subject: Field<OnDrift>,
    /// An endpoint answers with another of the expected identities than within `window` before.
    #[schemars(extend("default" = "event"))]
    upstream_changed_identity: Field<OnDrift>,
    /// The application calls a destination that it did not call before, since the process started and was `learn` old.
    /// `event` or `off`.
    #[schemars(extend("default" = "off"))]
    new_destination: Field<OnDrift>,
    /// Our own SVID has another SPIFFE ID than before, is older, lives less than half as long, or is vouched for by an
    /// authority that was not in the bundle. `event` or `off`.
    #[schemars(extend("default" = "event"))]
    own_svid_changed: Field<OnDrift>,
    /// How long what was seen counts; up to 24h.
    #[schemars(extend("default" = "10m"))]
    window: Field<Span>,
    /// How long after the start of the process destinations are only learned; up to 168h.
    #[schemars(extend("default" = "1h"))]
    learn: Field<Span>,
    /// Leading bits that IPv4 addresses of one network have in common.
    #[schemars(extend("default" = 24))]
    ipv4_prefix: Field<Count>,
    /// The same of IPv6.
    #[schemars(extend("default" = 64))]
    ipv6_prefix: Field<Count>,
}

impl Section for RawDrift {
    const NAME: &'static str = "`drift`";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self {
            certificate_from_two_networks: keys.optional("certificate_from_two_networks"),
            token_from_two_networks: keys.optional("token_from_two_networks"),
            token_of_another_subject: keys.optional("token_of_another_subject"),
            upstream_changed_identity: keys.optional("upstream_changed_identity"),
            new_destination: keys.optional("new_destination"),
            own_svid_changed: keys.optional("own_svid_changed"),
            window: keys.optional("window"),
            learn: keys.optional("learn"),
            ipv4_prefix: keys.optional("ipv4_prefix"),
            ipv6_prefix: keys.optional("ipv6_prefix"),
        }
    }
}

impl RawDrift {
    pub fn check(self, reader: &mut Reader) -> Drift {
        let default = Drift::default();
        let destination = "what is not declared below `outbound` is refused already, and what is known is forgotten with the \
                           process; write `event`";
        let own = "the provider of our identity decides what it is; write `event`, and see `revocation: { guard: { hold: … } }` \
                   for changes that cut much";
        undeniable("new_destination", &self.new_destination, destination, reader);
        undeniable("own_svid_changed", &self.own_svid_changed, own, reader);
        Drift {
            certificate_from_two_networks: self.certificate_from_two_networks.or(default.certificate_from_two_networks),
            token_from_two_networks: self.token_from_two_networks.or(default.token_from_two_networks),
            token_of_another_subject: self.token_of_another_subject.or(default.token_of_another_subject),
            upstream_changed_identity: self.upstream_changed_identity.or(default.upstream_changed_identity),
            new_destination: self.new_destination.or(default.new_destination),
            own_svid_changed: self.own_svid_changed.or(default.own_svid_changed),
            window: span("window", self.window, default.window, WINDOW_MAX, reader),
            learn: span("learn", self.learn, default.learn, LEARN_MAX, reader),
            ipv4_prefix: prefix("ipv4_prefix", self.ipv4_prefix, default.ipv4_prefix, 32, reader),
            ipv6_prefix: prefix("ipv6_prefix", self.ipv6_prefix, default.ipv6_prefix, 128, reader),
        }
    }
}

fn undeniable(key: &str, field: &Field<OnDrift>, hint: &str, reader: &mut Reader) {
    if let (Some(OnDrift::Deny), Some(place)) = (field.get(), field.place()) {
        reader.problem(place, format!("`{key}` cannot be denied"), hint);
    }
}

fn span(key: &str, field: Field<Span>, default: Duration, most: Duration, reader: &mut Reader) -> Duration {
    let place = field.place().cloned();
    let span = field.into_option().map_or(default, |span| span.0);
    if let Some(place) = place.filter(|_| span > most) {
        let most = print_duration(most);
        reader.problem(&place, format!("`{key}` is longer than {most}"), format!("write {most} or less"));
    }
    span
}

fn prefix(key: &str, field: Field<Count>, default: u8, most: u8, reader: &mut Reader) -> u8 {
    let place = field.place().cloned();
    let Some(Count(bits)) = field.into_option() else { return default };
    match (u8::try_from(bits).ok().filter(|bits| *bits <= most), place) {
        (Some(bits), _) => bits,
        (None, place) => {
            if let Some(place) = place {
                let hint = format!("write a prefix length from 1 to {most}");
                reader.problem(&place, format!("`{key}: {bits}` is more bits than an address has"), hint);
            }
            default
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Drift, OnDrift};
    use crate::Config;
    use std::path::Path;
    use std::time::Duration;

    fn read(text: &str) -> Result<Drift, String> {
        let config = Config::from_str(Path::new("postern.yaml"), text);
        config.map(|config| config.drift).map_err(|problems| problems.to_string())
    }

    #[test]
    fn what_costs_a_request_nothing_is_told_and_nothing_is_refused_unless_the_file_says_so() {
        let default = Drift::default();
        assert_eq!(read("workers: 1\n"), Ok(default));
        assert_eq!(read("drift: {}\n"), Ok(default));
        let expected = Drift {
            certificate_from_two_networks: OnDrift::Deny,
            upstream_changed_identity: OnDrift::Off,
            new_destination: OnDrift::Event,
            window: Duration::from_secs(3600),
            ipv4_prefix: 16,
            ..default
        };
        let text = "drift: { certificate_from_two_networks: deny, upstream_changed_identity: off, new_destination: event, \
                    window: 1h, ipv4_prefix: 16 }\n";
        assert_eq!(read(text), Ok(expected));
    }

    #[test]
    fn what_cannot_be_is_told_with_its_place_and_what_to_write() {
        for (text, expected) in [
            ("drift: { new_destination: deny }\n", "1:27: `new_destination` cannot be denied"),
            ("drift: { own_svid_changed: deny }\n", "`own_svid_changed` cannot be denied"),
            ("drift: { window: 25h }\n", "`window` is longer than 24h"),
            ("drift: { learn: 169h }\n", "`learn` is longer than 168h"),
            ("drift: { ipv4_prefix: 33 }\n", "from 1 to 32"),
            ("drift: { ipv6_prefix: 129 }\n", "from 1 to 128"),
            ("drift: { new_destinations: event }\n", "did you mean `new_destination`?"),
            ("drift: { token_from_two_networks: on }\n", "`event`"),
        ] {
            let problems = read(text).unwrap_err();
            assert!(problems.contains(expected), "{text}{problems}");
        }
    }
}
