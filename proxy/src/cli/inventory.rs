//! `postern inventory`: every credential that a running process holds or has seen, and what of it nobody registered.

mod against;

use super::admin_client::{SOCKET_DEFAULT, get};
use super::check::counted;
use super::output::{print, span, table};
use against::{Entries, Findings};
use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

/// `postern inventory …`
#[derive(Args, Debug)]
pub struct InventoryArgs {
    /// The admin socket of the process
    #[arg(long, value_name = "PATH", default_value = SOCKET_DEFAULT)]
    pub admin: PathBuf,
    /// Print everything as JSON
    #[arg(long)]
    pub json: bool,
    /// Compare with registered entries: the output of `spire-server entry show -output json`. Exit 1 if something is unknown
    /// or stale
    #[arg(long, value_name = "FILE")]
    pub against: Option<PathBuf>,
    /// With --against: inventories of other processes too, as --json printed them
    #[arg(long, value_name = "FILE", requires = "against")]
    pub with: Vec<PathBuf>,
}

/// A hundred thousand entries of SPIRE have some 60 MB.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// Exit 0, or 1 when something is unknown or stale.
pub async fn run(arguments: InventoryArgs) -> anyhow::Result<ExitCode> {
    let mut inventory = get(&arguments.admin, "/inventory").await?;
    let findings = match &arguments.against {
        None => None,
        Some(file) => {
            let entries = Entries::read(&read_json(file)?).with_context(|| {
                format!("{} is no output of `spire-server entry show -output json`", file.display())
            })?;
            let mut all = vec![inventory.clone()];
            for file in &arguments.with {
                all.push(read_json(file)?);
            }
            Some(against::compare(&entries, &all, SystemTime::now()))
        }
    };
    if arguments.json {
        if let Some(findings) = &findings {
            inventory["against"] = findings.as_json();
        }
        print(&format!("{}\n", serde_json::to_string_pretty(&inventory)?));
    } else {
        print(&printable(&match &findings {
            None => render(&inventory),
            Some(findings) => render_findings(findings),
        }));
    }
    let is_clean = findings.is_none_or(|findings| findings.unknown.is_empty() && findings.stale.is_empty());
    Ok(if is_clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn read_json(path: &Path) -> anyhow::Result<Value> {
    let read = || -> anyhow::Result<Value> {
        let mut text = Vec::new();
        std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut text)?;
        anyhow::ensure!(text.len() as u64 <= FILE_BYTES_MAX, "it is larger than {FILE_BYTES_MAX} bytes");
        Ok(serde_json::from_slice(&text)?)
    };
    read().with_context(|| format!("cannot read {}", path.display()))
}

/// Columns of every table: kind, whose, which, age, expiry, use.
fn render(inventory: &Value) -> String {
    let policy = &inventory["policy"];
    let digest = word(&policy["digest"]);
    let mut text = format!("policy {}, generation {}\n\n", digest.get(..12).unwrap_or(digest), policy["generation"]);
    let mut rows = vec![["KIND", "OF", "WHICH", "AGE", "EXPIRY", "USE"].map(str::to_owned).to_vec()];
    held(&inventory["identities"], &mut rows);
    for peer in list(&inventory["peers"]) {
        let live = peer["connections"].as_u64().map_or(0, |live| usize::try_from(live).unwrap_or(usize::MAX));
        let using = counted(live, "live connection");
        rows.push(row("peer", &peer["spiffe_id"], &peer["sha256"], &Value::Null, &peer["expires_in_seconds"], using));
    }
    for token in list(&inventory["caller_tokens"]) {
        let audience: Vec<_> = list(&token["audience"]).map(word).collect();
        let (age, expiry) = (&token["age_seconds"], &token["expires_in_seconds"]);
        let used = format!("used {}", word(&token["last_use_at"]));
        rows.push(row("caller's token", &token["subject"], &json!(audience.join(" ")), age, expiry, used));
    }
    for crl in list(&inventory["revocation_lists"]) {
        let state = if crl["stale"] == true { "STALE" } else { "" };
        rows.push(row("revocation list", &crl["authority"], &crl["sha256"], &Value::Null, &Value::Null, state.into()));
    }
    text += &table(&rows);
    let seen = list(&inventory["seen"]).count();
    text += &format!("\nseen since {}: {}\n", word(&inventory["started_at"]), counted(seen, "SPIFFE ID"));
    for denied in list(&inventory["denied"]) {
        text += &format!("denied until {}: {}\n", word(&denied["expires"]), word(&denied["denied"]));
    }
    if let Some(until) = inventory["break_glass"]["until"].as_str() {
        text += &format!("BREAK-GLASS until {until}: {}\n", word(&inventory["break_glass"]["reason"]));
    }
    text
}

/// What is our own, and whom we believe.
fn held(identities: &Value, rows: &mut Vec<Vec<String>>) {
    let none = &Value::Null;
    for svid in list(&identities["svids"]) {
        let serial = format!("serial {}", word(&svid["serial"]));
        let (age, expiry) = (&svid["age_seconds"], &svid["expires_in_seconds"]);
        rows.push(row("own SVID", &svid["spiffe_id"], &svid["sha256"], age, expiry, serial));
    }
    for token in list(&identities["tokens"]) {
        let uses = token["uses"].as_u64().map_or(0, |uses| usize::try_from(uses).unwrap_or(usize::MAX));
        let (age, expiry) = (&token["age_seconds"], &token["expires_in_seconds"]);
        let last = token["last_use_at"].as_str().map(|at| format!(", the last {at}")).unwrap_or_default();
        let used = format!("{}{last}", counted(uses, "use"));
        rows.push(row("own token", &token["spiffe_id"], &token["audience"], age, expiry, used));
    }
    for bundle in list(&identities["bundles"]) {
        for authority in list(&bundle["authorities"]) {
            let (age, expiry) = (&authority["age_seconds"], &authority["expires_in_seconds"]);
            rows.push(row("authority", &bundle["trust_domain"], &authority["id"], age, expiry, String::new()));
        }
    }
    for (sets, whose) in [("token_keys", "trust_domain"), ("issuer_keys", "issuer")] {
        for set in list(&identities[sets]) {
            for key in list(&set["keys"]) {
                rows.push(row("token key", &set[whose], &key["key_id"], none, none, String::new()));
            }
        }
    }
}

fn row(kind: &str, of: &Value, which: &Value, age: &Value, expiry: &Value, used: String) -> Vec<String> {
    let which = which.as_str().unwrap_or("-");
    let is_digest = which.len() == 64 && which.bytes().all(|byte| byte.is_ascii_hexdigit());
    let which = if is_digest { &which[..16] } else { which };
    let of = of.as_str().unwrap_or("-");
    let age = age.as_i64().map_or_else(|| "-".to_owned(), |age| span(Duration::from_secs(age.unsigned_abs())));
    let expiry = match expiry.as_i64() {
        None => "-".to_owned(),
        Some(left @ 1..) => format!("in {}", span(Duration::from_secs(left.unsigned_abs()))),
        Some(past) => format!("EXPIRED {} ago", span(Duration::from_secs(past.unsigned_abs()))),
    };
    vec![kind.to_owned(), of.to_owned(), which.to_owned(), age, expiry, used]
}

fn render_findings(findings: &Findings) -> String {
    let mut text = String::new();
    for (title, found) in [
        ("unknown: it has proven this identity, and no entry has it", &findings.unknown),
        ("stale: it is held, and should not be", &findings.stale),
        ("unused: an entry whose identity none of these processes saw", &findings.unused),
    ] {
        if !found.is_empty() {
            text += &format!("{title}\n");
            text.extend(found.iter().map(|line| format!("  {line}\n")));
        }
    }
    if text.is_empty() {
        text += "every entry is used, and everything that is used has an entry\n";
    }
    if findings.elsewhere > 0 {
        text += &format!("{} of trust domains without an entry: not compared\n", findings.elsewhere);
    }
    if findings.not_kept > 0 {
        text += &format!("{} handshakes were not kept: what is unused may have been among them\n", findings.not_kept);
    }
    text
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

/// Names come from peers and providers; a terminal obeys control characters.
fn printable(text: &str) -> String {
    text.replace(|character: char| character.is_control() && character != '\n', "?")
}

impl Findings {
    fn as_json(&self) -> Value {
        json!({
            "unknown": self.unknown,
            "stale": self.stale,
            "unused": self.unused,
            "elsewhere": self.elsewhere,
            "not_kept": self.not_kept,
        })
    }
}

#[cfg(test)]
mod tests;
