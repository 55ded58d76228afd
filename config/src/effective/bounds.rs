//! `timeouts:` and `limits:` as they are in force.

use super::put;
use crate::units::{print_duration, print_size};
use crate::{Limits, Timeouts};
use serde_json::{Map, Value, json};

pub(super) fn timeouts(timeouts: &Timeouts) -> Value {
    json!({
        "handshake": print_duration(timeouts.handshake),
        "detect": print_duration(timeouts.detect),
        "connect": print_duration(timeouts.connect),
        "connect_app": print_duration(timeouts.connect_app),
        "request_headers": print_duration(timeouts.request_headers),
        "http_idle": print_duration(timeouts.http_idle),
        "pool_idle_app": print_duration(timeouts.pool_idle_app),
        "pool_idle": print_duration(timeouts.pool_idle),
        "tcp_idle": print_duration(timeouts.tcp_idle),
        "half_close_linger": print_duration(timeouts.half_close_linger),
        "stream_idle": print_duration(timeouts.stream_idle),
        "body_idle": print_duration(timeouts.body_idle),
        "write_stall": print_duration(timeouts.write_stall),
        "tcp_keepalive": print_duration(timeouts.tcp_keepalive),
        "tcp_keepalive_interval": print_duration(timeouts.tcp_keepalive_interval),
        "h2_ping": print_duration(timeouts.h2_ping),
        "h2_ping_answer": print_duration(timeouts.h2_ping_answer),
    })
}

pub(super) fn limits(limits: &Limits) -> Value {
    let mut section = Map::new();
    section.insert("header_bytes".into(), json!(print_size(limits.header_bytes as u64)));
    section.insert("headers".into(), json!(limits.headers));
    section.insert("h2_streams".into(), json!(limits.h2_streams));
    section.insert("pool_idle_per_endpoint".into(), json!(limits.pool_idle_per_endpoint));
    put(&mut section, "connections", limits.connections.map(|connections| json!(connections)));
    section.insert("handshakes".into(), json!(limits.handshakes));
    section.insert("requests".into(), json!(limits.requests));
    put(&mut section, "requests_per_caller", limits.requests_per_caller.map(|requests| json!(requests)));
    section.insert("buffered_bytes".into(), json!(print_size(limits.buffered_bytes as u64)));
    put(&mut section, "memory", limits.memory.map(|bytes| json!(print_size(bytes))));
    section.insert("h2_control_frames".into(), json!(limits.h2_control_frames));
    section.insert("h2_early_resets".into(), json!(limits.h2_early_resets));
    section.insert("tcp_keepalive_probes".into(), json!(limits.tcp_keepalive_probes));
    Value::Object(section)
}
