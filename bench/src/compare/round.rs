//! What came of one measurement.

use super::quota::Periods;
use super::scenario::{Figure, Scenario};
use crate::load::Report;
use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// The figures of one measurement.
#[derive(Serialize, Clone, Debug)]
pub struct Round {
    /// The one that is compared; its unit is the scenario's.
    pub main: f64,
    /// Units of work a second; bytes a second for bulk; the connections that idle.
    pub rate: f64,
    /// CPU-µs per unit of work of the pair, of the client sidecar, and of load and application together.
    pub cpu: f64,
    pub cpu_client: f64,
    pub cpu_ends: f64,
    /// Of the pair's CPU, what was spent in user code; the rest is the kernel's.
    pub user_percent: f64,
    pub p50: u32,
    pub p99: u32,
    pub p999: u32,
    /// Of a hundred periods of the quota, those in which client and server used it up.
    pub client_throttled: f64,
    pub server_throttled: f64,
    pub failed: u64,
    /// Resident memory after the load.
    pub client_mib: f64,
    pub server_mib: f64,
    /// KiB per idle connection.
    pub client_kib: f64,
    pub server_kib: f64,
}

impl Round {
    pub fn of(scenario: &Scenario, report: &Report, spent: &Spent, idle: [f64; 2], after: [f64; 2]) -> Self {
        let gigabytes = report.bytes as f64 / 1e9;
        let units = if scenario.figure == Figure::CpuPerGigabyte { gigabytes } else { report.work as f64 };
        let micros = |time: Duration| time.as_secs_f64() * 1e6 / units;
        let growth = |side: usize| (after[side] - idle[side]) / units;
        let cpu = micros(spent.client + spent.server);
        Self {
            main: match scenario.figure {
                Figure::CpuPerUnit => cpu,
                Figure::CpuPerGigabyte => cpu / 1e6,
                Figure::P99 => f64::from(report.p99),
                Figure::Memory => growth(0) + growth(1),
                Figure::ServerMemory => after[1] / 1024.0,
            },
            rate: match scenario.figure {
                Figure::CpuPerGigabyte => report.bytes as f64 / report.seconds,
                figure if figure.is_memory() => report.work as f64,
                _ => report.work as f64 / report.seconds,
            },
            cpu,
            cpu_client: micros(spent.client),
            cpu_ends: micros(spent.ends),
            user_percent: spent.user.as_secs_f64() / (spent.client + spent.server).as_secs_f64() * 100.0,
            p50: report.p50,
            p99: report.p99,
            p999: report.p999,
            client_throttled: spent.periods[0].percent_throttled(),
            server_throttled: spent.periods[1].percent_throttled(),
            failed: report.errors,
            client_mib: after[0] / 1024.0,
            server_mib: after[1] / 1024.0,
            client_kib: growth(0),
            server_kib: growth(1),
        }
    }
}

impl fmt::Display for Round {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{:.2} (cpu {:.1}, rate {:.0}, p50 {} p99 {} p99.9 {} µs, {:.1} + {:.1} MiB)",
            self.main, self.cpu, self.rate, self.p50, self.p99, self.p999, self.client_mib, self.server_mib
        )?;
        if self.failed > 0 {
            write!(formatter, ", {} FAILED", self.failed)?;
        }
        if self.client_throttled + self.server_throttled > 0.0 {
            write!(formatter, ", throttled {:.0} + {:.0} %", self.client_throttled, self.server_throttled)?;
        }
        Ok(())
    }
}

#[derive(Default, Debug)]
pub struct Spent {
    pub client: Duration,
    pub server: Duration,
    /// Of both, in user code.
    pub user: Duration,
    /// Load and application.
    pub ends: Duration,
    /// Of the quotas of client and server, if they have any.
    pub periods: [Periods; 2],
}

impl Spent {
    /// A turn more. Scenes with quotas are not measured in turns.
    pub fn add(&mut self, more: &Self) {
        self.client += more.client;
        self.server += more.server;
        self.user += more.user;
        self.ends += more.ends;
    }

    pub fn since(&self, before: &Self) -> Self {
        Self {
            client: self.client.saturating_sub(before.client),
            server: self.server.saturating_sub(before.server),
            user: self.user.saturating_sub(before.user),
            ends: self.ends.saturating_sub(before.ends),
            periods: [0, 1].map(|side: usize| self.periods[side].since(before.periods[side])),
        }
    }
}
