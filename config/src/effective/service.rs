//! One outbound service written out.

use super::{on_expiry, path, put, svid, words};
use crate::units::print_duration;
use crate::upstream::{
    Credential, Endpoints, LocalUser, Outliers, Retries, Service, ServiceLimits, ServiceProtocol, Transport,
};
use serde_json::{Map, Value, json};

pub(super) fn service(service: &Service) -> Value {
    let mut section = Map::new();
    section.insert("name".into(), json!(service.name));
    put(&mut section, "hosts", (!service.hosts.is_empty()).then(|| words(&service.hosts)));
    put(&mut section, "addresses", (!service.addresses.is_empty()).then(|| words(&service.addresses)));
    put(&mut section, "listen", service.listen.as_ref().map(|listen| json!(listen.to_string())));
    let users = service.users.iter().map(|user| match user {
        LocalUser::Id(id) => json!(id),
        LocalUser::Name(name) => json!(name),
    });
    put(&mut section, "users", (!service.users.is_empty()).then(|| users.collect()));
    let endpoints = match &service.endpoints {
        Endpoints::Static(addresses) => Some(words(addresses)),
        Endpoints::Dns { host, port } => Some(json!({ "dns": format!("{host}:{port}") })),
        Endpoints::Host { port } => port.map(|port| json!({ "port": port })),
    };
    put(&mut section, "endpoints", endpoints);
    let spoken = match service.protocol {
        ServiceProtocol::Http => "http",
        ServiceProtocol::Tcp => "tcp",
        ServiceProtocol::Tls => "tls",
        ServiceProtocol::Detect => "detect",
    };
    section.insert("protocol".into(), json!(spoken));
    match &service.transport {
        Transport::Mesh { identity, svid: selector, tunnel } => {
            section.insert("identity".into(), words(identity));
            section.insert("svid".into(), svid(selector));
            section.insert("tls".into(), json!("mesh"));
            section.insert("via".into(), json!(if tunnel.is_some() { "tunnel" } else { "direct" }));
            put(&mut section, "tunnel_port", tunnel.map(|port| json!(port)));
        }
        Transport::WebTls { server_name, roots } => {
            section.insert("tls".into(), json!("web"));
            put(&mut section, "server_name", server_name.as_ref().map(|name| json!(name)));
            put(&mut section, "roots", roots.as_deref().map(path));
        }
        Transport::Plaintext => {
            section.insert("tls".into(), json!("off"));
        }
    }
    if let Some(Credential::JwtSvid { audience, app_token, passed_on }) = &service.credential {
        let mut token = Map::new();
        put(&mut token, "audience", audience.as_ref().map(|audience| json!(audience)));
        token.insert("app_token".into(), json!(app_token.word()));
        token.insert("passed_on".into(), json!(passed_on));
        section.insert("credential".into(), json!({ "jwt_svid": token }));
    }
    put(&mut section, "connect_timeout", service.connect_timeout.map(|span| json!(print_duration(span))));
    put(&mut section, "request_timeout", service.resilience.request_timeout.map(|span| json!(print_duration(span))));
    let is_http = !matches!(service.protocol, ServiceProtocol::Tcp | ServiceProtocol::Tls);
    put(&mut section, "retries", is_http.then(|| retries(&service.resilience.retries)));
    section.insert("outliers".into(), outliers(&service.resilience.outliers));
    section.insert("limits".into(), service_limits(&service.resilience.limits));
    section.insert("on_expiry".into(), json!(on_expiry(service.on_expiry)));
    Value::Object(section)
}

fn retries(retries: &Retries) -> Value {
    json!({ "share": format!("{}%", retries.share_percent), "per_second": retries.per_second })
}

fn outliers(outliers: &Outliers) -> Value {
    json!({
        "failures": outliers.failures,
        "ejection": print_duration(outliers.ejection),
        "ejection_max": print_duration(outliers.ejection_max),
        "share_max": format!("{}%", outliers.share_max_percent),
    })
}

fn service_limits(limits: &ServiceLimits) -> Value {
    let mut section = Map::new();
    put(&mut section, "connections", limits.connections.map(|connections| json!(connections)));
    section.insert("requests".into(), json!(limits.requests));
    section.insert("pending".into(), json!(limits.pending));
    section.insert("pending_timeout".into(), json!(print_duration(limits.pending_timeout)));
    Value::Object(section)
}
