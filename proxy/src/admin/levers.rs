//! Levers at the admin socket that take trust back, or let a change act that the guard holds.

use super::AdminState;
use super::endpoints::{Answer, Caller, json, text};
use crate::audit::record::Event;
use crate::revocation::Entry;
use crate::revocation::levers::Refused;
use http::{StatusCode, Uri};
use postern_config::deny_list::TEXT_BYTES_MAX;
use postern_config::units::parse_duration;
use postern_config::{Denied, DenyEntry, Place, SpiffePattern, TrustDomain};
use serde_json::{Value, json as value};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

/// A lever is for now; what is to stay belongs into a deny list.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

const HOW: &str = "write POST /deny?spiffe=PATTERN&reason=WORDS&for=1h; or certificate=SHA256, serial=HEX, token=JTI\n";

pub(super) fn denied(state: &AdminState) -> Value {
    let now = SystemTime::now();
    state.levers.entries().iter().filter(|entry| entry.acts(now)).map(|entry| shown(entry)).collect()
}

fn shown(entry: &Entry) -> Value {
    let kind = match &entry.denied.what {
        Denied::Spiffe(_) => "spiffe",
        Denied::Certificate(_) => "certificate",
        Denied::Serial { .. } => "serial",
        Denied::TokenId(_) => "token",
    };
    value!({
        "number": (entry.number > 0).then_some(entry.number),
        "kind": kind,
        "denied": entry.denied.what.to_string(),
        "reason": entry.denied.reason,
        "author": entry.denied.author,
        "expires": entry.denied.expires_text(),
        "origin": entry.origin.as_str(),
    })
}

pub(super) async fn deny(caller: &Caller, state: &AdminState, uri: &Uri) -> Answer {
    let (entry, confirmed) = match read(uri, caller, SystemTime::now()) {
        Ok(read) => read,
        Err(words) => return text(StatusCode::BAD_REQUEST, format!("{words}\n")),
    };
    let detail = entry.what.to_string();
    match state.levers.deny(entry, confirmed).await {
        Ok(entry) => {
            state.audit.event(&Event::LeverUsed { lever: "deny", detail: Some(&detail), uid: caller.uid() });
            json(StatusCode::OK, &shown(&entry))
        }
        Err(refused) => refuse(&refused),
    }
}

pub(super) async fn allow_again(caller: &Caller, state: &AdminState, uri: &Uri) -> Answer {
    let given = parameters(uri);
    let Some(number) = given.get("number").and_then(|number| number.parse().ok()) else {
        return text(StatusCode::BAD_REQUEST, "write POST /deny/remove?number=N, as GET /deny lists it\n".to_owned());
    };
    match state.levers.allow_again(number).await {
        Ok(entry) => {
            let detail = entry.denied.what.to_string();
            state.audit.event(&Event::LeverUsed { lever: "deny_remove", detail: Some(&detail), uid: caller.uid() });
            json(StatusCode::OK, &shown(&entry))
        }
        Err(refused) => refuse(&refused),
    }
}

pub(super) fn held(state: &AdminState) -> Value {
    let one = |(change, held): (crate::revocation::guard::Change, crate::revocation::guard::Held)| {
        value!({
            "change": change.as_str(),
            "connections_live": held.blast.live,
            "connections_cut": held.blast.cut,
            "since": crate::telemetry::json::rfc3339(held.since),
            "acts_in_seconds": held.left().map(|left| left.as_secs()),
        })
    };
    state.gate.held().into_iter().map(one).collect()
}

pub(super) fn apply_held(caller: &Caller, state: &AdminState) -> Answer {
    let released: Vec<_> = state.gate.release().into_iter().map(|change| change.as_str()).collect();
    if released.is_empty() {
        return text(StatusCode::CONFLICT, "nothing is held\n".to_owned());
    }
    let detail = released.join(", ");
    tracing::warn!(changes = detail, "asked at the admin socket to let held changes act");
    state.audit.event(&Event::LeverUsed { lever: "held_apply", detail: Some(&detail), uid: caller.uid() });
    json(StatusCode::ACCEPTED, &value!({ "released": released }))
}

fn refuse(refused: &Refused) -> Answer {
    let status = match refused {
        Refused::TooMuch(_) | Refused::Full => StatusCode::CONFLICT,
        Refused::Unknown => StatusCode::NOT_FOUND,
    };
    text(status, format!("{refused}\n"))
}

fn parameters(uri: &Uri) -> BTreeMap<String, String> {
    form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect()
}

/// What is to be denied, and whether it is meant however much it cuts.
fn read(uri: &Uri, caller: &Caller, now: SystemTime) -> Result<(DenyEntry, bool), String> {
    let mut given = parameters(uri);
    let what = read_what(&mut given)?;
    let mut words = |key: &str| given.remove(key).filter(|text| !text.trim().is_empty());
    let reason = words("reason").ok_or("say why: reason=WORDS")?;
    let author = words("author").or_else(|| Some(format!("uid {}", caller.uid()?))).unwrap_or_default();
    for text in [&reason, &author] {
        if text.len() > TEXT_BYTES_MAX {
            return Err(format!("reason and author have {TEXT_BYTES_MAX} bytes at most"));
        }
    }
    let time = words("for").ok_or("say for how long: for=1h")?;
    let time = parse_duration(&time).map_err(|error| format!("for={time} {error}"))?;
    if time.is_zero() || time > LONGEST {
        return Err("for= takes up to 720h; what is to stay longer belongs into a deny list".to_owned());
    }
    let confirmed = words("confirm").is_some_and(|text| text == "true");
    if let Some(unknown) = given.keys().next() {
        return Err(format!("unknown parameter {}; {HOW}", unknown.escape_default()));
    }
    let until = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default() + time;
    let expires = i64::try_from(until.as_secs()).unwrap_or(i64::MAX);
    Ok((DenyEntry { what, reason, author, expires, place: Place::command_line() }, confirmed))
}

fn read_what(given: &mut BTreeMap<String, String>) -> Result<Denied, String> {
    let trust_domain = given.remove("trust_domain").map(|name| TrustDomain::parse(&name)).transpose();
    let trust_domain = trust_domain.map_err(|error| format!("trust_domain {error}"))?;
    let keys = ["spiffe", "certificate", "serial", "token"];
    let mut named = keys.into_iter().filter_map(|key| Some((key, given.remove(key)?)));
    let (Some((key, text)), None) = (named.next(), named.next()) else { return Err(HOW.trim_end().to_owned()) };
    if trust_domain.is_some() && key != "serial" {
        return Err("trust_domain goes with serial".to_owned());
    }
    match key {
        "spiffe" => match SpiffePattern::parse(&text) {
            Ok(pattern) if pattern.has_capture() => Err("spiffe has a capture; write * for any segment".to_owned()),
            Ok(pattern) => Ok(Denied::Spiffe(pattern)),
            Err(error) => Err(format!("spiffe {error}")),
        },
        "certificate" => Denied::fingerprint(&text)
            .map(Denied::Certificate)
            .ok_or_else(|| "certificate is not a SHA-256 of 64 hex digits".to_owned()),
        "serial" => Denied::serial(&text)
            .map(|serial| Denied::Serial { serial, trust_domain })
            .ok_or_else(|| "serial is not a serial number in hex".to_owned()),
        _ if text.is_empty() || text.len() > TEXT_BYTES_MAX => {
            Err(format!("token is a `jti` of 1 to {TEXT_BYTES_MAX} bytes"))
        }
        _ => Ok(Denied::TokenId(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::{Caller, read};
    use crate::admin::endpoints::Door;
    use std::time::{Duration, SystemTime};

    fn asked(query: &str) -> Result<(String, String, bool), String> {
        let uri = format!("/deny?{query}").parse().expect("a target");
        let caller = Caller { door: Door::Socket, user: None };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        read(&uri, &caller, now)
            .map(|(entry, confirmed)| (format!("{}: {}", entry.what, entry.reason), entry.expires_text(), confirmed))
    }

    #[test]
    fn reads_what_is_to_be_denied_why_and_for_how_long() {
        let hour = "2001-09-09T02:46:40Z".to_owned();
        let fingerprint = "ab".repeat(32);
        for (query, words) in [
            (
                "spiffe=spiffe%3A%2F%2Fshop.example%2Fweb&reason=stolen+laptop",
                "spiffe://shop.example/web: stolen laptop",
            ),
            ("spiffe=spiffe://shop.example/ns/*/**&reason=a", "spiffe://shop.example/ns/*/**: a"),
            ("serial=0A:0B&reason=a", "serial a0b: a"),
            ("serial=1&trust_domain=shop.example&reason=a", "serial 1 of shop.example: a"),
            ("token=abc&reason=a", "token abc: a"),
            (&format!("certificate={fingerprint}&reason=a"), &format!("certificate {fingerprint}: a")),
        ] {
            let read = asked(&format!("{query}&for=1h"));
            assert_eq!(read, Ok((words.to_owned(), hour.clone(), false)), "{query}");
        }
        assert_eq!(asked("token=a&reason=b&for=1h&confirm=true").map(|(.., confirmed)| confirmed), Ok(true));
    }

    #[test]
    fn what_is_missing_or_wrong_is_said() {
        for (query, expected) in [
            ("", "write POST /deny"),
            ("spiffe=spiffe://a/b&token=c&reason=d&for=1h", "write POST /deny"),
            ("spiffe=web&reason=a&for=1h", "spiffe://"),
            ("spiffe=spiffe://a/{b}&reason=a&for=1h", "capture"),
            ("serial=xyz&reason=a&for=1h", "hex"),
            ("certificate=ab&reason=a&for=1h", "64 hex digits"),
            ("token=&reason=a&for=1h", "`jti`"),
            ("token=a&for=1h", "say why"),
            ("token=a&reason=+&for=1h", "say why"),
            ("token=a&reason=b", "for how long"),
            ("token=a&reason=b&for=1", "for=1"),
            ("token=a&reason=b&for=721h", "up to 720h"),
            ("token=a&reason=b&for=1h&why=c", "unknown parameter why"),
            ("token=a&trust_domain=b&reason=b&for=1h", "trust_domain goes with serial"),
        ] {
            let words = asked(query).expect_err(query);
            assert!(words.contains(expected), "{query}: {words}");
        }
    }
}
