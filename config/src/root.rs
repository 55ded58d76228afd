//! The file as a whole: its sections, and the [`Config`] that they make.

use crate::audit::RawAudit;
use crate::authorizer::RawAuthorizer;
use crate::bounds::{Count, Limits, RawLimits, RawTimeouts, Timeouts};
use crate::break_glass::RawBreakGlass;
use crate::capture::RawCapture;
use crate::drift::RawDrift;
use crate::hardening::RawHardening;
use crate::identity::RawIdentity;
use crate::issuer::{self, RawIssuer};
use crate::listener::RawInbound;
use crate::read::{Field, Keys, Reader, Section};
use crate::revocation::RawRevocation;
use crate::telemetry::{RawAdmin, RawTelemetry};
use crate::tunnel::RawTunnel;
use crate::upstream::RawOutbound;
use crate::values::{FilePath, OneOrMany, Span};
use crate::workload::{RawWorkload, Workload};
use crate::{Admin, Config, Drift, Hardening, Identity, Revocation};
use schemars::JsonSchema;
use std::num::NonZeroUsize;

/// The configuration of a Postern sidecar.
#[derive(JsonSchema)]
#[schemars(rename = "Postern", deny_unknown_fields, extend("required" = []))]
pub(crate) struct RawConfig {
    /// Where our SVIDs and the trust bundles come from.
    identity: Field<RawIdentity>,
    /// Who issues tokens besides the mesh. Routes take them by name: `token: { issuers: [NAME] }`.
    issuers: Field<Vec<RawIssuer>>,
    /// Services that decide about requests besides our own rules.
    authorizers: Field<Vec<RawAuthorizer>>,
    /// The ports on which peers reach the application.
    inbound: Field<Vec<RawInbound>>,
    /// Where the application may go.
    outbound: Field<RawOutbound>,
    /// Traffic that is redirected here without the application's help.
    capture: Field<RawCapture>,
    /// Where peers come in by streams that share an mTLS connection.
    tunnel: Field<RawTunnel>,
    /// Metrics, readiness and logs.
    telemetry: Field<RawTelemetry>,
    /// The log that proves what was decided.
    audit: Field<RawAudit>,
    /// Trust that is taken back before it expires.
    revocation: Field<RawRevocation>,
    /// Who may override the rules in an emergency.
    break_glass: Field<RawBreakGlass>,
    /// What is told, or refused, of things that are valid and not what they were.
    drift: Field<RawDrift>,
    /// Where the running program is asked and told.
    admin: Field<RawAdmin>,
    /// Threads that carry traffic.
    #[schemars(extend("x-default" = "the CPU quota of the cgroup rounded up; 2 where there is none"))]
    workers: Field<Count>,
    /// How long a drain may take after SIGTERM.
    #[schemars(extend("x-default" = "$TERMINATION_GRACE_PERIOD_SECONDS (30 s) less a margin"))]
    drain_timeout: Field<Span>,
    /// Deadlines that hold for every listener and service.
    timeouts: Field<RawTimeouts>,
    /// Bounds that hold for every listener and service.
    limits: Field<RawLimits>,
    /// What our own workload is, for rules that ask.
    workload: Field<RawWorkload>,
    /// What the process gives up at its start.
    hardening: Field<RawHardening>,
    /// Further files, or directories of `*.yaml` and `*.yml` (in the order of their names). Their ports and services
    /// are added to this file's; any other section may be written once among all files.
    #[expect(dead_code, reason = "followed before the sections are read; here for its place in the schema")]
    include: Field<OneOrMany<FilePath>>,
}

impl Section for RawConfig {
    const NAME: &'static str = "the file";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self {
            identity: keys.optional("identity"),
            issuers: keys.optional("issuers"),
            // Ports and routes name them.
            authorizers: {
                let authorizers: Field<Vec<RawAuthorizer>> = keys.optional("authorizers");
                let names = authorizers.get().into_iter().flatten().filter_map(RawAuthorizer::name);
                keys.reader.authorizers = names.map(str::to_owned).collect();
                authorizers
            },
            inbound: keys.optional("inbound"),
            outbound: keys.optional("outbound"),
            capture: keys.optional("capture"),
            tunnel: keys.optional("tunnel"),
            telemetry: keys.optional("telemetry"),
            audit: keys.optional("audit"),
            revocation: keys.optional("revocation"),
            break_glass: keys.optional("break_glass"),
            drift: keys.optional("drift"),
            admin: keys.optional("admin"),
            workers: keys.optional("workers"),
            drain_timeout: keys.optional("drain_timeout"),
            timeouts: keys.optional("timeouts"),
            limits: keys.optional("limits"),
            workload: keys.optional("workload"),
            hardening: keys.optional("hardening"),
            include: keys.optional("include"),
        }
    }
}

const WORKERS_MAX: u32 = 1024;

impl RawConfig {
    /// What could be read; without `sources`.
    pub fn check(self, reader: &mut Reader) -> Config {
        if let (Some(Count(workers)), Some(place)) = (self.workers.get(), self.workers.place())
            && *workers > WORKERS_MAX
        {
            let hint = "leave it out: then it follows the CPU quota";
            reader.problem(place, format!("`workers: {workers}` is more than {WORKERS_MAX}"), hint);
        }
        let mut identity =
            self.identity.into_option().map_or_else(Identity::default, |identity| identity.check(reader));
        identity.issuers = issuer::check_all(self.issuers.or_default(), reader);
        reader.issuers = identity.issuers.clone();
        reader.svid = identity.svid.clone();
        reader.names_have_addresses = self.capture.get().is_some_and(RawCapture::has_dns);
        let inbound = self.inbound.or_default().into_iter().filter_map(|port| port.check(reader)).collect();
        Config {
            identity,
            authorizers: {
                let authorizers = self.authorizers.or_default().into_iter();
                authorizers.filter_map(|authorizer| authorizer.check(reader)).collect()
            },
            inbound,
            outbound: self.outbound.or_default().check(reader),
            capture: self.capture.into_option().map(|capture| capture.check(reader)),
            tunnel: self.tunnel.into_option().and_then(|tunnel| tunnel.check(reader)),
            // Its defaults are listeners, so it is checked also when nobody wrote it.
            telemetry: self.telemetry.or_default().check(reader),
            audit: self.audit.into_option().and_then(|audit| audit.check(reader)),
            revocation: self.revocation.into_option().map_or_else(Revocation::default, |section| section.check(reader)),
            break_glass: self.break_glass.into_option().and_then(|section| section.check(reader)),
            drift: self.drift.into_option().map_or_else(Drift::default, |section| section.check(reader)),
            admin: self.admin.into_option().map_or_else(Admin::default, |admin| admin.check(reader)),
            workers: self.workers.into_option().and_then(|count| NonZeroUsize::new(count.as_usize())),
            drain_timeout: self.drain_timeout.into_option().map(|span| span.0),
            timeouts: self.timeouts.into_option().map_or_else(Timeouts::default, RawTimeouts::check),
            limits: self.limits.into_option().map_or_else(Limits::default, |limits| limits.check(reader)),
            workload: self.workload.into_option().map_or_else(Workload::default, |section| section.check(reader)),
            hardening: self.hardening.into_option().map_or_else(Hardening::default, |section| section.check(reader)),
            sources: Vec::new(),
        }
    }
}
