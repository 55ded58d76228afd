//! What the environment says, and the control plane's runtime.

use anyhow::Context as _;
use postern_config::identity::Endpoint;
use std::process::ExitCode;
use std::time::Duration;

/// The endpoint of the Workload API (SPIFFE Workload Endpoint §4).
pub const ENDPOINT_VARIABLE: &str = "SPIFFE_ENDPOINT_SOCKET";
const GRACE_VARIABLE: &str = "TERMINATION_GRACE_PERIOD_SECONDS";

/// # Errors
/// The variable is set to what is no endpoint.
pub fn endpoint() -> anyhow::Result<Option<Endpoint>> {
    match std::env::var(ENDPOINT_VARIABLE) {
        Ok(text) if !text.is_empty() => {
            let endpoint = Endpoint::parse(&text);
            endpoint.map(Some).with_context(|| format!("${ENDPOINT_VARIABLE} is {text:?}"))
        }
        _ => Ok(None),
    }
}

/// How long the platform waits between SIGTERM and SIGKILL.
pub fn termination_grace() -> Option<Duration> {
    let text = std::env::var(GRACE_VARIABLE).ok()?;
    let seconds = text
        .trim()
        .parse()
        .inspect_err(|error| tracing::warn!(%text, %error, "{GRACE_VARIABLE} is not a number of seconds"));
    seconds.ok().map(Duration::from_secs)
}

/// Any other: labels of our workload may stand there.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// `$RUST_LOG` wins over the file.
pub fn log_filter(of_file: Option<&str>) -> Option<String> {
    rust_log().or_else(|| of_file.map(str::to_owned))
}

pub fn rust_log() -> Option<String> {
    std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty())
}

/// Runs the control plane: one thread, beside the data plane's.
///
/// # Errors
/// The command's, or the system gives no event queue.
pub fn block_on(command: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("no runtime can be made")?.block_on(command)
}
