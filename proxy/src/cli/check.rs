//! `postern check FILE`: every problem of a configuration at once, without a network. What depends on the host is no
//! problem of the file, and only noted: it may be checked elsewhere.

use super::output::print;
use crate::capture::local_users::{UnknownUser, unknown_users};
use clap::Args;
use postern_config::{Config, DenyList, Problems};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// `postern check …`
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// The configuration file; what it includes is checked too
    pub file: PathBuf,
    /// Print the configuration that would run, every default filled in
    #[arg(long)]
    pub print: bool,
}

/// Exit 0 when the file can run, 1 with all its problems on standard error when it cannot.
pub fn run(arguments: &CheckArgs) -> anyhow::Result<ExitCode> {
    let config = match Config::load(&arguments.file) {
        Ok(config) => config,
        Err(problems) => {
            eprintln!("{}", report(&problems));
            return Ok(ExitCode::FAILURE);
        }
    };
    // Another file, whose problems are as fatal at the start.
    if let Some(path) = config.revocation.deny_list.as_deref().filter(|path| !is_absent(path))
        && let Err(problems) = DenyList::load(path)
    {
        eprintln!("{}", report(&problems));
        return Ok(ExitCode::FAILURE);
    }
    for note in notes(&config, &arguments.file) {
        eprintln!("{note}");
    }
    match arguments.print {
        true => print(&config.to_effective_yaml()),
        false => print(&format!("{}: {}\n", arguments.file.display(), summary(&config))),
    }
    Ok(ExitCode::SUCCESS)
}

/// What is right in the file and would be wrong on this host.
fn notes(config: &Config, file: &Path) -> Vec<String> {
    let mut notes: Vec<String> = config.not_enforced().into_iter().map(|note| format!("note: {note}")).collect();
    notes.extend(unknown_user_notes(config, file));
    if let Some(path) = config.revocation.deny_list.as_deref().filter(|path| is_absent(path)) {
        let (file, path) = (file.display(), path.display());
        notes.push(format!(
            "{file}: note: `revocation.deny_list` names {path}, which is not here\n  hint: where it is to run, the file must \
             exist; `deny: []` is an empty one"
        ));
    }
    notes
}

fn is_absent(path: &Path) -> bool {
    matches!(path.try_exists(), Ok(false))
}

fn unknown_user_notes(config: &Config, file: &Path) -> Vec<String> {
    let unknown = match unknown_users(config) {
        Ok(unknown) => unknown,
        Err(error) => return vec![format!("note: /etc/passwd cannot be read, so no user was looked up: {error}")],
    };
    let note = |user: UnknownUser| {
        let place = user.place.map_or_else(|| file.display().to_string(), |place| place.to_string());
        format!(
            "{place}: note: {} names `{}`, who is not in /etc/passwd here\n  hint: where it is to run, the user must exist; \
             or write a number",
            user.named_by, user.name
        )
    };
    unknown.into_iter().map(note).collect()
}

/// What a configuration holds, in a line.
pub(super) fn summary(config: &Config) -> String {
    let (ports, services, files) = (config.inbound.len(), config.outbound.services.len(), config.sources.len());
    format!(
        "valid, {}, {}, read from {}",
        counted(ports, "inbound port"),
        counted(services, "outbound service"),
        counted(files, "file or folder")
    )
}

fn report(problems: &Problems) -> String {
    format!("{problems}\n\n{}", counted(problems.0.len(), "problem"))
}

/// `1 problem`, `2 problems`.
pub(super) fn counted(count: usize, what: &str) -> String {
    match (count, what.strip_suffix(" or folder")) {
        (1, _) => format!("1 {what}"),
        (_, Some(first)) => format!("{count} {first}s or folders"),
        (_, None) => format!("{count} {what}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::{CheckArgs, counted, notes, report, run};
    use postern_config::{Config, Place, Problem, Problems};
    use std::path::PathBuf;
    use std::process::ExitCode;
    use std::sync::Arc;

    #[test]
    fn reports_every_problem_with_its_place_and_how_many_they_are() {
        let file = Arc::new(PathBuf::from("postern.yaml"));
        let problem = |line, what: &str, hint: Option<&str>| Problem {
            place: Place { file: file.clone(), line, column: 3 },
            what: what.to_owned(),
            hint: hint.map(str::to_owned),
        };
        let problems =
            Problems(vec![problem(2, "`prot` is not known", Some("write `port`")), problem(9, "`0` is no port", None)]);
        let expected = "postern.yaml:2:3: `prot` is not known\n  hint: write `port`\n\
                        postern.yaml:9:3: `0` is no port\n\n2 problems";
        assert_eq!(report(&problems), expected);
    }

    #[test]
    fn a_deny_list_that_is_not_here_may_be_where_it_is_to_run() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("postern.yaml");
        let text = "identity: { workload_api: \"unix:///a\" }\nrevocation: { deny_list: deny.yaml }\n";
        let config = Config::from_str(&file, text).unwrap();
        let notes = notes(&config, &file);
        assert!(notes.iter().any(|note| note.contains("deny.yaml, which is not here")), "{notes:?}");
        std::fs::write(folder.path().join("deny.yaml"), "deny: [").unwrap();
        std::fs::write(&file, text).unwrap();
        assert_eq!(run(&CheckArgs { file, print: false }).unwrap(), ExitCode::FAILURE, "one that is here is read");
    }

    #[test]
    fn counts_in_words() {
        assert_eq!(counted(1, "problem"), "1 problem");
        assert_eq!(counted(0, "problem"), "0 problems");
        assert_eq!(counted(2, "file or folder"), "2 files or folders");
    }
}
