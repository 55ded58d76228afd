//! `postern run`: the proxy, with a file, until it is told to end.

use super::environment;
use crate::app::{App, Surroundings};
use crate::drain;
use crate::hardening;
use crate::reload::{Watcher, watched};
use crate::telemetry::{Metrics, process_log};
use clap::Args;
use postern_config::Config;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use tokio::signal::unix::{Signal, SignalKind, signal};

#[derive(Args)]
pub struct RunArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// # Errors
/// The file has problems (all are printed), or the proxy cannot start.
pub fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let config = match Config::load(&args.config) {
        Ok(config) => config,
        Err(problems) => {
            eprintln!("{problems}");
            anyhow::bail!("{} has problems; `postern check` shows them as well", args.config.display());
        }
    };
    run_config(config, Some(&args.config))
}

/// Runs `config`; with a path, follows its file.
///
/// # Errors
/// The proxy cannot start.
pub fn run_config(config: Config, path: Option<&Path>) -> anyhow::Result<ExitCode> {
    let filter = environment::log_filter(config.telemetry.log.as_deref());
    let log = process_log::init(filter.as_deref(), config.telemetry.log_format)?;
    // Before the first thread: what it gives up holds for those that are started afterwards.
    let hardened = hardening::apply(&config);
    hardened.report();
    let surroundings = Surroundings {
        endpoint: environment::endpoint()?,
        log,
        log_filter: environment::rust_log(),
        variable: environment::variable,
        hardened: Some(hardened),
    };
    environment::block_on(serve(config, path, surroundings))
}

async fn serve(config: Config, path: Option<&Path>, surroundings: Surroundings) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    let mut watcher = path.map(|_| Watcher::new(&watched(&config)));
    let mut app = App::start(config, surroundings).await?;
    count_panics(app.shared.metrics.clone());
    loop {
        tokio::select! {
            () = changed(&mut watcher) => reload(&mut app, path, &mut watcher).await,
            _ = signals.hangup.recv() => {
                app.reopen_logs();
                reload(&mut app, path, &mut watcher).await;
            }
            _ = signals.terminate.recv() => break,
            _ = signals.interrupt.recv() => break,
            () = app.drain_asked() => break,
            () = app.held_may_act() => {
                let applied = app.apply_held().await;
                refused(&app, path, applied);
            }
        }
    }
    let at_most = drain::deadline(app.config().drain_timeout, environment::termination_grace());
    tokio::select! {
        () = app.drain(at_most) => {}
        _ = signals.terminate.recv() => tracing::warn!("a second signal: ending now"),
        _ = signals.interrupt.recv() => tracing::warn!("a second signal: ending now"),
    }
    app.stop().await;
    Ok(ExitCode::SUCCESS)
}

/// A panic ends one connection's task and no other. It is our fault, so it is loud.
fn count_panics(metrics: Arc<Metrics>) {
    std::panic::set_hook(Box::new(move |panic| {
        metrics.task_panicked();
        tracing::error!(%panic, "a task panicked; its connection ended");
    }));
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }
}

async fn changed(watcher: &mut Option<Watcher>) {
    match watcher {
        Some(watcher) => watcher.changed().await,
        None => std::future::pending().await,
    }
}

fn refused(app: &App, path: Option<&Path>, applied: anyhow::Result<()>) {
    let Err(error) = applied else { return };
    let (file, error) = (path.map(Path::display).map(tracing::field::display), format!("{error:#}"));
    tracing::error!(file, error, "the configuration cannot be applied: the last good one stays");
    app.refuse_configuration(&error);
}

async fn reload(app: &mut App, path: Option<&Path>, watcher: &mut Option<Watcher>) {
    let Some(path) = path else { return };
    if let Some(watcher) = watcher {
        watcher.take();
    }
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(problems) => {
            tracing::error!(file = %path.display(), %problems, "the configuration was refused: the last good one stays");
            return app.refuse_configuration(&problems.to_string());
        }
    };
    if let Some(watcher) = watcher {
        watcher.follow(&watched(&config));
    }
    if app.is_current(&config) {
        app.drop_held();
        return tracing::info!(file = %path.display(), "the configuration says what it said before");
    }
    let applied = app.apply(config).await;
    refused(app, Some(path), applied);
}
