//! The machine's packet filter: what works, what is installed, and the programs that change it.

use super::diagnose::{self, Diagnosis};
use super::nft::{self, Layout};
use super::plan::{Family, RedirectPlan};
use super::{iptables, proc, routes};
use std::fmt;
use std::io::Write;
use std::process::{Command, Stdio};

/// One way to have rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    Nft(Layout),
    /// The programs of that name: `NAME-restore`, `NAME-save`, and the same with `ip6tables`.
    Iptables(&'static str),
}

/// The flavours first: the plain name is one of them, where they are.
pub const FLAVOURS: [&str; 3] = ["iptables-nft", "iptables-legacy", "iptables"];

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nft(Layout::Inet) => f.write_str("nftables"),
            Self::Nft(Layout::Split) => f.write_str("nftables (a table for each family)"),
            Self::Iptables(name) => f.write_str(name),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("there is no program `{program}` on $PATH")]
    Missing { program: String },
    #[error("`{program}` cannot be run")]
    NotRun {
        program: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{program}: {}", first_words(words))]
    Refused { program: String, diagnosis: Diagnosis, words: String },
}

impl HostError {
    pub fn fix(&self) -> String {
        match self {
            Self::Missing { program } => match program.as_str() {
                "ip" => "install iproute2".to_owned(),
                "nft" => "install nftables, or use --backend iptables".to_owned(),
                _ => "install iptables, or use --backend nft".to_owned(),
            },
            Self::NotRun { .. } => "see whether it is a program of this machine's architecture".to_owned(),
            Self::Refused { diagnosis, .. } => diagnosis.fix(),
        }
    }
}

/// What a program says first, on one line.
fn first_words(words: &str) -> String {
    let lines: Vec<&str> = words.lines().map(str::trim).filter(|line| !line.is_empty()).take(2).collect();
    if lines.is_empty() { "failed without a word".to_owned() } else { lines.join(" / ") }
}

/// Runs a program to its end with `input`; its output if it succeeds.
///
/// # Errors
/// It is absent, cannot be run, or fails.
pub fn run(program: &str, arguments: &[&str], input: &str) -> Result<String, HostError> {
    let not_run = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::NotFound => HostError::Missing { program: program.to_owned() },
        _ => HostError::NotRun { program: program.to_owned(), source },
    };
    let mut command = Command::new(program);
    command.args(arguments).env("LC_ALL", "C");
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(not_run)?;
    let mut stdin = child.stdin.take();
    let written = std::thread::scope(|scope| {
        // Beside, because a program may print more than a pipe holds before it has read everything.
        let writer = scope.spawn(move || stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes())));
        let output = child.wait_with_output();
        // That a program ended before it read everything is told by its exit code.
        let _ = writer.join();
        output
    });
    let output = written.map_err(not_run)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    let diagnosis = match program {
        // What iptables-legacy says then is what it says of a module that is absent.
        _ if !proc::has_capability(proc::CAP_NET_ADMIN) => Diagnosis::Capability,
        program if program.contains("tables") => diagnose::iptables(&words, input),
        _ => diagnose::nft(&words),
    };
    Err(HostError::Refused { program: program.to_owned(), diagnosis, words })
}

/// The flavours of iptables on this machine, each once.
pub fn flavours() -> Vec<&'static str> {
    let mut found: Vec<&'static str> =
        FLAVOURS.into_iter().take(2).filter(|name| run(name, &["--version"], "").is_ok()).collect();
    if let Ok(version) = run("iptables", &["--version"], "") {
        let same = if version.contains("nf_tables") { "iptables-nft" } else { "iptables-legacy" };
        if !found.contains(&same) {
            found.push("iptables");
        }
    }
    found
}

/// The flavour that the plain name `iptables` is.
pub fn default_flavour() -> &'static str {
    match run("iptables", &["--version"], "") {
        Ok(version) if version.contains("nf_tables") && flavours().contains(&"iptables-nft") => "iptables-nft",
        Ok(version) if version.contains("legacy") && flavours().contains(&"iptables-legacy") => "iptables-legacy",
        _ => "iptables",
    }
}

/// A failed attempt.
#[derive(Debug)]
pub struct Attempt {
    pub backend: Backend,
    pub error: HostError,
}

/// Installs by the first of `backends` that takes the rules, and removes what of ours other backends still hold.
/// Nothing is left of one that fails.
///
/// # Errors
/// None takes them.
pub fn install(plan: &RedirectPlan, backends: &[Backend]) -> Result<Backend, Vec<Attempt>> {
    let mut attempts = Vec::new();
    for backend in backends {
        match install_by(plan, *backend) {
            Ok(()) => return Ok(*backend),
            Err(error) => attempts.push(Attempt { backend: *backend, error }),
        }
    }
    if installed().is_ok_and(|found| found.is_empty()) {
        // Why there are no rules is what matters; a route without them changes nothing.
        let _ = routes::remove();
    }
    Err(attempts)
}

fn install_by(plan: &RedirectPlan, backend: Backend) -> Result<(), HostError> {
    if plan.diverts() {
        routes::install(plan)?;
    }
    match backend {
        Backend::Nft(layout) => {
            let present = nft_present()?;
            run("nft", &["-f", "-"], &nft::install(plan, layout, &present))?;
            for flavour in flavours() {
                remove_iptables(flavour)?;
            }
        }
        Backend::Iptables(flavour) => {
            for family in plan.families.list() {
                let installed = saved(flavour, *family)
                    .and_then(|saved| restore(flavour, *family, &iptables::install(plan, *family, &saved)));
                if let Err(error) = installed {
                    // What one table or family took is not kept without the others.
                    let _ = remove_iptables(flavour);
                    return Err(error);
                }
            }
            let gone = [Family::V4, Family::V6].into_iter().filter(|family| !plan.families.list().contains(family));
            for family in gone {
                remove_family(flavour, family)?;
            }
            for other in flavours().into_iter().filter(|other| *other != flavour) {
                remove_iptables(other)?;
            }
            remove_nft()?;
        }
    }
    if plan.diverts() { Ok(()) } else { routes::remove() }
}

/// Removes everything of ours, by whatever it was installed.
///
/// # Errors
/// A program refuses. That one is absent is no error: then it holds nothing.
pub fn remove() -> Result<(), HostError> {
    remove_nft()?;
    for flavour in flavours() {
        remove_iptables(flavour)?;
    }
    routes::remove()
}

fn remove_nft() -> Result<(), HostError> {
    match nft_present() {
        Ok(present) if present.is_empty() => Ok(()),
        Ok(present) => run("nft", &["-f", "-"], &nft::remove(&present)).map(drop),
        Err(HostError::Missing { .. }) => Ok(()),
        Err(HostError::Refused { diagnosis: Diagnosis::Module(_), .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

fn nft_present() -> Result<Vec<String>, HostError> {
    run("nft", &["list", "tables"], "").map(|listing| nft::present(&listing))
}

fn remove_iptables(flavour: &'static str) -> Result<(), HostError> {
    [Family::V4, Family::V6].into_iter().try_for_each(|family| remove_family(flavour, family))
}

fn remove_family(flavour: &'static str, family: Family) -> Result<(), HostError> {
    match saved(flavour, family) {
        Ok(saved) => {
            let text = iptables::remove(&saved);
            if text.is_empty() { Ok(()) } else { restore(flavour, family, &text) }
        }
        // A program that lacks, or a family or module that the kernel lacks, holds no rules.
        Err(
            HostError::Missing { .. } | HostError::Refused { diagnosis: Diagnosis::Module(_) | Diagnosis::Other, .. },
        ) => Ok(()),
        Err(error) => Err(error),
    }
}

fn program(flavour: &str, family: Family, what: &str) -> String {
    match family {
        Family::V4 => format!("{flavour}-{what}"),
        Family::V6 => format!("{}-{what}", flavour.replacen("iptables", "ip6tables", 1)),
    }
}

/// The rules of a family as `iptables-save` prints them.
///
/// # Errors
/// The program is absent or refuses.
pub fn saved(flavour: &str, family: Family) -> Result<String, HostError> {
    run(&program(flavour, family, "save"), &[], "")
}

fn restore(flavour: &str, family: Family, text: &str) -> Result<(), HostError> {
    run(&program(flavour, family, "restore"), &["--noflush", "-w", "5"], text).map(drop)
}

/// What of ours is installed, with its listing.
#[derive(Debug)]
pub enum Installed {
    /// The family of the table, and the table.
    Nft {
        family: String,
        listing: String,
    },
    Iptables {
        flavour: &'static str,
        family: Family,
        saved: String,
    },
}

/// Everything of ours that is installed, in whatever backend.
///
/// # Errors
/// A program that is there refuses to list.
pub fn installed() -> Result<Vec<Installed>, HostError> {
    let mut found = Vec::new();
    match nft_present() {
        Ok(present) => {
            for family in present {
                let listing = run("nft", &["-y", "list", "table", &family, nft::TABLE], "")?;
                found.push(Installed::Nft { family, listing });
            }
        }
        Err(HostError::Missing { .. } | HostError::Refused { diagnosis: Diagnosis::Module(_), .. }) => {}
        Err(error) => return Err(error),
    }
    for flavour in flavours() {
        for family in [Family::V4, Family::V6] {
            if let Ok(saved) = saved(flavour, family)
                && !iptables::ours(&saved).is_empty()
            {
                found.push(Installed::Iptables { flavour, family, saved });
            }
        }
    }
    Ok(found)
}
