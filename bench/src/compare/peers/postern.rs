//! Postern, with explicit listeners and its identity from files; everything else as it is by default.

use super::{Product, says};
use crate::compare::process::Program;
use crate::compare::setting::{CLIENT_ID, Place, Protocol, SERVER_ID, Setting, Side};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

pub struct Postern {
    name: &'static str,
    path: PathBuf,
}

impl Postern {
    pub fn new(name: &'static str, path: &Path) -> Self {
        Self { name, path: path.to_owned() }
    }
}

impl Product for Postern {
    fn name(&self) -> &'static str {
        self.name
    }

    fn version(&self) -> String {
        says(&Program::new(&self.path, ["--version"]))
    }

    fn lacks(&self, _setting: &Setting) -> Option<&'static str> {
        None
    }

    fn prepare(&self, side: Side, setting: &Setting, place: &Place<'_>) -> anyhow::Result<Program> {
        self.prepare_with(side, setting, place, |_| {})
    }
}

impl Postern {
    /// As `prepare`, with what `change` makes of the configuration.
    pub fn prepare_with(
        &self,
        side: Side,
        setting: &Setting,
        place: &Place<'_>,
        change: impl FnOnce(&mut Value),
    ) -> anyhow::Result<Program> {
        let pems = place.certificates.of(side);
        let protocol = if setting.protocol == Protocol::Tcp { "tcp" } else { "http" };
        let mut config = json!({
            "identity": {
                "files": { "certificate": pems.certificate, "key": pems.key, "bundle": place.certificates.bundle },
            },
            "telemetry": {
                "metrics": place.extra,
                "readiness": "off",
                "access_log": if setting.logs { "stdout" } else { "off" },
            },
            "workers": setting.workers,
            // Ten thousand idle ones are one of the measurements; the default goes by two descriptors each.
            "limits": { "connections": 12_000 },
        });
        match side {
            Side::Client => config["outbound"] = outbound(setting, place, protocol),
            Side::Server => {
                config["inbound"] = json!([inbound(setting, place, protocol)]);
                if setting.tunnel {
                    config["tunnel"] = json!({ "listen": place.mesh });
                }
            }
        }
        change(&mut config);
        let path = place.folder.join("postern.yaml");
        // JSON is YAML.
        fs::write(&path, serde_json::to_string_pretty(&config)?)?;
        Ok(Program::new(&self.path, ["run".into(), "--config".into(), path.into_os_string()]))
    }
}

fn outbound(setting: &Setting, place: &Place<'_>, protocol: &str) -> Value {
    let service =
        |name: String| json!({ "name": name, "endpoints": [place.mesh], "identity": SERVER_ID, "protocol": protocol });
    if setting.routes == 1 {
        let mut only = service("orders".to_owned());
        only["listen"] = json!(place.entry);
        if setting.tunnel {
            only["via"] = json!("tunnel");
            only["tunnel_port"] = json!(place.mesh.port());
            // The port that a stream is for, as the server side calls it.
            only["endpoints"] = json!([place.app]);
        }
        return json!({ "services": [only] });
    }
    let services = setting.services().into_iter().enumerate().map(|(number, (host, _))| {
        let mut one = service(format!("service-{number}"));
        one["hosts"] = json!([host]);
        one
    });
    json!({ "listen": place.entry, "services": services.collect::<Vec<_>>() })
}

fn inbound(setting: &Setting, place: &Place<'_>, protocol: &str) -> Value {
    let allow = json!([{ "spiffe": CLIENT_ID }]);
    let mut port = json!({ "port": place.app.port(), "app": place.app, "protocol": protocol });
    if !setting.tunnel {
        port["listen"] = json!(place.mesh);
    }
    if setting.protocol == Protocol::Tcp {
        port["allow"] = allow;
        return port;
    }
    let routes = setting.services().into_iter().enumerate().map(|(number, (_, path))| {
        json!({ "name": format!("route-{number}"), "match": { "path": format!("{path}**") }, "allow": allow })
    });
    port["routes"] = routes.collect();
    port
}
