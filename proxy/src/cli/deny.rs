//! `postern deny` and `postern held`: levers of a running process, over its admin socket.

use super::admin_client::{SOCKET_DEFAULT, get, post};
use super::output::{print, table};
use clap::{Args, Subcommand};
use form_urlencoded::Serializer;
use serde_json::Value;
use std::path::PathBuf;
use std::process::ExitCode;

/// `postern deny …`
#[derive(Args, Debug)]
pub struct DenyArgs {
    #[command(subcommand)]
    command: DenyCommand,
    /// The admin socket of the process
    #[arg(long, value_name = "PATH", default_value = SOCKET_DEFAULT, global = true)]
    admin: PathBuf,
}

#[derive(Subcommand, Debug)]
enum DenyCommand {
    /// Deny somebody or something from now on; live connections end. It is gone with the process: what is to stay belongs into
    /// a deny list
    Add(AddArgs),
    /// What is denied now
    List {
        /// Print everything as JSON
        #[arg(long)]
        json: bool,
    },
    /// Take an entry away that was added here
    Remove {
        /// As `list` shows it
        number: u64,
    },
}

#[derive(Args, Debug)]
struct AddArgs {
    #[command(flatten)]
    what: What,
    /// With --serial: only of this trust domain
    #[arg(long, value_name = "TD", requires = "serial")]
    trust_domain: Option<String>,
    /// Why; it stands in records
    #[arg(long, value_name = "WORDS")]
    reason: String,
    /// Who says so, where your user id does not tell
    #[arg(long, value_name = "WORDS")]
    author: Option<String>,
    /// For how long: `30m`, `12h`
    #[arg(long = "for", value_name = "DURATION")]
    time: String,
    /// However much of what lives it cuts
    #[arg(long)]
    confirm: bool,
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct What {
    /// Peers whose SPIFFE ID fits this pattern, and tokens about them
    #[arg(long, value_name = "PATTERN")]
    spiffe: Option<String>,
    /// The SHA-256 of a leaf certificate, in hex
    #[arg(long, value_name = "SHA256")]
    certificate: Option<String>,
    /// The serial number of a leaf certificate, in hex
    #[arg(long, value_name = "HEX")]
    serial: Option<String>,
    /// A token's `jti`
    #[arg(long, value_name = "JTI")]
    token: Option<String>,
}

/// `postern held …`
#[derive(Args, Debug)]
pub struct HeldArgs {
    #[command(subcommand)]
    command: HeldCommand,
    /// The admin socket of the process
    #[arg(long, value_name = "PATH", default_value = SOCKET_DEFAULT, global = true)]
    admin: PathBuf,
}

#[derive(Subcommand, Debug)]
enum HeldCommand {
    /// What waits, and how much it would cut
    List,
    /// Let everything act that waits
    Apply,
}

/// # Errors
/// The process cannot be asked, or will not do it; in words for the operator.
pub async fn run(arguments: DenyArgs) -> anyhow::Result<ExitCode> {
    let socket = &arguments.admin;
    match arguments.command {
        DenyCommand::Add(add) => {
            let entry = post(socket, &target(&add)).await?;
            print(&format!("denied until {}: {}\n", word(&entry["expires"]), word(&entry["denied"])));
        }
        DenyCommand::List { json: true } => {
            print(&format!("{}\n", serde_json::to_string_pretty(&get(socket, "/deny").await?)?));
        }
        DenyCommand::List { json: false } => print(&render(&get(socket, "/deny").await?)),
        DenyCommand::Remove { number } => {
            let entry = post(socket, &format!("/deny/remove?number={number}")).await?;
            print(&format!("no longer denied: {}\n", word(&entry["denied"])));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// # Errors
/// As [`run`].
pub async fn held(arguments: HeldArgs) -> anyhow::Result<ExitCode> {
    match arguments.command {
        HeldCommand::List => print(&render_held(&get(&arguments.admin, "/held").await?)),
        HeldCommand::Apply => {
            let released = post(&arguments.admin, "/held/apply").await?;
            let names: Vec<_> = released["released"].as_array().into_iter().flatten().map(word).collect();
            print(&format!("acts now: {}\n", names.join(", ")));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn target(add: &AddArgs) -> String {
    const PATH: &str = "/deny?";
    let mut query = Serializer::for_suffix(PATH.to_owned(), PATH.len());
    let What { spiffe, certificate, serial, token } = &add.what;
    let given = [
        ("spiffe", spiffe),
        ("certificate", certificate),
        ("serial", serial),
        ("token", token),
        ("trust_domain", &add.trust_domain),
        ("author", &add.author),
    ];
    for (key, value) in given {
        if let Some(value) = value {
            query.append_pair(key, value);
        }
    }
    query.append_pair("reason", &add.reason).append_pair("for", &add.time);
    if add.confirm {
        query.append_pair("confirm", "true");
    }
    query.finish()
}

fn render(entries: &Value) -> String {
    let entries = entries.as_array().map_or(&[][..], Vec::as_slice);
    if entries.is_empty() {
        return "nobody is denied\n".to_owned();
    }
    let mut rows = vec![["NUMBER", "DENIED", "UNTIL", "REASON", "AUTHOR", "FROM"].map(str::to_owned).to_vec()];
    for entry in entries {
        let number = entry["number"].as_u64().map_or_else(|| "-".to_owned(), |number| number.to_string());
        let columns = ["denied", "expires", "reason", "author", "origin"];
        rows.push(std::iter::once(number).chain(columns.map(|column| word(&entry[column]).to_owned())).collect());
    }
    printable(&table(&rows))
}

fn render_held(held: &Value) -> String {
    let held = held.as_array().map_or(&[][..], Vec::as_slice);
    if held.is_empty() {
        return "nothing is held\n".to_owned();
    }
    let lines = held.iter().map(|change| {
        let acts = match change["acts_in_seconds"].as_u64() {
            Some(seconds) => format!("acts by itself in {seconds} s"),
            None => "waits for `postern held apply`".to_owned(),
        };
        let (cut, live, since) = (&change["connections_cut"], &change["connections_live"], word(&change["since"]));
        format!("{}: would cut {cut} of {live} live connections; held since {since}; {acts}\n", word(&change["change"]))
    });
    printable(&lines.collect::<String>())
}

/// Words come from whoever denied; a terminal obeys control characters.
fn printable(text: &str) -> String {
    text.replace(|character: char| character.is_control() && character != '\n', "?")
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

#[cfg(test)]
mod tests {
    use super::{AddArgs, What, render, render_held, target};
    use serde_json::json;

    #[test]
    fn what_is_told_is_what_was_written() {
        let what = What { spiffe: Some("spiffe://a/b&c".into()), certificate: None, serial: None, token: None };
        let add = AddArgs {
            what,
            trust_domain: None,
            reason: "stolen laptop".into(),
            author: None,
            time: "1h".into(),
            confirm: true,
        };
        let expected = "/deny?spiffe=spiffe%3A%2F%2Fa%2Fb%26c&reason=stolen+laptop&for=1h&confirm=true";
        assert_eq!(target(&add), expected);
    }

    #[test]
    fn shows_what_is_denied_and_what_is_held() {
        assert_eq!(render(&json!([])), "nobody is denied\n");
        let entry = json!({
            "number": 3, "denied": "token a", "expires": "2026-12-24T00:00:00Z", "reason": "x\u{1b}[2J",
            "author": "uid 0", "origin": "admin socket",
        });
        let expected = "\
NUMBER  DENIED   UNTIL                 REASON  AUTHOR  FROM
3       token a  2026-12-24T00:00:00Z  x?[2J   uid 0   admin socket
";
        assert_eq!(render(&json!([entry])), expected);
        assert_eq!(render_held(&json!([])), "nothing is held\n");
        let change = json!({
            "change": "policy", "connections_live": 20, "connections_cut": 15, "since": "2026-12-24T00:00:00Z",
            "acts_in_seconds": 90,
        });
        let expected =
            "policy: would cut 15 of 20 live connections; held since 2026-12-24T00:00:00Z; acts by itself in 90 s\n";
        assert_eq!(render_held(&json!([change])), expected);
    }
}
