//! The repository's rules, as tests. A rule that no test holds is a wish.

use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a file without its tests; STYLE of this repository.
const LINES_MAX: usize = 400;
/// Never above this, exception or not.
const LINES_MAX_EVER: usize = 800;
/// Files above [`LINES_MAX`], with their lines when they were let in. They may shrink, not grow.
const LONG_FILES: &[(&str, usize)] = &[("proxy/src/tls/certificate.rs", 412)];

/// Files that decide with what they are given: no clock, no randomness, no I/O. What is under a folder counts too.
const PURE: &[&str] = &[
    "config/src/pattern",
    "config/src/spiffe_id.rs",
    "config/src/units.rs",
    "config/src/cross_check",
    "config/src/yaml",
    "proxy/src/audit/chain.rs",
    "proxy/src/audit/seal.rs",
    "proxy/src/audit/verify/seals.rs",
    "proxy/src/audit/verify/walk.rs",
    "proxy/src/authz/",
    "proxy/src/dns/answer.rs",
    "proxy/src/dns/cache",
    "proxy/src/dns/decide",
    "proxy/src/dns/names",
    "proxy/src/dns/resolv_conf.rs",
    "proxy/src/dns/wire",
    "proxy/src/http/headers",
    "proxy/src/http/normalize",
    "proxy/src/http/route",
    "proxy/src/http/target",
    "proxy/src/redirect/compare",
    "proxy/src/redirect/diagnose",
    "proxy/src/redirect/iptables",
    "proxy/src/redirect/nft",
    "proxy/src/redirect/others",
    "proxy/src/redirect/plan",
    "proxy/src/tls/der.rs",
    "proxy/src/tls/certificate.rs",
    "proxy/src/base64.rs",
    "proxy/src/rate_limit.rs",
    "proxy/src/token/algorithm.rs",
    "proxy/src/token/claims.rs",
    "proxy/src/token/json.rs",
    "proxy/src/token/judge.rs",
    "proxy/src/token/jwk_set.rs",
    "proxy/src/token/jws.rs",
    "proxy/src/token/key",
    "proxy/src/token/problem.rs",
    "proxy/src/token/shown.rs",
    "proxy/src/token/verify.rs",
];

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

pub(crate) struct Source {
    /// From the root, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
}

impl Source {
    /// Without the tests that stand at the end.
    fn code(&self) -> &str {
        let tests = self.text.find("\n#[cfg(test)]\nmod tests {");
        &self.text[..tests.unwrap_or(self.text.len())]
    }

    fn is_test(&self) -> bool {
        self.path.starts_with("tests/") || self.path.ends_with("/tests.rs") || self.path.contains("/tests/")
    }

    /// Written by a program, which does not read our rules.
    fn is_generated(&self) -> bool {
        self.text.lines().take(3).any(|line| line.contains("generated from") || line.contains("@generated"))
    }

    /// Lines of code that hold `what`, without comments.
    fn mentions(&self, what: &str) -> Vec<String> {
        let lines = self.code().lines().enumerate().filter(|(_, line)| {
            let code = line.split("//").next().unwrap_or_default();
            code.contains(what)
        });
        lines.map(|(index, line)| format!("{}:{}: {}", self.path, index + 1, line.trim())).collect()
    }
}

/// Every file of the repository whose name ends in one of `endings`.
pub(crate) fn sources(endings: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_symlink()
                || name.starts_with('.') && name != ".ci"
                || path == root().join("target")
                || name == "corpora"
            {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                let relative = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
                found.push(Source { path: relative, text: fs::read_to_string(&path).unwrap() });
            }
        }
    }
    assert!(!found.is_empty(), "no file ends in {endings:?}");
    found.sort_unstable_by(|one, other| one.path.cmp(&other.path));
    found
}

fn assert_none(rule: &str, broken: &[String]) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

#[test]
fn files_stay_small() {
    let mut broken = Vec::new();
    for source in sources(&[".rs"]).iter().filter(|source| !source.is_test() && !source.is_generated()) {
        let lines = source.code().lines().count();
        let allowed = LONG_FILES.iter().find(|(path, _)| *path == source.path).map(|(_, lines)| *lines);
        match allowed {
            _ if lines > LINES_MAX_EVER => broken.push(format!("{} has {lines} lines", source.path)),
            None if lines > LINES_MAX => broken.push(format!("{} has {lines} lines, split it", source.path)),
            Some(allowed) if lines > allowed => broken.push(format!("{} grew from {allowed} to {lines}", source.path)),
            _ => {}
        }
    }
    assert_none("files have at most 400 lines, tests not counted", &broken);
}

#[test]
fn unsafe_code_is_forbidden_everywhere() {
    let root_manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(root_manifest.contains("unsafe_code = \"forbid\""));
    for member in ["config", "proxy", "tests", "bench"] {
        let manifest = fs::read_to_string(root().join(member).join("Cargo.toml")).unwrap();
        assert!(manifest.contains("[lints]\nworkspace = true"), "{member} does not take the workspace's lints");
    }
}

#[test]
fn the_environment_is_read_in_commands_alone() {
    let mut broken = Vec::new();
    for source in sources(&[".rs"]) {
        let ours = source.path.starts_with("proxy/src/") || source.path.starts_with("config/src/");
        if ours && !source.path.starts_with("proxy/src/cli/") && !source.is_test() {
            for what in ["env::var", "env::set_var", "env = \""] {
                broken.extend(source.mentions(what));
            }
        }
    }
    assert_none("only proxy/src/cli/ reads the environment", &broken);
}

#[test]
fn metrics_are_named_in_one_file() {
    let elsewhere = sources(&[".rs"]);
    let elsewhere = elsewhere.iter().filter(|source| {
        source.path.starts_with("proxy/src/") && source.path != "proxy/src/telemetry/metrics.rs" && !source.is_test()
    });
    let broken: Vec<_> = elsewhere.flat_map(|source| source.mentions("\"postern_")).collect();
    assert_none("only proxy/src/telemetry/metrics.rs names metrics", &broken);
}

#[test]
fn what_is_pure_takes_bytes_and_now_as_arguments() {
    let mut broken = Vec::new();
    let all = sources(&[".rs"]);
    for source in all.iter().filter(|source| !source.is_test() && PURE.iter().any(|pure| source.path.starts_with(pure)))
    {
        for what in ["SystemTime::now", "Instant::now", "fastrand::", "std::fs", "tokio::", "std::net::Tcp"] {
            broken.extend(source.mentions(what));
        }
    }
    assert_none("pure files do no I/O and read no clock", &broken);
    for pure in PURE {
        assert!(all.iter().any(|source| source.path.starts_with(pure)), "{pure} is gone: off the list");
    }
}

#[test]
fn every_example_is_shown() {
    let pages = sources(&[".md"]);
    let examples = sources(&[".yaml"]);
    let examples = examples.iter().filter_map(|source| source.path.strip_prefix("config/examples/"));
    let hidden = examples.filter(|name| !pages.iter().any(|page| page.text.contains(name)));
    let broken: Vec<_> = hidden.map(str::to_owned).collect();
    assert_none("files of config/examples/ that neither README nor docs mention", &broken);
}

#[test]
fn nothing_is_left_for_later() {
    // Put together here, so that this file does not name them.
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:")];
    let mut broken = Vec::new();
    for source in sources(&[".rs", ".toml", ".yaml", ".yml", ".sh", ".md", ".py"]) {
        for (index, line) in source.text.lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark)) && !source.is_generated() {
                broken.push(format!("{}:{}: {}", source.path, index + 1, line.trim()));
            }
        }
    }
    assert_none("do it now, or open an issue", &broken);
}

#[test]
fn no_test_is_ignored_silently() {
    let mark = concat!("#[ign", "ore");
    let broken: Vec<_> = sources(&[".rs"])
        .iter()
        .filter(|source| source.text.contains(mark))
        .map(|source| source.path.clone())
        .collect();
    assert_none("assert today's behaviour, or skip loudly", &broken);
}
