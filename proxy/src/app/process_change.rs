//! What of a new configuration concerns the process as a whole: its logs, and who may ask it.

use super::App;
use crate::admin::AllowedUids;
use crate::telemetry::{AccessLog, process_log};
use anyhow::Context as _;
use postern_config::{Audit, Config, Place};

/// Tried, so that committing it needs nothing that could fail.
pub struct ProcessChange {
    access_log: Option<AccessLog>,
    /// The new filter of the process log, if it changes.
    filter: Option<String>,
    allowed: AllowedUids,
}

impl ProcessChange {
    /// # Errors
    /// A log that cannot be opened, a filter that cannot be read.
    pub fn prepare(app: &App, config: &Config) -> anyhow::Result<Self> {
        let (now, before) = (&config.telemetry, &app.config.telemetry);
        let access_log = (now.access_log != before.access_log)
            .then(|| AccessLog::start(&now.access_log, &app.shared.metrics))
            .transpose()
            .context("the access log cannot be opened")?;
        // A level that was set through the admin socket stays until the file says something else.
        let filter = (now.log != before.log && app.surroundings.log_filter.is_none())
            .then(|| now.log.clone().unwrap_or_else(|| process_log::FILTER_DEFAULT.to_owned()));
        filter.as_deref().map(process_log::check_filter).transpose()?;
        Ok(Self { access_log, filter, allowed: AllowedUids::new(&config.admin) })
    }

    pub fn commit(self, app: &App, config: &Config) {
        if let Some(access_log) = self.access_log {
            app.shared.access_log.replace(&access_log);
        }
        if let Some(filter) = self.filter
            && let Err(error) = app.surroundings.log.set_filter(&filter)
        {
            tracing::error!(%error, "the log filter stays as it was");
        }
        app.listeners.allow(self.allowed);
        for (setting, changed) in [
            ("workers", config.workers != app.config.workers),
            ("audit", !same_audit(config, &app.config)),
            ("hardening", config.hardening != app.config.hardening),
            ("telemetry.log_format", config.telemetry.log_format != app.config.telemetry.log_format),
        ] {
            if changed {
                tracing::warn!(setting, "this changed and takes effect with the next start");
            }
        }
    }
}

/// Wherever it is written. Whoever turns an audit log off has to end the process, which is recorded.
fn same_audit(now: &Config, before: &Config) -> bool {
    let place = Place::command_line();
    let audit = |config: &Config| config.audit.clone().map(|audit| Audit { place: place.clone(), ..audit });
    audit(now) == audit(before)
}
