//! What the parts of the request path take, each alone: `cargo run --profile dist -p postern-bench -- micro`.
//!
//! Times of a shared machine are noisy: compare the figures of one run with each other, and runs by their ratios. What does
//! not depend on the machine is counted by `instructions`.

use crate::parts;
use std::time::Instant;

const ROUNDS: usize = 5;

pub fn run() -> anyhow::Result<()> {
    println!("{:<44} {:>12}", "", "ns, best of 5");
    for mut part in parts::all()? {
        let round = || {
            let started = Instant::now();
            (0..part.timed).for_each(|_| part.once());
            started.elapsed() / part.timed
        };
        let best = std::iter::repeat_with(round).take(ROUNDS).min();
        println!("{:<44} {:>12}", part.title, best.unwrap_or_default().as_nanos());
    }
    Ok(())
}
