//! The application's side of an outbound connection: which local user it is, and what that user may use.

use super::Connection;
use crate::capture::caller_uid::CallerUnknown;
use crate::capture::{Accepted, Stream};
use crate::refusal::{Refusal, Refused};
use crate::upstream::plan::ServicePlan;

impl Connection {
    /// Remembers where the caller's socket is connected to, and asks whose it is where a service or the access log wants
    /// to know: later the caller may have closed it, and then nobody can tell.
    pub fn called_by(&self, accepted: &Accepted) {
        let tcp = match &accepted.stream {
            Stream::Tcp(tcp) => tcp,
            // Kept by the kernel since the connection was made, and asked for without looking anything up.
            Stream::Unix(unix) => {
                let uid = unix.peer_cred().map(|who| who.uid());
                let uid = uid.map_err(|error| CallerUnknown::NoCredentials(error.raw_os_error().unwrap_or_default()));
                // Nobody asked before.
                let _ = self.session.caller_uid.set(uid);
                return;
            }
        };
        // A socket without addresses is gone.
        let called = accepted.original.map(|original| original.0).or_else(|| tcp.local_addr().ok());
        self.called.set(called);
        if self.worker.policy().restricts_users || self.worker.shared.access_log.enabled() {
            // Who needs the answer finds it.
            let _ = self.caller_uid();
        }
    }

    /// The local user that called.
    ///
    /// # Errors
    /// It is not known.
    pub fn caller_uid(&self) -> Result<u32, CallerUnknown> {
        *self.session.caller_uid.get_or_init(|| {
            let (Some(caller), Some(called)) = (self.session.remote.address(), self.called.get()) else {
                return Err(CallerUnknown::NoSocket);
            };
            self.worker.caller_uids.ask(caller, called)
        })
    }

    /// A captured connection that we opened ourselves would be opened again, and so on (THREATS NW-01).
    ///
    /// # Errors
    /// It is one.
    pub fn refuse_ourselves(&self) -> Result<(), Refused> {
        match self.worker.shared.exempt_by_user {
            Some(own) if self.caller_uid() == Ok(own) => {
                let detail = format!(
                    "the packet filter captures what user {own} opens, and that is who runs this proxy: name it in \
                     `exempt_users` and run `postern redirect install`; nothing else may run as that user"
                );
                Err(Refused::new(Refusal::Loop, detail))
            }
            _ => Ok(()),
        }
    }

    /// May whoever called use this service?
    ///
    /// # Errors
    /// It is somebody whom the service does not name, or nobody knows who.
    pub fn check_user(&self, service: &ServicePlan) -> Result<(), Refused> {
        if service.users.is_all() {
            return Ok(());
        }
        match self.caller_uid() {
            Ok(uid) if service.users.admits(uid) => Ok(()),
            Ok(uid) => {
                let detail = format!("local user {uid} is not among `users` of service {}", service.name);
                Err(Refused::new(Refusal::LocalUserRefused, detail))
            }
            Err(error) => {
                let detail =
                    format!("service {} names its `users`, and who called is not known: {error}", service.name);
                Err(Refused::new(Refusal::LocalUserUnknown, detail))
            }
        }
    }
}
