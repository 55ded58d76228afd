//! Children on cores of their own, which end with whoever started them.

use crate::load::Report;
use anyhow::{Context as _, bail, ensure};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

const START: Duration = Duration::from_secs(20);
const END: Duration = Duration::from_secs(5);

/// What to run, before it is known on which core and with what limits.
pub struct Program {
    pub path: PathBuf,
    pub arguments: Vec<OsString>,
    pub environment: Vec<(&'static str, OsString)>,
}

impl Program {
    pub fn new(path: impl Into<PathBuf>, arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        Self { path: path.into(), arguments: arguments.into_iter().map(Into::into).collect(), environment: Vec::new() }
    }

    /// Inside what `prefix` enters, pinned to `cores`, with every descriptor that we may have.
    pub fn command(&self, prefix: &[String], cores: &str) -> Command {
        let mut words: Vec<OsString> = prefix.iter().map(OsString::from).collect();
        words.extend(["taskset", "-c", cores, "prlimit", "--nofile=20000:20000"].map(OsString::from));
        words.push(self.path.clone().into());
        let mut words = words.into_iter();
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).args(&self.arguments).envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null());
        command
    }
}

/// A running child; dropping it ends it.
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Its output, both kinds, goes to `log`.
    pub fn start(mut command: Command, log: &Path) -> anyhow::Result<Self> {
        let file = File::create(log)?;
        let child = command.stdout(file.try_clone()?).stderr(file).spawn();
        let child = child.with_context(|| format!("starting {:?}", command.get_program()))?;
        Ok(Self { child, log: log.to_owned() })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Tries until `ready` is true, and fails with what the child said if it ended or took too long.
    pub fn wait_until(&mut self, what: &str, mut ready: impl FnMut() -> bool) -> anyhow::Result<()> {
        let since = Instant::now();
        while !ready() {
            if let Some(status) = self.child.try_wait()? {
                bail!("{what}: ended with {status}:\n{}", self.said());
            }
            ensure!(since.elapsed() < START, "{what}: not ready after {START:?}:\n{}", self.said());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The end of its log.
    pub fn said(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&text[text.len().saturating_sub(3000)..]).into_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // SIGTERM by the program `kill`: nginx's master takes its workers with it only if it is asked.
        Command::new("kill").arg(self.child.id().to_string()).stderr(Stdio::null()).status().ok();
        let since = Instant::now();
        while since.elapsed() < END {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The load, whose output is read line by line.
pub struct Load {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Load {
    pub fn start(mut command: Command) -> anyhow::Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("starting the load")?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        Ok(Self { child, lines: BufReader::new(stdout).lines() })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// STOP or CONT.
    pub fn signal(&self, name: &str) -> anyhow::Result<()> {
        let status = Command::new("kill").args(["-s", name]).arg(self.child.id().to_string()).status()?;
        ensure!(status.success(), "kill -s {name}: {status}");
        Ok(())
    }

    /// That it may end, if it was started with `--until-told`.
    pub fn tell(&mut self) -> anyhow::Result<()> {
        let stdin = self.child.stdin.as_mut().context("stdin is piped")?;
        stdin.write_all(b"\n").context("telling the load to end")
    }

    /// Its last line, of a load of which nothing may fail.
    pub fn report(&mut self) -> anyhow::Result<Report> {
        let report = self.report_with_failures()?;
        ensure!(
            report.errors == 0,
            "{} errors in {} units of work: {}",
            report.errors,
            report.work,
            report.first_error.as_deref().unwrap_or_default()
        );
        Ok(report)
    }

    /// Its last line, where failures are one of the figures.
    pub fn report_with_failures(&mut self) -> anyhow::Result<Report> {
        let report: Report = serde_json::from_str(&self.line()?)?;
        ensure!(
            report.work + report.bytes > 0,
            "nothing went through: {}",
            report.first_error.as_deref().unwrap_or_default()
        );
        Ok(report)
    }

    pub fn line(&mut self) -> anyhow::Result<String> {
        self.lines.next().context("the load ended early")?.context("reading from the load")
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // SIGKILL, which also ends one that is stopped.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// This program, with another subcommand.
pub fn ourselves(arguments: Vec<String>) -> anyhow::Result<Program> {
    Ok(Program::new(std::env::current_exe()?, arguments))
}

/// A program on PATH or where administrators' programs are.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder| folder.join(name)).find(|candidate| candidate.is_file())
}
