//! The control socket of `dev-identity`: one JSON line asks, one answers. Only its owner can open it.

use super::{DevError, DevProvider};
use postern_config::{SpiffeIdError, TrustDomain};
use serde::{Deserialize, Serialize};
use std::error::Error;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

/// More than any request has; a client that sends more is cut off.
const REQUEST_BYTES_MAX: u64 = 4096;
/// A client that connects and says nothing does not stay.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
const WAIT_MAX: Duration = Duration::from_secs(600);

/// What a running provider can be asked. No trust domain: all of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ControlRequest {
    RotateSvids,
    PublishCa {
        trust_domain: Option<String>,
    },
    Reissue {
        trust_domain: Option<String>,
    },
    RemoveOldCa {
        trust_domain: Option<String>,
    },
    /// All three stages, with a pause after the first and the second.
    RotateCa {
        trust_domain: Option<String>,
        wait_ms: u64,
    },
    /// Takes its SVIDs back by a list, and issues new ones.
    Revoke {
        workload: String,
    },
    Withdraw {
        workload: String,
    },
    Restore {
        workload: String,
    },
    List,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ControlAnswer {
    Done { lines: Vec<String> },
    Failed { error: String },
}

#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("cannot reach {socket}; is `postern dev-identity` running with this state directory?", socket = socket.display())]
    Connect { socket: PathBuf, source: std::io::Error },
    #[error("the control socket failed")]
    Io(#[from] std::io::Error),
    #[error("what came over the control socket is not understood; is it another version's?")]
    Format(#[from] serde_json::Error),
    #[error("{name:?} is not a trust domain")]
    TrustDomain { name: String, source: SpiffeIdError },
    #[error(transparent)]
    Provider(#[from] DevError),
}

pub fn control_socket(state_dir: &Path) -> PathBuf {
    state_dir.join("control.sock")
}

/// Binds the control socket; [`serve`] answers on it.
///
/// # Errors
/// [`DevError::Bind`], [`DevError::AlreadyServed`].
pub fn bind(state_dir: &Path) -> Result<UnixListener, DevError> {
    let socket = control_socket(state_dir);
    let at = |source| DevError::Bind { socket: socket.clone(), source };
    let listener = super::socket::bind(&socket)?;
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600)).map_err(at)?;
    UnixListener::from_std(listener).map_err(at)
}

/// Answers one request after the other, until the future is dropped: changes have an order.
pub async fn serve(provider: Arc<DevProvider>, listener: UnixListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _address)) => {
                if let Err(error) = converse(&provider, stream).await {
                    tracing::warn!(%error, "a request on the control socket failed");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept on the control socket");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// Asks the provider that runs with `state_dir`.
///
/// # Errors
/// [`ControlError`].
pub async fn ask(state_dir: &Path, request: &ControlRequest) -> Result<ControlAnswer, ControlError> {
    let socket = control_socket(state_dir);
    let mut stream = UnixStream::connect(&socket)
        .await
        .map_err(|source| ControlError::Connect { socket: socket.clone(), source })?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(serde_json::from_slice(&answer)?)
}

async fn converse(provider: &DevProvider, mut stream: UnixStream) -> Result<(), ControlError> {
    let mut line = String::new();
    let (reader, mut writer) = stream.split();
    let mut reader = BufReader::new(reader.take(REQUEST_BYTES_MAX));
    match tokio::time::timeout(REQUEST_TIMEOUT, reader.read_line(&mut line)).await {
        Ok(read) => read?,
        Err(_elapsed) => return Ok(()),
    };
    let done = match serde_json::from_str(&line) {
        Ok(request) => obey(provider, request).await,
        Err(error) => Err(error.into()),
    };
    let answer = match done {
        Ok(lines) => ControlAnswer::Done { lines },
        Err(error) => ControlAnswer::Failed { error: with_sources(&error) },
    };
    writer.write_all(&serde_json::to_vec(&answer)?).await?;
    Ok(())
}

async fn obey(provider: &DevProvider, request: ControlRequest) -> Result<Vec<String>, ControlError> {
    match request {
        ControlRequest::RotateSvids => {
            provider.rotate_svids()?;
            Ok(vec!["every SVID is new".to_owned()])
        }
        ControlRequest::PublishCa { trust_domain } => {
            each(provider, trust_domain, "published a new authority", DevProvider::publish_new_authority)
        }
        ControlRequest::Reissue { trust_domain } => {
            each(provider, trust_domain, "issued every SVID from the newest authority", DevProvider::reissue)
        }
        ControlRequest::RemoveOldCa { trust_domain } => {
            each(provider, trust_domain, "removed the older authorities", DevProvider::remove_old_authorities)
        }
        ControlRequest::RotateCa { trust_domain, wait_ms } => {
            rotate_ca(provider, trust_domain, Duration::from_millis(wait_ms).min(WAIT_MAX)).await
        }
        ControlRequest::Revoke { workload } => {
            provider.revoke(&workload)?;
            Ok(vec![format!("the SVIDs of {workload} are revoked, and it has new ones")])
        }
        ControlRequest::Withdraw { workload } => {
            provider.withdraw(&workload)?;
            Ok(vec![format!("{workload} is denied an identity from now on")])
        }
        ControlRequest::Restore { workload } => {
            provider.restore(&workload)?;
            Ok(vec![format!("{workload} is given its identity again")])
        }
        ControlRequest::List => Ok(list(provider)),
    }
}

async fn rotate_ca(
    provider: &DevProvider,
    trust_domain: Option<String>,
    wait: Duration,
) -> Result<Vec<String>, ControlError> {
    let mut lines =
        each(provider, trust_domain.clone(), "published a new authority", DevProvider::publish_new_authority)?;
    tokio::time::sleep(wait).await;
    lines.extend(each(
        provider,
        trust_domain.clone(),
        "issued every SVID from the newest authority",
        DevProvider::reissue,
    )?);
    tokio::time::sleep(wait).await;
    lines.extend(each(provider, trust_domain, "removed the older authorities", DevProvider::remove_old_authorities)?);
    Ok(lines)
}

fn each(
    provider: &DevProvider,
    trust_domain: Option<String>,
    what: &str,
    change: impl Fn(&DevProvider, &TrustDomain) -> Result<(), DevError>,
) -> Result<Vec<String>, ControlError> {
    let chosen = match trust_domain {
        None => provider.trust_domains(),
        Some(name) => {
            vec![TrustDomain::parse(&name).map_err(|source| ControlError::TrustDomain { name, source })?]
        }
    };
    let mut lines = Vec::with_capacity(chosen.len());
    for trust_domain in chosen {
        change(provider, &trust_domain)?;
        lines.push(format!("{trust_domain}: {what}"));
    }
    Ok(lines)
}

fn list(provider: &DevProvider) -> Vec<String> {
    let line = |workload: super::DevWorkloadSummary| {
        let ids: Vec<String> = workload.ids.iter().map(ToString::to_string).collect();
        let state = if workload.withdrawn { " (withdrawn)" } else { "" };
        format!("{}{state}: {} at unix://{}", workload.name, ids.join(", "), workload.socket.display())
    };
    provider.list().into_iter().map(line).collect()
}

fn with_sources(error: &dyn Error) -> String {
    crate::identity::publisher::chain(error)
}
