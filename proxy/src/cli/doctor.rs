//! `postern doctor`: what would keep this host, this agent or this configuration from working, and how to mend it.
//!
//! Every finding that is not fine has its fix. Nothing is changed, and nothing is sent to the network but name lookups
//! and connects.

mod hardening;
mod host;
mod identity;
mod names;
mod network;

use super::check::{counted, summary};
use super::output::print;
use super::redirect::FamilyChoice;
use super::redirect::check::{self, Privilege};
use crate::redirect::Wanted;
use clap::Args;
use postern_config::Config;
use std::path::PathBuf;
use std::process::ExitCode;

/// `postern doctor …`
#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// The configuration that is to run here; without it, only host and agent are examined
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The Workload API, such as unix:///run/spire/agent/public/api.sock
    #[arg(long, value_name = "URI")]
    pub workload_api: Option<String>,
}

/// Exit 1 if anything fails; warnings alone do not.
pub async fn run(arguments: DoctorArgs) -> anyhow::Result<ExitCode> {
    let mut report = Report::default();
    let config = configuration(&arguments, &mut report);
    host::examine(&mut report, config.as_ref());
    hardening::examine(&mut report, config.as_ref());
    identity::examine(&mut report, config.as_ref(), arguments.workload_api.as_deref()).await;
    if let Some(config) = &config {
        network::examine(&mut report, config).await;
        names::examine(&mut report, config).await;
        capture(&mut report, config);
    }
    print(&report.render());
    Ok(if report.count(Verdict::Fail) == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn configuration(arguments: &DoctorArgs, report: &mut Report) -> Option<Config> {
    let path = arguments.config.as_ref()?;
    match Config::load(path) {
        Ok(config) => {
            report.ok("configuration", summary(&config));
            Some(config)
        }
        Err(problems) => {
            let what = format!("{} has {}", path.display(), counted(problems.0.len(), "problem"));
            report.fail("configuration", what, format!("`postern check {}` shows them all", path.display()));
            None
        }
    }
}

/// A sidecar may not look at the rules that somebody else installed for it: that is no failure of its own.
fn capture(report: &mut Report, config: &Config) {
    if let Some(wanted) = Wanted::of_file(config) {
        check::examine(report, &wanted, FamilyChoice::Auto, Privilege::Optional);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Ok,
    Warn,
    Fail,
}

struct Finding {
    verdict: Verdict,
    subject: &'static str,
    what: String,
    fix: Option<String>,
}

/// Findings in the order in which they were made.
#[derive(Default)]
pub(super) struct Report(Vec<Finding>);

impl Report {
    pub(super) fn ok(&mut self, subject: &'static str, what: impl Into<String>) {
        self.0.push(Finding { verdict: Verdict::Ok, subject, what: what.into(), fix: None });
    }

    /// It may work, or work later.
    pub(super) fn warn(&mut self, subject: &'static str, what: impl Into<String>, fix: impl Into<String>) {
        self.0.push(Finding { verdict: Verdict::Warn, subject, what: what.into(), fix: Some(fix.into()) });
    }

    /// It cannot work like this.
    pub(super) fn fail(&mut self, subject: &'static str, what: impl Into<String>, fix: impl Into<String>) {
        self.0.push(Finding { verdict: Verdict::Fail, subject, what: what.into(), fix: Some(fix.into()) });
    }

    pub(super) fn count(&self, verdict: Verdict) -> usize {
        self.0.iter().filter(|finding| finding.verdict == verdict).count()
    }

    pub(super) fn render(&self) -> String {
        let width = self.0.iter().map(|finding| finding.subject.len()).max().unwrap_or(0);
        let mut text = String::new();
        for finding in &self.0 {
            let verdict = match finding.verdict {
                Verdict::Ok => "ok  ",
                Verdict::Warn => "warn",
                Verdict::Fail => "FAIL",
            };
            text += &format!("{verdict}  {:width$}  {}\n", finding.subject, finding.what);
            if let Some(fix) = &finding.fix {
                text += &format!("      {:width$}  fix: {fix}\n", "");
            }
        }
        let (warnings, failures) = (self.count(Verdict::Warn), self.count(Verdict::Fail));
        text += &format!("\n{}, {}\n", counted(failures, "failure"), counted(warnings, "warning"));
        // Agents' and systems' words are in this; a terminal obeys control characters.
        text.replace(|character: char| character.is_control() && character != '\n', "?")
    }
}

#[cfg(test)]
mod tests;
