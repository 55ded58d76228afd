//! Envoy, from the PyPI wheel that the end-to-end tests use.
//!
//! Left out of what Istio would add: request ids, tracing, statistics filters; so this is the lean Envoy.

use super::{Product, in_wheel, says};
use crate::compare::process::{Program, find};
use crate::compare::setting::{CLIENT_ID, Place, Protocol, SERVER_ID, Setting, Side};
use serde_json::{Value, json};
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

const TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";
const FILTERS: &str = "type.googleapis.com/envoy.extensions.filters";

pub struct Envoy {
    path: PathBuf,
}

impl Envoy {
    pub fn find() -> Option<Self> {
        Some(Self { path: in_wheel("envoy/_bin/envoy").or_else(|| find("envoy"))? })
    }
}

impl Product for Envoy {
    fn name(&self) -> &'static str {
        "envoy"
    }

    fn version(&self) -> String {
        let said = says(&Program::new(&self.path, ["--version"]));
        // Its own path stands first.
        said.split_once("version: ").map_or_else(|| said.clone(), |(_, version)| format!("Envoy {version}"))
    }

    fn lacks(&self, _setting: &Setting) -> Option<&'static str> {
        None
    }

    fn prepare(&self, side: Side, setting: &Setting, place: &Place<'_>) -> anyhow::Result<Program> {
        let http = setting.protocol.is_http();
        let mut chain =
            json!({ "filters": if http { http_filters(side, setting) } else { tcp_filters(side, setting) } });
        let target = match side {
            Side::Client => place.mesh,
            Side::Server => {
                let mut context = tls_context(side, setting, place);
                // RBAC decides by identity, per request; the chain is verified here.
                context["validation_context"] = json!({ "trusted_ca": { "filename": place.certificates.bundle } });
                let mut downstream = json!({ "@type": format!("{TLS}.DownstreamTlsContext"), "require_client_certificate": true, "common_tls_context": context });
                if !setting.resumption {
                    downstream["disable_stateless_session_resumption"] = json!(true);
                    downstream["disable_stateful_session_resumption"] = json!(true);
                }
                chain["transport_socket"] = transport_socket(downstream);
                place.app
            }
        };
        let names = if side == Side::Client { setting.services().len() } else { 1 };
        let clusters: Vec<_> = (0..names).map(|number| cluster(number, target, side, setting, place)).collect();
        let config = json!({
            "static_resources": {
                "listeners": [{ "name": "entry", "address": address(place.listen(side)), "filter_chains": [chain] }],
                "clusters": clusters,
            },
        });
        let path = place.folder.join("envoy.json");
        fs::write(&path, serde_json::to_string_pretty(&config)?)?;
        let workers = setting.workers.to_string();
        let flags = ["--disable-hot-restart", "--concurrency", &workers, "-l", "warning", "-c"];
        Ok(Program::new(&self.path, flags.into_iter().map(Into::into).chain([path.into_os_string()])))
    }
}

fn address(address: SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip(), "port_value": address.port() } })
}

fn transport_socket(context: Value) -> Value {
    json!({ "name": "envoy.transport_sockets.tls", "typed_config": context })
}

fn tls_context(side: Side, setting: &Setting, place: &Place<'_>) -> Value {
    let pems = place.certificates.of(side);
    let alpn: &[&str] = match (setting.protocol, side) {
        (Protocol::Tcp, _) => &[],
        (_, Side::Server) => &["h2", "http/1.1"],
        (Protocol::Http1, Side::Client) => &["http/1.1"],
        (_, Side::Client) => &["h2"],
    };
    json!({
        "tls_params": {
            "tls_minimum_protocol_version": "TLSv1_3",
            "tls_maximum_protocol_version": "TLSv1_3",
            "ecdh_curves": ["X25519"],
        },
        "tls_certificates": [{ "certificate_chain": { "filename": pems.certificate }, "private_key": { "filename": pems.key } }],
        "validation_context": {
            "trusted_ca": { "filename": place.certificates.bundle },
            "match_typed_subject_alt_names": [{ "san_type": "URI", "matcher": { "exact": SERVER_ID } }],
        },
        "alpn_protocols": alpn,
    })
}

fn cluster(number: usize, target: SocketAddr, side: Side, setting: &Setting, place: &Place<'_>) -> Value {
    let name = format!("service-{number}");
    let endpoints = json!([{ "lb_endpoints": [{ "endpoint": { "address": address(target) } }] }]);
    let unlimited = json!({ "max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000 });
    let mut cluster = json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": { "thresholds": [unlimited] },
        "load_assignment": { "cluster_name": name, "endpoints": endpoints },
    });
    if side == Side::Client {
        let mut upstream = json!({ "@type": format!("{TLS}.UpstreamTlsContext"), "common_tls_context": tls_context(side, setting, place) });
        if !setting.resumption {
            upstream["max_session_keys"] = json!(0);
        }
        cluster["transport_socket"] = transport_socket(upstream);
    }
    if setting.protocol.is_http() {
        let options = if setting.protocol.is_http2() { "http2_protocol_options" } else { "http_protocol_options" };
        cluster["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": { options: {} },
            },
        });
    }
    cluster
}

/// Who may: the verified URI name of the client's certificate.
fn policy(permission: Value) -> Value {
    let principal = json!({ "authenticated": { "principal_name": { "exact": CLIENT_ID } } });
    json!({ "action": "ALLOW", "policies": { "web": { "permissions": [permission], "principals": [principal] } } })
}

fn access_log(setting: &Setting, fields: Value) -> Value {
    if !setting.logs {
        return json!([]);
    }
    json!([{
        "name": "envoy.access_loggers.stdout",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
            "log_format": { "json_format": fields },
        },
    }])
}

fn http_filters(side: Side, setting: &Setting) -> Value {
    let services = setting.services();
    let prefix = |path: &str| json!({ "prefix": path });
    let virtual_hosts: Vec<Value> = match side {
        Side::Client => services
            .iter()
            .enumerate()
            .map(|(number, (host, _))| {
                let route = json!({ "match": prefix("/"), "route": { "cluster": format!("service-{number}") } });
                json!({ "name": host, "domains": [host, format!("{host}:*")], "routes": [route] })
            })
            .collect(),
        Side::Server => {
            let routes =
                services.iter().map(|(_, path)| json!({ "match": prefix(path), "route": { "cluster": "service-0" } }));
            vec![json!({ "name": "all", "domains": ["*"], "routes": routes.collect::<Vec<_>>() })]
        }
    };
    let router = json!({
        "name": "envoy.filters.http.router",
        "typed_config": { "@type": format!("{FILTERS}.http.router.v3.Router"), "suppress_envoy_headers": true },
    });
    let mut filters = vec![router];
    let mut manager = json!({
        "@type": format!("{FILTERS}.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "entry",
        "codec_type": "AUTO",
        "generate_request_id": false,
        "server_header_transformation": "PASS_THROUGH",
        "route_config": { "virtual_hosts": virtual_hosts },
        "access_log": access_log(setting, json!({
            "time": "%START_TIME%", "method": "%REQ(:METHOD)%", "path": "%REQ(:PATH)%", "protocol": "%PROTOCOL%",
            "status": "%RESPONSE_CODE%", "flags": "%RESPONSE_FLAGS%", "bytes": "%BYTES_SENT%", "bytes_up": "%BYTES_RECEIVED%",
            "duration": "%DURATION%", "upstream": "%UPSTREAM_HOST%", "client": "%DOWNSTREAM_REMOTE_ADDRESS%",
            "peer": "%DOWNSTREAM_PEER_URI_SAN%",
        })),
    });
    match side {
        Side::Client => manager["forward_client_cert_details"] = json!("SANITIZE"),
        Side::Server => {
            let rules = policy(json!({ "any": true }));
            let rbac = json!({ "@type": format!("{FILTERS}.http.rbac.v3.RBAC"), "rules": rules });
            filters.insert(0, json!({ "name": "envoy.filters.http.rbac", "typed_config": rbac }));
            manager["forward_client_cert_details"] = json!("SANITIZE_SET");
            manager["set_current_client_cert_details"] = json!({ "uri": true });
        }
    }
    manager["http_filters"] = json!(filters);
    json!([{ "name": "envoy.filters.network.http_connection_manager", "typed_config": manager }])
}

fn tcp_filters(side: Side, setting: &Setting) -> Value {
    let log = access_log(
        setting,
        json!({
            "time": "%START_TIME%", "flags": "%RESPONSE_FLAGS%", "bytes": "%BYTES_SENT%", "bytes_up": "%BYTES_RECEIVED%",
            "duration": "%DURATION%", "upstream": "%UPSTREAM_HOST%", "client": "%DOWNSTREAM_REMOTE_ADDRESS%",
            "peer": "%DOWNSTREAM_PEER_URI_SAN%",
        }),
    );
    let proxy = json!({
        "@type": format!("{FILTERS}.network.tcp_proxy.v3.TcpProxy"),
        "stat_prefix": "entry",
        "cluster": "service-0",
        "access_log": log,
    });
    let mut filters = vec![json!({ "name": "envoy.filters.network.tcp_proxy", "typed_config": proxy })];
    if side == Side::Server {
        let rules = policy(json!({ "any": true }));
        let rbac = json!({ "@type": format!("{FILTERS}.network.rbac.v3.RBAC"), "stat_prefix": "rbac", "rules": rules });
        filters.insert(0, json!({ "name": "envoy.filters.network.rbac", "typed_config": rbac }));
    }
    json!(filters)
}
