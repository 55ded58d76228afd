//! From numbers to Prometheus' text format, through the `prometheus` crate's model and encoder.

use super::ExternalVerdict;
use super::counters::{Histogram, PortFigures};
use super::dns::DnsResult;
use super::metrics::{self, Family, Kind, Metrics, unix_seconds};
use super::process;
use super::upstream_counters::Retry;
use crate::drift;
use crate::identity::{DiscardReason, IdentityState};
use crate::revocation::guard::Change;
use prometheus::proto;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

pub(super) fn render(source: &Metrics) -> String {
    let mut page = Page::default();
    process_and_configuration(&mut page, source);
    ports(&mut page, source);
    for (cause, histogram) in source.teardowns() {
        page.histogram(&metrics::TEARDOWN, &[cause], &histogram);
    }
    for (name, authorizer) in source.authorizers() {
        for verdict in ExternalVerdict::ALL {
            let count = authorizer.verdicts(verdict) as f64;
            page.value(&metrics::AUTHORIZER_VERDICTS, &[name.as_str(), verdict.as_str()], count);
        }
        page.histogram(&metrics::AUTHORIZER_DURATION, &[name.as_str()], &authorizer.duration);
    }
    identity(&mut page, source);
    page.encode()
}

fn process_and_configuration(page: &mut Page, source: &Metrics) {
    let global = &source.global;
    let count = |counter: &AtomicU64| counter.load(Relaxed) as f64;
    page.value(&metrics::INFO, &[env!("CARGO_PKG_VERSION"), &source.policy_digest()], 1.0);
    page.value(&metrics::START_TIME, &[], unix_seconds(source.started_at) as f64);
    page.value(&metrics::CONFIG_GENERATION, &[], count(&global.config_generation));
    page.value(&metrics::CONFIG_SUCCESS, &[], count(&global.config_success_at));
    page.value(&metrics::CONFIG_FAILURE, &[], count(&global.config_failure_at));
    page.value(&metrics::CONFIG_LOADS, &["taken"], count(&global.config_taken));
    page.value(&metrics::CONFIG_LOADS, &["refused"], count(&global.config_refused));
    page.value(&metrics::DRAINING, &[], f64::from(u8::from(global.draining.load(Relaxed))));
    page.value(&metrics::ACCESS_LOG_DROPPED, &[], count(&global.access_log_dropped));
    page.value(&metrics::ACCESS_LOG_ERRORS, &[], count(&global.access_log_errors));
    let audit = &source.audit;
    page.value(&metrics::AUDIT_RECORDS, &[], count(&audit.records));
    page.value(&metrics::AUDIT_LOST, &[], count(&audit.lost));
    page.value(&metrics::AUDIT_ERRORS, &[], count(&audit.errors));
    page.value(&metrics::AUDIT_SEALS, &[], count(&audit.seals));
    page.value(&metrics::AUDIT_SEALED_AT, &[], count(&audit.sealed_at));
    page.value(&metrics::AUDIT_UNSEALED, &[], count(&audit.unsealed));
    page.value(&metrics::AUDIT_UNSENT, &[], count(&audit.unsent));
    page.value(&metrics::AUDIT_BROKEN, &[], count(&audit.broken));
    page.value(&metrics::OVER_LIMIT, &[], count(&global.over_limit));
    page.value(&metrics::MEMORY_PRESSURE, &[], f64::from(u8::from(global.memory_pressure.load(Relaxed))));
    page.value(&metrics::ACCEPT_ERRORS, &[], count(&global.accept_errors));
    page.value(&metrics::DESCRIPTOR_EXHAUSTION, &[], count(&global.descriptor_exhaustion));
    page.value(&metrics::TASK_PANICS, &[], count(&global.task_panics));
    for result in DnsResult::ALL {
        page.value(&metrics::DNS_QUERIES, &[result.as_str()], global.dns.count(result) as f64);
    }
    for (family, figure) in [
        (&metrics::RESIDENT_MEMORY, process::resident_memory_bytes()),
        (&metrics::CPU_SECONDS, process::cpu_seconds()),
        (&metrics::OPEN_DESCRIPTORS, process::open_descriptors()),
        (&metrics::MAX_DESCRIPTORS, process::descriptors_max()),
    ] {
        if let Some(figure) = figure {
            page.value(family, &[], figure);
        }
    }
}

fn ports(page: &mut Page, source: &Metrics) {
    const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
    for (direction, name, port) in source.ports() {
        let figures: PortFigures<'_> = port.figures();
        let labels = [direction.as_str(), name.as_str()];
        let with = |third: &'static str| [direction.as_str(), name.as_str(), third];
        page.value(&metrics::CONNECTIONS, &labels, figures.connections_opened as f64);
        page.value(&metrics::CONNECTIONS_ACTIVE, &labels, figures.connections_active as f64);
        for (class, requests) in CLASSES.into_iter().zip(figures.requests) {
            page.value(&metrics::REQUESTS, &with(class), requests as f64);
        }
        page.value(&metrics::REQUESTS, &with("unanswered"), figures.requests_unanswered as f64);
        page.value(&metrics::REQUESTS_ACTIVE, &labels, figures.requests_active as f64);
        page.histogram(&metrics::REQUEST_DURATION, &labels, figures.request_duration);
        for (refusal, refusals) in figures.refusals {
            page.value(&metrics::REFUSALS, &with(refusal.code()), refusals as f64);
        }
        page.value(&metrics::BYTES_RECEIVED, &labels, figures.bytes_received as f64);
        page.value(&metrics::BYTES_SENT, &labels, figures.bytes_sent as f64);
        page.histogram(&metrics::HANDSHAKE_DURATION, &labels, figures.handshake_duration);
        page.value(&metrics::DETECT_TIMEOUTS, &labels, figures.detect_timeouts as f64);
        page.value(&metrics::EXPIRED_KEPT, &labels, figures.expired_kept as f64);
        if direction == super::Direction::Inbound {
            page.value(&metrics::OBSERVED, &labels, figures.observed as f64);
        }
        page.value(&metrics::CONDITIONS_FAILED, &labels, figures.conditions_failed as f64);
        for retry in Retry::ALL {
            page.value(&metrics::RETRIES, &with(retry.as_str()), figures.upstream.retries(retry) as f64);
        }
        page.value(&metrics::EJECTIONS, &labels, figures.upstream.ejections() as f64);
        page.value(&metrics::EJECTED, &labels, figures.upstream.ejected() as f64);
        for (cause, ends) in figures.ends {
            page.value(&metrics::ENDS, &with(cause), ends as f64);
        }
        for (code, resets) in figures.http2_resets {
            page.value(&metrics::STREAM_RESETS, &with(code), resets as f64);
        }
    }
}

fn identity(page: &mut Page, source: &Metrics) {
    let counters = &source.identity_counters;
    page.value(&metrics::IDENTITY_UPDATES, &[], counters.updates_applied.load(Relaxed) as f64);
    for reason in DiscardReason::ALL {
        page.value(&metrics::IDENTITY_DISCARDS, &[reason.as_str()], counters.discarded(reason) as f64);
    }
    page.value(&metrics::BUNDLES_REFUSED, &[], counters.bundles_refused.load(Relaxed) as f64);
    for (trust_domain, fetches) in counters.fetches() {
        page.value(&metrics::BUNDLE_FETCHES, &[trust_domain.as_str(), "success"], fetches.succeeded as f64);
        page.value(&metrics::BUNDLE_FETCHES, &[trust_domain.as_str(), "failure"], fetches.failed as f64);
    }
    for (issuer, figures) in counters.issuers() {
        page.value(&metrics::ISSUER_KEYS, &[&issuer], figures.keys as f64);
        page.value(&metrics::ISSUER_FETCHES, &[&issuer, "success"], figures.fetches.succeeded as f64);
        page.value(&metrics::ISSUER_FETCHES, &[&issuer, "failure"], figures.fetches.failed as f64);
    }
    page.value(&metrics::IDENTITY_RECONNECTS, &[], counters.reconnects.load(Relaxed) as f64);
    page.value(&metrics::TOKEN_FETCHES, &["success"], counters.tokens_fetched.load(Relaxed) as f64);
    page.value(&metrics::TOKEN_FETCHES, &["failure"], counters.token_fetches_failed.load(Relaxed) as f64);
    page.value(&metrics::TOKENS_MISSED, &[], counters.tokens_missed.load(Relaxed) as f64);
    page.value(&metrics::TOKENS_KEPT, &[], counters.tokens_kept.load(Relaxed) as f64);
    page.value(&metrics::APP_TOKENS_REMOVED, &[], counters.app_tokens_removed.load(Relaxed) as f64);
    let figures = source.identity_figures();
    let states = [IdentityState::Fresh, IdentityState::ServingStale, IdentityState::Expired, IdentityState::NoIdentity];
    for state in states {
        let is_now = figures.state.unwrap_or(IdentityState::NoIdentity) == state;
        page.value(&metrics::IDENTITY_STATE, &[state.as_str()], f64::from(u8::from(is_now)));
    }
    page.value(&metrics::IDENTITY_GENERATION, &[], figures.generation as f64);
    for ((svid, hint), seconds) in &figures.svids {
        page.value(&metrics::SVID_EXPIRY, &[svid, hint], *seconds);
    }
    if let Some(age) = figures.update_age_seconds {
        page.value(&metrics::IDENTITY_AGE, &[], age);
    }
    for (trust_domain, (anchors, age)) in &figures.bundles {
        page.value(&metrics::BUNDLE_ANCHORS, &[trust_domain], *anchors as f64);
        page.value(&metrics::BUNDLE_AGE, &[trust_domain], *age);
    }
    let taken_back = &figures.taken_back;
    page.value(&metrics::DENIED, &[], taken_back.denied as f64);
    let current = taken_back.lists.saturating_sub(taken_back.lists_stale + taken_back.lists_unused);
    page.value(&metrics::CRLS, &["current"], current as f64);
    page.value(&metrics::CRLS, &["stale"], taken_back.lists_stale as f64);
    page.value(&metrics::CRLS, &["unused"], taken_back.lists_unused as f64);
    page.value(&metrics::OWN_TAKEN_BACK, &[], taken_back.own as f64);
    page.value(&metrics::REVOCATIONS_REFUSED, &[], source.global.revocations_refused.load(Relaxed) as f64);
    let is_open = source.global.break_glass.load(Relaxed);
    page.value(&metrics::BREAK_GLASS, &[], f64::from(u8::from(is_open)));
    page.value(&metrics::BREAK_GLASS_USED, &[], source.global.break_glass_used.load(Relaxed) as f64);
    for change in Change::ALL {
        page.value(&metrics::GUARD_ALARMS, &[change.as_str()], source.guard_alarms(change) as f64);
    }
    for kind in drift::Kind::ALL {
        page.value(&metrics::DRIFT, &[kind.as_str()], source.drifts(kind) as f64);
    }
    for (trust_domain, keys) in &figures.token_keys {
        page.value(&metrics::TOKEN_KEYS, &[trust_domain], *keys as f64);
    }
}

/// Samples by family, in the order of [`metrics::FAMILIES`].
struct Page(Vec<Vec<proto::Metric>>);

impl Default for Page {
    fn default() -> Self {
        Self(metrics::FAMILIES.iter().map(|_| Vec::new()).collect())
    }
}

impl Page {
    fn value(&mut self, family: &Family, labels: &[&str], value: f64) {
        let mut sample = proto::Metric::from_label(label_pairs(family, labels));
        if family.kind == Kind::Counter {
            let mut counter = proto::Counter::default();
            counter.set_value(value);
            sample.set_counter(counter);
        } else {
            let mut gauge = proto::Gauge::default();
            gauge.set_value(value);
            sample.set_gauge(gauge);
        }
        self.push(family, sample);
    }

    fn histogram(&mut self, family: &Family, labels: &[&str], source: &Histogram) {
        let (below, count) = source.cumulative();
        let buckets = below.into_iter().map(|(bound, cumulative)| {
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(bound);
            bucket.set_cumulative_count(cumulative);
            bucket
        });
        let mut histogram = proto::Histogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(count);
        histogram.set_sample_sum(source.sum_seconds());
        let mut sample = proto::Metric::from_label(label_pairs(family, labels));
        sample.set_histogram(histogram);
        self.push(family, sample);
    }

    fn push(&mut self, family: &Family, sample: proto::Metric) {
        if let Some(index) = metrics::FAMILIES.iter().position(|other| other.name == family.name) {
            self.0[index].push(sample);
        }
    }

    fn encode(self) -> String {
        let families = metrics::FAMILIES.iter().zip(self.0).filter(|(_, samples)| !samples.is_empty());
        let families: Vec<_> = families.map(|(family, samples)| model(family, samples)).collect();
        let mut text = String::new();
        if let Err(error) = prometheus::TextEncoder::new().encode_utf8(&families, &mut text) {
            // Only a name that is no metric name gets here, and names are constants.
            tracing::error!(%error, "metrics could not be encoded");
        }
        text
    }
}

fn model(family: &Family, samples: Vec<proto::Metric>) -> proto::MetricFamily {
    let mut model = proto::MetricFamily::default();
    model.set_name(family.name.to_owned());
    model.set_help(family.help.to_owned());
    model.set_field_type(match family.kind {
        Kind::Counter => proto::MetricType::COUNTER,
        Kind::Gauge => proto::MetricType::GAUGE,
        Kind::Histogram => proto::MetricType::HISTOGRAM,
    });
    model.set_metric(samples);
    model
}

fn label_pairs(family: &Family, values: &[&str]) -> Vec<proto::LabelPair> {
    debug_assert_eq!(family.labels.len(), values.len(), "{}", family.name);
    let pairs = family.labels.iter().zip(values).map(|(name, value)| {
        let mut pair = proto::LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    });
    pairs.collect()
}
