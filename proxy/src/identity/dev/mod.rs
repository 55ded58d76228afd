//! The embedded provider, for development, tests and the demo: a small CA that *serves* the SPIFFE Workload API, one
//! unix socket a workload, so that the quickstart, the tests and SPIRE go down one client path.
//!
//! Not for production: it attests nobody. Whoever can open a workload's socket is that workload, and the CA keys lie
//! in the state directory (mode 0700, files 0600).
//!
//! It lives on a thread of its own with a runtime of its own, so every method may be called from any thread, inside or
//! outside of a runtime. `authority` holds the CAs, `workload` what each workload is told, `server` the RPCs.

mod authority;
pub mod control;
mod error;
mod server;
mod socket;
mod token_key;
mod unix_authority;
mod validate;
mod workload;

pub use error::DevError;

use crate::identity::proto::X509svidResponse;
use crate::tasks;
use authority::TrustDomainAuthorities;
use postern_config::{SpiffeId, TrustDomain};
use socket::{bind, private_directory};
use std::collections::HashMap;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::oneshot;
use workload::{Authorities, Federated, Reissue, Workload};

/// Shorter lives than this would be re-issued faster than a client can follow.
const TTL_MIN: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub struct DevConfig {
    /// Where the CA keys are kept, and, unless a workload says otherwise, the sockets.
    pub state_dir: PathBuf,
    pub trust_domains: Vec<TrustDomain>,
    pub workloads: Vec<DevWorkload>,
    /// Life of an SVID; it is re-issued at half of it.
    pub svid_ttl: Duration,
    /// Life of an authority; its successor is published at half of it.
    pub ca_ttl: Duration,
}

#[derive(Clone, Debug)]
pub struct DevWorkload {
    pub name: String,
    /// Default: `NAME.sock` in the state directory.
    pub socket: Option<PathBuf>,
    /// Identities with their hints; the first is the default (Workload API §8).
    pub svids: Vec<(SpiffeId, Option<String>)>,
    /// Foreign trust domains whose bundles this workload is told.
    pub federates_with: Vec<TrustDomain>,
}

/// What `list` says of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevWorkloadSummary {
    pub name: String,
    pub socket: PathBuf,
    pub ids: Vec<SpiffeId>,
    pub withdrawn: bool,
}

pub struct DevProvider {
    shared: Arc<Shared>,
    running: Mutex<Option<Running>>,
}

struct Shared {
    authorities: Mutex<Authorities>,
    workloads: Vec<Arc<Workload>>,
    svid_ttl: Duration,
    ca_ttl: Duration,
}

struct Running {
    stop: oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl DevProvider {
    /// Opens or makes the authorities, issues the first SVIDs, binds every socket, and serves.
    ///
    /// # Errors
    /// [`DevError`]: nothing is served when one of these fails.
    pub fn start(config: DevConfig) -> Result<Self, DevError> {
        if config.svid_ttl < TTL_MIN || config.ca_ttl < TTL_MIN {
            return Err(DevError::TtlTooShort(TTL_MIN));
        }
        let now = SystemTime::now();
        let keys = config.state_dir.join("authorities");
        for directory in [&config.state_dir, &keys] {
            private_directory(directory).map_err(|source| DevError::State { file: directory.clone(), source })?;
        }
        let mut authorities = HashMap::new();
        for trust_domain in config.trust_domains {
            let opened = TrustDomainAuthorities::open(&keys, trust_domain.clone(), config.ca_ttl, now)?;
            authorities.insert(trust_domain, opened);
        }
        let mut workloads: Vec<Arc<Workload>> = Vec::new();
        for workload in config.workloads {
            if workloads.iter().any(|known| known.name == workload.name) {
                return Err(DevError::DuplicateWorkload(workload.name));
            }
            workloads.push(Arc::new(Workload::open(workload, &config.state_dir)?));
        }
        let shared = Shared {
            authorities: Mutex::new(authorities),
            workloads,
            svid_ttl: config.svid_ttl,
            ca_ttl: config.ca_ttl,
        };
        let this = Self { shared: Arc::new(shared), running: Mutex::new(None) };
        this.rotate_svids()?;
        this.restart()?;
        Ok(this)
    }

    /// Serves again after [`DevProvider::stop`], with the same authorities and SVIDs. Nothing happens while it runs.
    ///
    /// # Errors
    /// [`DevError::Bind`] or [`DevError::AlreadyServed`].
    pub fn restart(&self) -> Result<(), DevError> {
        let mut running = self.running();
        if running.is_some() {
            return Ok(());
        }
        let mut listeners = Vec::with_capacity(self.shared.workloads.len());
        for workload in &self.shared.workloads {
            listeners.push((workload.clone(), bind(&workload.socket)?));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(DevError::Runtime)?;
        let (stop, stopped) = oneshot::channel();
        let shared = self.shared.clone();
        let thread = std::thread::Builder::new()
            .name("dev-identity".to_owned())
            .spawn(move || runtime.block_on(run(shared, listeners, stopped)))
            .map_err(DevError::Runtime)?;
        *running = Some(Running { stop, thread });
        Ok(())
    }

    /// Ends every stream as a dying agent does, and removes the sockets.
    pub fn stop(&self) {
        let Some(Running { stop, thread }) = self.running().take() else { return };
        // The other end may be gone only because the thread ended; joining says so.
        let _ = stop.send(());
        if thread.join().is_err() {
            tracing::error!("the thread of the embedded identity provider panicked");
        }
        for workload in &self.shared.workloads {
            workload.close_streams();
            let _ = std::fs::remove_file(&workload.socket);
        }
    }

    /// The socket of a workload.
    ///
    /// # Errors
    /// [`DevError::UnknownWorkload`], as for every method that names one.
    pub fn socket(&self, name: &str) -> Result<PathBuf, DevError> {
        Ok(self.workload(name)?.socket.clone())
    }

    pub fn list(&self) -> Vec<DevWorkloadSummary> {
        let summary = |workload: &Arc<Workload>| DevWorkloadSummary {
            name: workload.name.clone(),
            socket: workload.socket.clone(),
            ids: workload.svids.iter().map(|(id, _hint)| id.clone()).collect(),
            withdrawn: workload.is_withdrawn(),
        };
        self.shared.workloads.iter().map(summary).collect()
    }

    /// The trust domains, in the order of their names.
    pub fn trust_domains(&self) -> Vec<TrustDomain> {
        let mut names: Vec<_> = self.shared.authorities().keys().cloned().collect();
        names.sort();
        names
    }

    /// The bundle of a trust domain as it is published now: concatenated DER.
    ///
    /// # Errors
    /// [`DevError::UnknownTrustDomain`].
    pub fn bundle(&self, trust_domain: &TrustDomain) -> Result<Vec<u8>, DevError> {
        let authorities = self.shared.authorities();
        let found = authorities.get(trust_domain).ok_or_else(|| DevError::UnknownTrustDomain(trust_domain.clone()))?;
        Ok(found.bundle())
    }

    /// New leaves for everyone, from the authority that issues.
    ///
    /// # Errors
    /// [`DevError`]: signing failed.
    pub fn rotate_svids(&self) -> Result<(), DevError> {
        self.shared.refresh_all(&self.shared.authorities(), Reissue::All, SystemTime::now())
    }

    /// # Errors
    /// [`DevError::UnknownWorkload`], or signing failed.
    pub fn rotate_svid(&self, name: &str) -> Result<(), DevError> {
        self.shared.refresh(self.workload(name)?, &self.shared.authorities(), Reissue::All, SystemTime::now())
    }

    /// Stage one of a CA rotation: the new authority joins the bundle. No SVID changes.
    ///
    /// # Errors
    /// [`DevError::UnknownTrustDomain`], or the state could not be written.
    pub fn publish_new_authority(&self, trust_domain: &TrustDomain) -> Result<(), DevError> {
        self.change(trust_domain, Reissue::Nothing, |authorities| authorities.publish_new(SystemTime::now()))
    }

    /// Stage two: every SVID of the trust domain is issued anew, by the newest authority.
    ///
    /// # Errors
    /// As [`DevProvider::publish_new_authority`].
    pub fn reissue(&self, trust_domain: &TrustDomain) -> Result<(), DevError> {
        self.change(trust_domain, Reissue::Of(trust_domain), TrustDomainAuthorities::issue_from_newest)
    }

    /// Last stage: authorities older than the issuing one leave the bundle. Who still holds an SVID of theirs is cut.
    ///
    /// # Errors
    /// As [`DevProvider::publish_new_authority`].
    pub fn remove_old_authorities(&self, trust_domain: &TrustDomain) -> Result<(), DevError> {
        self.change(trust_domain, Reissue::Nothing, TrustDomainAuthorities::remove_old)
    }

    /// Takes back the SVIDs that the workload has, by its authorities' lists, and gives it new ones. Whoever has a copy of the
    /// old ones loses trust.
    ///
    /// # Errors
    /// [`DevError::UnknownWorkload`], or the state could not be written.
    pub fn revoke(&self, name: &str) -> Result<(), DevError> {
        let (workload, now) = (self.workload(name)?, SystemTime::now());
        let mut authorities = self.shared.authorities();
        for (trust_domain, chain) in workload.chains() {
            let of_domain = authorities.get_mut(&trust_domain);
            of_domain.ok_or_else(|| DevError::UnknownTrustDomain(trust_domain.clone()))?.revoke(&chain)?;
        }
        self.shared.refresh(workload, &authorities, Reissue::All, now)?;
        self.shared.refresh_all(&authorities, Reissue::Nothing, now)
    }

    /// From now on the workload is answered `PermissionDenied`; its open streams end so.
    ///
    /// # Errors
    /// [`DevError::UnknownWorkload`].
    pub fn withdraw(&self, name: &str) -> Result<(), DevError> {
        self.workload(name)?.withdraw();
        Ok(())
    }

    /// Undoes [`DevProvider::withdraw`].
    ///
    /// # Errors
    /// [`DevError::UnknownWorkload`].
    pub fn restore(&self, name: &str) -> Result<(), DevError> {
        self.workload(name)?.restore();
        Ok(())
    }

    /// The workload is no longer told the bundle of `trust_domain`.
    ///
    /// # Errors
    /// [`DevError::UnknownWorkload`].
    pub fn remove_federation(&self, name: &str, trust_domain: &TrustDomain) -> Result<(), DevError> {
        self.set_federation(name, trust_domain, Federated::No)
    }

    /// The workload is told the bundle of `trust_domain`.
    ///
    /// # Errors
    /// [`DevError::UnknownWorkload`], [`DevError::UnknownTrustDomain`].
    pub fn add_federation(&self, name: &str, trust_domain: &TrustDomain) -> Result<(), DevError> {
        self.bundle(trust_domain)?;
        self.set_federation(name, trust_domain, Federated::Yes)
    }

    /// Sends `message` as it is on the workload's open X.509 streams: a fault hook. The next change sends the truth.
    ///
    /// # Errors
    /// [`DevError::UnknownWorkload`].
    pub fn push_raw(&self, name: &str, message: X509svidResponse) -> Result<(), DevError> {
        self.workload(name)?.push_raw(message);
        Ok(())
    }

    fn set_federation(&self, name: &str, trust_domain: &TrustDomain, federated: Federated) -> Result<(), DevError> {
        let workload = self.workload(name)?;
        let authorities = self.shared.authorities();
        workload.set_federation(trust_domain, federated);
        self.shared.refresh(workload, &authorities, Reissue::Nothing, SystemTime::now())
    }

    fn change(
        &self,
        trust_domain: &TrustDomain,
        reissue: Reissue<'_>,
        stage: impl FnOnce(&mut TrustDomainAuthorities) -> Result<(), DevError>,
    ) -> Result<(), DevError> {
        let mut authorities = self.shared.authorities();
        let found =
            authorities.get_mut(trust_domain).ok_or_else(|| DevError::UnknownTrustDomain(trust_domain.clone()))?;
        stage(found)?;
        tracing::info!(%trust_domain, authorities = found.published(), "authorities changed");
        self.shared.refresh_all(&authorities, reissue, SystemTime::now())
    }

    fn workload(&self, name: &str) -> Result<&Arc<Workload>, DevError> {
        let found = self.shared.workloads.iter().find(|workload| workload.name == name);
        found.ok_or_else(|| DevError::UnknownWorkload(name.to_owned()))
    }

    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for DevProvider {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    /// Held while workloads are refreshed, so that two changes reach a workload in the order they were made.
    fn authorities(&self) -> MutexGuard<'_, Authorities> {
        self.authorities.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refresh_all(&self, authorities: &Authorities, reissue: Reissue<'_>, now: SystemTime) -> Result<(), DevError> {
        self.workloads.iter().try_for_each(|workload| self.refresh(workload, authorities, reissue, now))
    }

    fn refresh(
        &self,
        workload: &Workload,
        authorities: &Authorities,
        reissue: Reissue<'_>,
        now: SystemTime,
    ) -> Result<(), DevError> {
        workload.refresh(authorities, reissue, self.svid_ttl, now)
    }

    /// What time demands: authorities near their end are succeeded, SVIDs past half of their life issued anew.
    fn maintain(&self, now: SystemTime) -> Result<(), DevError> {
        let mut authorities = self.authorities();
        let mut changed = false;
        for of_domain in authorities.values_mut() {
            changed |= of_domain.maintain(now)?;
        }
        for workload in &self.workloads {
            if changed || workload.is_due(now) {
                tracing::info!(workload = workload.name, "issuing SVIDs anew");
                self.refresh(workload, &authorities, Reissue::All, now)?;
            }
        }
        Ok(())
    }
}

async fn run(shared: Arc<Shared>, listeners: Vec<(Arc<Workload>, UnixListener)>, mut stopped: oneshot::Receiver<()>) {
    for (workload, listener) in listeners {
        let shared = shared.clone();
        tasks::spawn(async move {
            let name = workload.name.clone();
            if let Err(error) = server::serve(shared, workload, listener).await {
                tracing::error!(workload = name, %error, "the Workload API server ended");
            }
        });
    }
    let period = (shared.svid_ttl.min(shared.ca_ttl) / 16).clamp(Duration::from_millis(50), Duration::from_secs(10));
    let mut ticks = tokio::time::interval(period);
    loop {
        tokio::select! {
            _ = &mut stopped => return,
            _ = ticks.tick() => {
                if let Err(error) = shared.maintain(SystemTime::now()) {
                    tracing::error!(%error, "cannot renew authorities or SVIDs; will try again");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
