//! A fixed rate: threads that sleep until a request is due. A runtime's timers would round to its milliseconds.
//!
//! Times are taken from when a request was due, so that one slow answer is also counted for those that waited behind it.

use super::{LoadArguments, Report, http1, micros, percentiles};
use anyhow::bail;
use clap::Args;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// A request without an answer for so long has failed; those behind it on its connection wait as long.
const ANSWER: Duration = Duration::from_secs(5);

#[derive(Args)]
pub struct RateArguments {
    /// A second, on all connections together.
    #[arg(long, default_value_t = 1000)]
    rate: u32,
    #[arg(long, default_value_t = 32)]
    connections: u32,
    /// On all connections at the same moments, instead of one after the other.
    #[arg(long)]
    bursts: bool,
}

struct Outcome {
    micros: Vec<u32>,
    errors: u64,
    first_error: Option<String>,
}

pub fn run(arguments: &LoadArguments, at: &RateArguments) -> anyhow::Result<()> {
    let RateArguments { rate, connections, bursts } = *at;
    let request = http1::request(&arguments.host, &arguments.path, 0);
    let started = Instant::now() + Duration::from_millis(50);
    let counted_from = started + Duration::from_secs_f64(arguments.warm_up);
    let end = counted_from + Duration::from_secs_f64(arguments.seconds);
    let interval = Duration::from_secs(u64::from(connections)) / rate;
    let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..connections)
            .map(|index| {
                let first = if bursts { started } else { started + Duration::from_secs(u64::from(index)) / rate };
                let request = &request;
                scope.spawn(move || connection(arguments.to, request, first, interval, counted_from, end))
            })
            .collect();
        std::thread::sleep(counted_from.saturating_duration_since(Instant::now()));
        println!("start");
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    let mut all: Vec<u32> = outcomes.iter().flat_map(|outcome| outcome.micros.iter().copied()).collect();
    let [p50, p99, p999] = percentiles(&mut all);
    let report = Report {
        work: all.len() as u64,
        seconds: arguments.seconds,
        errors: outcomes.iter().map(|outcome| outcome.errors).sum(),
        first_error: outcomes.into_iter().find_map(|outcome| outcome.first_error),
        p50,
        p99,
        p999,
        bytes: 0,
    };
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

fn connection(
    to: SocketAddr,
    request: &[u8],
    mut due: Instant,
    interval: Duration,
    counted_from: Instant,
    end: Instant,
) -> Outcome {
    let mut outcome = Outcome { micros: Vec::new(), errors: 0, first_error: None };
    let mut stream = None;
    while due < end {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        match exchange(to, &mut stream, request) {
            Ok(()) if due >= counted_from => outcome.micros.push(micros(due.elapsed())),
            Ok(()) => {}
            Err(error) => {
                stream = None;
                if due >= counted_from {
                    outcome.errors += 1;
                    outcome.first_error.get_or_insert_with(|| format!("{error:#}"));
                }
            }
        }
        due += interval;
    }
    outcome
}

fn exchange(to: SocketAddr, kept: &mut Option<TcpStream>, request: &[u8]) -> anyhow::Result<()> {
    let stream = match kept {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect(to)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(ANSWER))?;
            kept.insert(stream)
        }
    };
    stream.write_all(request)?;
    let mut buffer = [0; 8192];
    let mut length = 0;
    loop {
        let received = stream.read(&mut buffer[length..])?;
        if received == 0 {
            bail!("the connection ended within an answer");
        }
        length += received;
        if http1::answer_length(&buffer[..length])?.is_some_and(|whole| whole <= length) {
            return Ok(());
        }
    }
}
