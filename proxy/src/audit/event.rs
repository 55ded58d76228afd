//! What became of what decisions stand on: credentials, policy, levers.

use super::record::{SERIAL_BYTES_MAX, some, write, write_own};
use crate::break_glass::Active;
use crate::drift;
use crate::identity::{Bundle, Svid};
use crate::revocation::{Blast, Entry};
use crate::telemetry::record::{DETAIL_BYTES_MAX, ID_BYTES_MAX, NAME_BYTES_MAX};
use crate::tls::certificate::hex;
use postern_config::TrustDomain;
use std::time::SystemTime;

/// What became of what decisions stand on.
pub enum Event<'a> {
    SvidFetched(&'a Svid),
    /// One of the same SPIFFE ID took its place.
    SvidRotated {
        svid: &'a Svid,
        serial_before: &'a str,
    },
    SvidWithdrawn(&'a Svid),
    /// It came, or is not what it was.
    BundleChanged(&'a Bundle),
    BundleWithdrawn(&'a TrustDomain),
    /// The source of identities does not answer, or denies us one; `why`.
    SourceLost {
        why: &'a str,
    },
    SourceBack,
    PolicyLoaded {
        digest: &'a str,
        generation: u64,
    },
    PolicyRefused {
        why: &'a str,
    },
    /// From now on it is refused, whatever vouches for it.
    Denied(&'a Entry),
    AllowedAgain(&'a Entry),
    /// An override of the rules is in force from now on, or no longer.
    BreakGlass {
        active: &'a Active,
        acts: bool,
    },
    BreakGlassRefused {
        why: &'a str,
    },
    /// A change would cut, or cut, much of what lives.
    GuardAlarm {
        change: &'a str,
        blast: Blast,
        is_held: bool,
    },
    /// Something is valid, and not what it was. `untold`: how many of the same were not recorded since the last one.
    Drift {
        facts: &'a drift::Facts<'a>,
        untold: u64,
    },
    /// Somebody wanted to, and may not.
    LeverRefused {
        lever: &'a str,
        uid: u32,
    },
    /// Somebody changed something through the admin socket.
    LeverUsed {
        lever: &'a str,
        detail: Option<&'a str>,
        uid: Option<u32>,
    },
}

impl Event<'_> {
    fn name(&self) -> &'static str {
        match self {
            Self::SvidFetched(_) => "svid_fetched",
            Self::SvidRotated { .. } => "svid_rotated",
            Self::SvidWithdrawn(_) => "svid_withdrawn",
            Self::BundleChanged(_) => "bundle_changed",
            Self::BundleWithdrawn(_) => "bundle_withdrawn",
            Self::SourceLost { .. } => "source_lost",
            Self::SourceBack => "source_back",
            Self::PolicyLoaded { .. } => "policy_loaded",
            Self::PolicyRefused { .. } => "policy_refused",
            Self::Denied(_) => "denied",
            Self::AllowedAgain(_) => "allowed_again",
            Self::BreakGlass { acts: true, .. } => "break_glass_opened",
            Self::BreakGlass { acts: false, .. } => "break_glass_closed",
            Self::BreakGlassRefused { .. } => "break_glass_refused",
            Self::GuardAlarm { .. } => "guard_alarm",
            Self::Drift { .. } => "drift",
            Self::LeverRefused { .. } => "lever_refused",
            Self::LeverUsed { .. } => "lever_used",
        }
    }

    pub fn write(&self, buffer: &mut Vec<u8>, now: SystemTime) {
        write(buffer, "event", |object| {
            object.time("time", now);
            object.text("event", self.name(), NAME_BYTES_MAX);
            match self {
                Self::SvidFetched(svid) | Self::SvidWithdrawn(svid) => write_own(object, svid),
                Self::SvidRotated { svid, serial_before } => {
                    write_own(object, svid);
                    object.text("own.serial_before", serial_before, SERIAL_BYTES_MAX);
                }
                Self::BundleChanged(bundle) => {
                    object.text("trust_domain", bundle.trust_domain.as_str(), NAME_BYTES_MAX * 2);
                    let anchors = bundle.anchors.iter().take(AUTHORITIES_MAX);
                    let authorities: Vec<_> =
                        anchors.map(|anchor| format!("\"{}\"", hex(&anchor.authority.0))).collect();
                    object.number("authorities", format_args!("[{}]", authorities.join(",")));
                    object.number("authorities.count", bundle.anchors.len());
                }
                Self::BundleWithdrawn(trust_domain) => {
                    object.text("trust_domain", trust_domain.as_str(), NAME_BYTES_MAX * 2);
                }
                Self::BreakGlass { active, .. } => {
                    object.text("reason", &active.written.reason, DETAIL_BYTES_MAX);
                    object.text("author", &active.written.author, NAME_BYTES_MAX * 2);
                    object.text("expires", &active.written.until_text(), NAME_BYTES_MAX);
                    object.text("override.sha256", &active.digest, NAME_BYTES_MAX);
                    object.text("signer.sha256", &active.signer, NAME_BYTES_MAX);
                }
                Self::SourceLost { why } | Self::PolicyRefused { why } | Self::BreakGlassRefused { why } => {
                    object.text("why", why, DETAIL_BYTES_MAX)
                }
                Self::SourceBack => {}
                Self::PolicyLoaded { digest, generation } => {
                    object.text("policy.digest", digest, NAME_BYTES_MAX);
                    object.number("policy.generation", generation);
                }
                Self::Denied(entry) | Self::AllowedAgain(entry) => {
                    object.text("entry", &entry.denied.what.to_string(), ID_BYTES_MAX);
                    object.text("reason", &entry.denied.reason, DETAIL_BYTES_MAX);
                    object.text("author", &entry.denied.author, NAME_BYTES_MAX * 2);
                    object.text("expires", &entry.denied.expires_text(), NAME_BYTES_MAX);
                    object.text("origin", entry.origin.as_str(), NAME_BYTES_MAX);
                }
                Self::GuardAlarm { change, blast, is_held } => {
                    object.text("change", change, NAME_BYTES_MAX);
                    object.number("connections.live", blast.live);
                    object.number("connections.cut", blast.cut);
                    object.number("held", is_held);
                }
                Self::Drift { facts, untold } => {
                    object.text("drift.kind", facts.kind.as_str(), NAME_BYTES_MAX);
                    object.text("drift.whose", facts.whose, ID_BYTES_MAX);
                    let credential = facts.credential.map(|credential| hex(credential));
                    object.text_if("drift.credential.sha256", credential.as_deref(), NAME_BYTES_MAX);
                    object.text_if("drift.before", some(facts.before), ID_BYTES_MAX);
                    object.text("drift.now", facts.now, ID_BYTES_MAX);
                    object.number("drift.denied", facts.is_denied);
                    object.number("drift.untold", untold);
                    object.number_if("connection", facts.connection);
                }
                Self::LeverRefused { lever, uid } => {
                    object.text("lever", lever, NAME_BYTES_MAX);
                    object.number("user", uid);
                }
                Self::LeverUsed { lever, detail, uid } => {
                    object.text("lever", lever, NAME_BYTES_MAX);
                    object.text_if("detail", *detail, DETAIL_BYTES_MAX);
                    object.number_if("user", *uid);
                }
            }
        });
    }
}

/// A bundle may hold a thousand; the record is to have a bound.
const AUTHORITIES_MAX: usize = 32;
