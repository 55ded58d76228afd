//! `postern status`: what a running process says of itself over its admin socket.

use super::admin_client::{SOCKET_DEFAULT, get};
use super::check::counted;
use super::output::{print, span, table};
use clap::Args;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// `postern status …`
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// The admin socket of the process
    #[arg(long, value_name = "PATH", default_value = SOCKET_DEFAULT)]
    pub admin: PathBuf,
    /// Print everything as JSON
    #[arg(long)]
    pub json: bool,
}

/// Live connections that are shown one by one.
const CONNECTIONS_SHOWN: usize = 20;

/// Exit 0 when the process is ready, 1 when it is not or cannot be asked.
pub async fn run(arguments: StatusArgs) -> anyhow::Result<ExitCode> {
    let state = get(&arguments.admin, "/state").await?;
    let identities = get(&arguments.admin, "/identities").await?;
    let connections = get(&arguments.admin, "/connections").await?;
    let ready = state["readiness"]["ready"] == true;
    if arguments.json {
        let all = json!({ "state": state, "identities": identities, "connections": connections });
        print(&format!("{}\n", serde_json::to_string_pretty(&all)?));
    } else {
        print(&render(&state, &identities, &connections));
    }
    Ok(if ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn render(state: &Value, identities: &Value, connections: &Value) -> String {
    let mut text = process(state);
    text += &identity(identities);
    text += &configuration(&state["config"]);
    text += &ports(&state["ports"]);
    text += &live(connections);
    // Reasons quote agents and peers; a terminal obeys control characters.
    text.replace(|character: char| character.is_control() && character != '\n', "?")
}

fn process(state: &Value) -> String {
    let uptime = span(Duration::from_secs(state["uptime_seconds"].as_u64().unwrap_or(0)));
    let mut text = format!("postern {}, process {}, up {uptime}\n", word(&state["version"]), state["pid"]);
    if state["readiness"]["ready"] == true {
        text += "ready\n";
    } else {
        text += "NOT ready\n";
        for missing in list(&state["readiness"]["missing"]) {
            text += &format!("  {}: {}\n", word(&missing["condition"]), word(&missing["reason"]));
        }
    }
    for note in list(&state["readiness"]["notes"]) {
        text += &format!("note: {}\n", word(note));
    }
    let dropped = &state["access_log"]["dropped"];
    if dropped.as_u64().unwrap_or(0) > 0 {
        text += &format!("access log: {dropped} records dropped\n");
    }
    text
}

fn identity(identities: &Value) -> String {
    let source = &identities["source"];
    let mut text = format!("\nidentity: {}, source {}", word(&identities["state"]), word(&source["status"]));
    if let Some(reason) = source["reason"].as_str() {
        text += &format!(" ({reason})");
    }
    text.push('\n');
    let svids = list(&identities["svids"]).map(|svid| {
        let hint = svid["hint"].as_str().map(|hint| format!("hint {hint}")).unwrap_or_default();
        vec![format!("  {}", word(&svid["spiffe_id"])), expiry(&svid["expires_in_seconds"]), hint]
    });
    text += &table(&svids.collect::<Vec<_>>());
    let bundles = list(&identities["bundles"]).map(|bundle| {
        let authorities = list(&bundle["authorities"]).count();
        let note = if authorities == 0 { "its peers are refused" } else { "" };
        vec![format!("  {}", word(&bundle["trust_domain"])), counted(authorities, "usable root"), note.to_owned()]
    });
    let bundles: Vec<_> = bundles.collect();
    if !bundles.is_empty() {
        text += "trusted:\n";
        text += &table(&bundles);
    }
    let endpoints = list(&identities["bundle_endpoints"])
        .map(|endpoint| vec![format!("  {}", word(&endpoint["trust_domain"])), last_fetch(endpoint)]);
    let endpoints: Vec<_> = endpoints.collect();
    if !endpoints.is_empty() {
        text += "bundle endpoints:\n";
        text += &table(&endpoints);
    }
    let issuers = list(&identities["issuers"]).map(|issuer| {
        let keys = usize::try_from(issuer["keys"].as_u64().unwrap_or(0)).unwrap_or(usize::MAX);
        vec![format!("  {}", word(&issuer["name"])), counted(keys, "key"), last_fetch(issuer)]
    });
    let issuers: Vec<_> = issuers.collect();
    if !issuers.is_empty() {
        text += "issuers of tokens:\n";
        text += &table(&issuers);
    }
    text
}

fn last_fetch(fetched: &Value) -> String {
    match (fetched["last_error"].as_str(), fetched["last_success"].as_str()) {
        (Some(error), _) => format!("FAILED: {error}"),
        (None, Some(at)) => format!("fetched {at}"),
        (None, None) => "not asked yet".to_owned(),
    }
}

fn expiry(seconds: &Value) -> String {
    let seconds = seconds.as_i64().unwrap_or(0);
    let distance = span(Duration::from_secs(seconds.unsigned_abs()));
    if seconds > 0 { format!("expires in {distance}") } else { format!("EXPIRED {distance} ago") }
}

fn configuration(config: &Value) -> String {
    let generation = &config["generation"];
    let mut text = format!("\nconfiguration: generation {generation}, digest {}", digest(&config["digest"]));
    if let Some(loaded_at) = config["loaded_at"].as_str() {
        text += &format!(", since {loaded_at}");
    }
    text.push('\n');
    if let Some(error) = config["last_error"].as_str() {
        text += "the last attempt to replace it was refused:\n";
        text.extend(error.lines().map(|line| format!("  {line}\n")));
    }
    text
}

/// Enough of it to compare by eye; `--json` has all.
fn digest(value: &Value) -> &str {
    let digest = word(value);
    digest.get(..12).unwrap_or(digest)
}

fn ports(ports: &Value) -> String {
    let mut rows = vec![["", "NAME", "OPEN", "OPENED", "REQUESTS", "REFUSED"].map(str::to_owned).to_vec()];
    for port in list(ports) {
        let refusals = port["refusals"].as_object().into_iter().flatten();
        let refusals: Vec<_> = refusals.map(|(code, count)| format!("{code} {count}")).collect();
        rows.push(vec![
            word(&port["direction"]).to_owned(),
            word(&port["name"]).to_owned(),
            port["connections_active"].to_string(),
            port["connections_opened"].to_string(),
            port["requests"].to_string(),
            if refusals.is_empty() { "-".to_owned() } else { refusals.join(", ") },
        ]);
    }
    let ejected = list(ports).filter(|port| port["endpoints_ejected"].as_i64().unwrap_or_default() > 0);
    let ejected = ejected
        .map(|port| format!("  {}: endpoints passed over: {}\n", word(&port["name"]), port["endpoints_ejected"]));
    format!("\n{}{}", table(&rows), ejected.collect::<String>())
}

fn live(connections: &Value) -> String {
    let count = list(connections).count();
    let mut text = format!("\n{}\n", counted(count, "live connection"));
    if count == 0 {
        return text;
    }
    let mut rows = vec![["ID", "", "NAME", "PROTOCOL", "REMOTE", "PEER", "STATE"].map(str::to_owned).to_vec()];
    for connection in list(connections).take(CONNECTIONS_SHOWN) {
        let mut row = vec![connection["id"].to_string()];
        let columns = ["direction", "listener", "protocol", "remote", "peer_spiffe_id", "state"];
        row.extend(columns.map(|column| connection[column].as_str().unwrap_or("-").to_owned()));
        rows.push(row);
    }
    text += &table(&rows);
    if count > CONNECTIONS_SHOWN {
        text += &format!("and {} more: --json shows all\n", count - CONNECTIONS_SHOWN);
    }
    text
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

#[cfg(test)]
mod tests {
    use super::render;
    use serde_json::json;

    #[test]
    fn says_what_is_missing_what_expires_and_what_was_refused() {
        let state = json!({
            "version": "0.1.0", "pid": 42, "uptime_seconds": 3700,
            "readiness": { "ready": false, "missing": [{ "condition": "draining", "reason": "asked to stop" }], "notes": ["port `a` observes"] },
            "config": { "generation": 2, "digest": "ab12", "loaded_at": "2026-11-22T01:00:00Z", "last_error": "a\nb" },
            "access_log": { "dropped": 3 },
            "ports": [{
                "direction": "inbound", "name": "orders", "connections_active": 1, "connections_opened": 20,
                "requests": 300, "endpoints_ejected": 2, "refusals": { "no_identity": 1, "not_allowed": 2 },
            }],
        });
        let identities = json!({
            "state": "serving stale", "source": { "status": "broken", "reason": "connection refused" },
            "svids": [
                { "spiffe_id": "spiffe://shop.example/web", "hint": null, "expires_in_seconds": 125 },
                { "spiffe_id": "spiffe://shop.example/old", "hint": "old", "expires_in_seconds": -5 },
            ],
            "bundles": [{ "trust_domain": "shop.example", "authorities": [{}] }, { "trust_domain": "x", "authorities": [] }],
            "bundle_endpoints": [
                { "trust_domain": "x", "last_success": "2026-11-22T01:00:00Z", "last_error": null },
                { "trust_domain": "y.example", "last_success": "2026-11-22T01:00:00Z", "last_error": "gone" },
            ],
            "issuers": [{ "name": "ci", "keys": 1, "last_success": null, "last_error": "gone" }, { "name": "k8s", "keys": 0 }],
        });
        let connections = json!([{
            "id": 7, "direction": "inbound", "listener": "orders", "protocol": "http", "remote": "10.0.0.1:4711",
            "peer_spiffe_id": null, "state": "live",
        }]);
        let expected = "\
postern 0.1.0, process 42, up 1h 1m
NOT ready
  draining: asked to stop
note: port `a` observes
access log: 3 records dropped

identity: serving stale, source broken (connection refused)
  spiffe://shop.example/web  expires in 2m 5s
  spiffe://shop.example/old  EXPIRED 5s ago    hint old
trusted:
  shop.example  1 usable root
  x             0 usable roots  its peers are refused
bundle endpoints:
  x          fetched 2026-11-22T01:00:00Z
  y.example  FAILED: gone
issuers of tokens:
  ci   1 key   FAILED: gone
  k8s  0 keys  not asked yet

configuration: generation 2, digest ab12, since 2026-11-22T01:00:00Z
the last attempt to replace it was refused:
  a
  b

         NAME    OPEN  OPENED  REQUESTS  REFUSED
inbound  orders  1     20      300       no_identity 1, not_allowed 2
  orders: endpoints passed over: 2

1 live connection
ID           NAME    PROTOCOL  REMOTE         PEER  STATE
7   inbound  orders  http      10.0.0.1:4711  -     live
";
        assert_eq!(render(&state, &identities, &connections), expected);
    }
}
