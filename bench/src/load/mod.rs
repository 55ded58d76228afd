//! The load at the beginning of a measured path: one process, one thread (but for the fixed rate), closed loops.
//!
//! It prints `start` when the warm-up is over, and at the end one line of JSON, [`Report`]. Who started it reads the kernel's
//! accounting at these two moments.

pub mod http1;
mod http2;
pub mod mesh;
mod rate;
mod raw;

use clap::{Args, Subcommand};
use mesh::{Mesh, MeshArguments};
use serde::{Deserialize, Serialize};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::AsyncRead;

/// The warm-up goes on until every loop has had so many answers: handshakes of a thousand connections take as long as they
/// take, and are not what a scenario of kept connections is about.
const WARM_ANSWERS: u64 = 3;
/// But no longer than this; what goes through then is reported as it is.
const WARM_UP_MAX: Duration = Duration::from_secs(20);
const WARM_UP_STEP: Duration = Duration::from_millis(20);
/// Short, because what is answered beyond the last wanted answer is noise.
const ANSWERED_STEP: Duration = Duration::from_millis(1);

/// After a failure, so that a peer that is down is not measured as an endless loop.
const PAUSE: Duration = Duration::from_millis(20);

#[derive(Args)]
pub struct LoadArguments {
    /// Where the client sidecar listens.
    #[arg(long)]
    to: SocketAddr,
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Instead of for some seconds: until a line arrives on standard input.
    #[arg(long)]
    until_told: bool,
    /// Instead of for some seconds, and without a warm-up: until so many answers are there.
    #[arg(long, conflicts_with = "until_told")]
    answers: Option<u64>,
    #[arg(long, default_value = "orders.shop.svc")]
    host: String,
    #[arg(long, default_value = "/orders/7/items")]
    path: String,
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Subcommand)]
enum Kind {
    /// HTTP/1.1 on connections that stay.
    Http1 {
        #[arg(long, default_value_t = 64)]
        connections: usize,
        /// POST so many bytes; 0 is GET.
        #[arg(long, default_value_t = 0)]
        body: usize,
    },
    /// HTTP/1.1, a connection each.
    Http1Connect {
        #[arg(long, default_value_t = 16)]
        at_once: usize,
    },
    /// HTTP/2 requests, so many at once on each connection.
    Http2 {
        #[arg(long, default_value_t = 8)]
        connections: usize,
        #[arg(long, default_value_t = 16)]
        streams: usize,
        #[arg(long, value_enum, default_value = "get")]
        call: http2::Call,
    },
    /// Bytes from the application, as many as go through.
    Bulk {
        #[arg(long, default_value_t = 4)]
        connections: usize,
    },
    /// A raw connection each: 64 bytes there and back.
    Connect {
        #[arg(long, default_value_t = 16)]
        at_once: usize,
    },
    /// HTTP/1.1 requests at a fixed rate, timed from when they were due.
    Rate(rate::RateArguments),
    /// Connections that have been used once and then idle.
    Idle {
        #[arg(long, default_value_t = 2000)]
        connections: usize,
        /// HTTP/1.1 instead of raw; with mTLS it is HTTP/1.1 always.
        #[arg(long)]
        http: bool,
        #[command(flatten)]
        mesh: MeshArguments,
    },
}

/// What went through between `start` and the end.
#[derive(Serialize, Deserialize, Debug, Default, Clone)]
pub struct Report {
    pub work: u64,
    pub bytes: u64,
    pub seconds: f64,
    pub errors: u64,
    pub first_error: Option<String>,
    /// Microseconds: the median, and what 99 and 99.9 of a hundred do not pass.
    pub p50: u32,
    pub p99: u32,
    pub p999: u32,
}

/// Counts while it is open.
#[derive(Default)]
pub struct Meter {
    open: Cell<bool>,
    /// Also of the warm-up.
    answers: Cell<u64>,
    work: Cell<u64>,
    bytes: Cell<u64>,
    errors: Cell<u64>,
    first_error: RefCell<Option<String>>,
    micros: RefCell<Vec<u32>>,
}

impl Meter {
    fn done(&self, since: Instant) {
        self.answers.set(self.answers.get() + 1);
        if self.open.get() {
            self.work.set(self.work.get() + 1);
            self.micros.borrow_mut().push(micros(since.elapsed()));
        }
    }

    fn received(&self, bytes: usize) {
        if self.open.get() {
            self.bytes.set(self.bytes.get() + bytes as u64);
        }
    }

    fn failed(&self, error: &anyhow::Error) {
        if self.open.get() {
            self.errors.set(self.errors.get() + 1);
            self.first_error.borrow_mut().get_or_insert_with(|| format!("{error:#}"));
        }
    }

    fn report(&self, seconds: f64) -> Report {
        let [p50, p99, p999] = percentiles(&mut self.micros.borrow_mut());
        Report {
            work: self.work.get(),
            bytes: self.bytes.get(),
            seconds,
            errors: self.errors.get(),
            first_error: self.first_error.borrow().clone(),
            p50,
            p99,
            p999,
        }
    }
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

fn percentiles(micros: &mut [u32]) -> [u32; 3] {
    micros.sort_unstable();
    [500, 990, 999].map(|per_mille| {
        let index = micros.len() * per_mille / 1000;
        micros.get(index.min(micros.len().saturating_sub(1))).copied().unwrap_or_default()
    })
}

pub fn run(arguments: &LoadArguments) -> anyhow::Result<()> {
    if let Kind::Rate(rate) = &arguments.kind {
        return rate::run(arguments, rate);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, measure(arguments))
}

async fn measure(arguments: &LoadArguments) -> anyhow::Result<()> {
    let meter = Rc::new(Meter::default());
    let to = arguments.to;
    let loops = match arguments.kind {
        Kind::Http1 { connections, body } => {
            let request = Rc::new(http1::request(&arguments.host, &arguments.path, body));
            for _ in 0..connections {
                let (meter, request) = (meter.clone(), request.clone());
                again(meter.clone(), move || http1::keep_alive(to, request.clone(), meter.clone()));
            }
            connections
        }
        Kind::Http1Connect { at_once } => {
            let request = Rc::new(http1::request(&arguments.host, &arguments.path, 0));
            for _ in 0..at_once {
                let (meter, request) = (meter.clone(), request.clone());
                again(meter.clone(), move || http1::connection_each(to, request.clone(), meter.clone()));
            }
            at_once
        }
        Kind::Http2 { connections, streams, call } => {
            let target = Rc::new(format!("http://{}{}", arguments.host, arguments.path));
            for _ in 0..connections {
                let (meter, target) = (meter.clone(), target.clone());
                again(meter.clone(), move || http2::connection(to, target.clone(), streams, call, meter.clone()));
            }
            connections * streams
        }
        Kind::Bulk { connections } => {
            for _ in 0..connections {
                let meter = meter.clone();
                again(meter.clone(), move || raw::download(to, meter.clone()));
            }
            0
        }
        Kind::Connect { at_once } => {
            for _ in 0..at_once {
                let meter = meter.clone();
                again(meter.clone(), move || raw::connection_each(to, meter.clone()));
            }
            at_once
        }
        Kind::Idle { connections, http, ref mesh } => {
            let request = Rc::new(http1::request(&arguments.host, &arguments.path, 0));
            return match Mesh::new(mesh, &arguments.host)? {
                Some(mesh) => {
                    let open = || {
                        let (mesh, request) = (mesh.clone(), request.clone());
                        async move { http1::used(mesh.connect(to).await?, request).await }
                    };
                    hold(arguments, raw::open_many(connections, open).await?).await
                }
                None if http => {
                    let open = || {
                        let request = request.clone();
                        async move { http1::used(http1::connect(to).await?, request).await }
                    };
                    hold(arguments, raw::open_many(connections, open).await?).await
                }
                None => hold(arguments, raw::open_many(connections, || raw::pinged(to)).await?).await,
            };
        }
        Kind::Rate(_) => unreachable!("it has threads instead of tasks, and was started above"),
    };
    if let Some(answers) = arguments.answers {
        return until_answered(&meter, answers).await;
    }
    let started = Instant::now();
    tokio::time::sleep(Duration::from_secs_f64(arguments.warm_up)).await;
    while meter.answers.get() < WARM_ANSWERS * loops as u64 && started.elapsed() < WARM_UP_MAX {
        tokio::time::sleep(WARM_UP_STEP).await;
    }
    println!("start");
    meter.open.set(true);
    let started = Instant::now();
    if arguments.until_told {
        tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await??;
    } else {
        tokio::time::sleep(Duration::from_secs_f64(arguments.seconds)).await;
    }
    meter.open.set(false);
    println!("{}", serde_json::to_string(&meter.report(started.elapsed().as_secs_f64()))?);
    Ok(())
}

/// Leaves open connections alone for as long as the load lasts.
async fn hold<S: AsyncRead + Unpin>(arguments: &LoadArguments, mut open: Vec<S>) -> anyhow::Result<()> {
    // Until the last handshake's garbage is gone.
    tokio::time::sleep(Duration::from_secs_f64(arguments.warm_up)).await;
    println!("start");
    tokio::time::sleep(Duration::from_secs_f64(arguments.seconds)).await;
    let work = open.len() as u64;
    let errors = open.iter_mut().map(|stream| u64::from(raw::has_ended(stream))).sum();
    let first_error = (errors > 0).then(|| "the connection was closed while it was idle".to_owned());
    let report = Report { work, errors, first_error, seconds: arguments.seconds, ..Report::default() };
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

async fn until_answered(meter: &Meter, answers: u64) -> anyhow::Result<()> {
    println!("start");
    meter.open.set(true);
    let started = Instant::now();
    while meter.answers.get() < answers && meter.errors.get() == 0 {
        tokio::time::sleep(ANSWERED_STEP).await;
    }
    meter.open.set(false);
    println!("{}", serde_json::to_string(&meter.report(started.elapsed().as_secs_f64()))?);
    Ok(())
}

/// One connection's life over and over, until the process ends.
fn again<F: Future<Output = anyhow::Result<()>> + 'static>(meter: Rc<Meter>, mut life: impl FnMut() -> F + 'static) {
    tokio::task::spawn_local(async move {
        loop {
            if let Err(error) = life().await {
                meter.failed(&error);
                tokio::time::sleep(PAUSE).await;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::percentiles;

    #[test]
    fn percentiles_are_values_that_were_seen() {
        assert_eq!(percentiles(&mut []), [0, 0, 0]);
        assert_eq!(percentiles(&mut [7]), [7, 7, 7]);
        let mut thousand: Vec<u32> = (0..1000).rev().collect();
        assert_eq!(percentiles(&mut thousand), [500, 990, 999]);
    }
}
