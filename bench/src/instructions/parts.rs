//! Instructions of each part of the request path for one call, in this build of this program.
//!
//! CI has a debug build of it and the time for no other. So the figures are not what a part costs: the sidecar's own are, which
//! are of a release build. They say that a part does more work than it did.

use super::{callgrind, collect, totals};
use crate::compare::process::Load;
use crate::parts::{self, Part};
use anyhow::{Context as _, ensure};
use std::collections::BTreeMap;
use std::io;

const READY: &str = "ready";
const DONE: &str = "done";
/// callgrind counts in [`counted`] only, and writes a file at its end.
const COUNTED: &str = concat!(module_path!(), "::counted");

pub fn count() -> anyhow::Result<BTreeMap<String, u64>> {
    let folder = tempfile::Builder::new().prefix("postern-instructions-").tempdir()?;
    let out = folder.path().join("parts");
    let mut command = callgrind(&out);
    command.args([format!("--toggle-collect={COUNTED}"), format!("--dump-after={COUNTED}")]);
    command.arg(std::env::current_exe()?).arg("parts");
    let mut counting = Load::start(command)?;
    let mut parts = Vec::new();
    loop {
        let line = counting.line().context("making the parts under callgrind")?;
        if line == READY {
            break;
        }
        let (name, calls) = line.split_once(' ').with_context(|| format!("a part was called: {line}"))?;
        parts.push((format!("part-{name}"), calls.parse::<u64>()?));
    }
    // Not before, because the set-up takes long under callgrind, and random numbers begin in it.
    collect(counting.pid(), "on")?;
    counting.tell()?;
    ensure!(counting.line()? == DONE, "the parts said something else than that they are done");
    let one = |(index, (name, calls)): (usize, (String, u64))| {
        let totals = totals(&folder.path().join(format!("parts.{}", index + 1)))?;
        ensure!(totals > 0, "nothing was counted of {name}");
        Ok((name, totals / calls))
    };
    parts.into_iter().enumerate().map(one).collect()
}

/// The program that is counted: makes all parts, says how often it will call each, and calls them when it is told.
pub fn run() -> anyhow::Result<()> {
    let mut parts = parts::all()?;
    parts.iter().for_each(|part| println!("{} {}", part.name, part.counted()));
    println!("{READY}");
    io::stdin().read_line(&mut String::new())?;
    parts.iter_mut().for_each(counted);
    println!("{DONE}");
    Ok(())
}

#[inline(never)]
fn counted(part: &mut Part) {
    for _ in 0..part.counted() {
        part.once();
    }
}
