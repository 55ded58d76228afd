//! The rows of the catalogue of attacks and faults that concern the data path, and the tests that hold them: every row has a
//! test with its id in its name, or a reason here. `docs/security-tests.md` is made from this.

use crate::tidy::{root, sources};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

/// Id, and what it is about.
const ROWS: &[(&str, &str)] = &[
    ("PN-01", "dot segments in paths"),
    ("PN-02", "encoded dots and letters"),
    ("PN-03", "doubled slashes"),
    ("PN-04", "encoded slashes"),
    ("PN-05", "backslashes, raw and encoded"),
    ("PN-06", "path parameters"),
    ("PN-07", "fragments in targets"),
    ("PN-08", "control characters, raw and encoded"),
    ("PN-09", "doubly encoded paths"),
    ("PN-10", "overlong UTF-8"),
    ("PN-12", "letters' case in paths"),
    ("PN-13", "prefixes keep to segments"),
    ("PN-15", "`*` and PRI"),
    ("PN-16", "HTTP/2 paths that are none"),
    ("PN-18", "absolute form against Host, users in targets"),
    ("PN-20", "broken percent codes"),
    ("PN-21", "SPIFFE IDs are no regular expressions"),
    ("PN-22", "`*` in a request is data"),
    ("PN-24", "methods in another case, override headers"),
    ("PN-25", "long paths in linear time"),
    ("PN-27", "routes equally specific"),
    ("PN-28", "CONNECT and path rules"),
    ("HD-01", "several Hosts"),
    ("HD-02", "no Host"),
    ("HD-03", "malformed Hosts"),
    ("HD-04", "default ports"),
    ("HD-05", "case and trailing dot of hosts"),
    ("HD-06", "`:authority` against `host`"),
    ("HD-07", "no `:authority`, or two"),
    ("HD-08", "server name against authority"),
    ("HD-10", "forged identity headers"),
    ("HD-14", "identity headers out of certificates"),
    ("HD-15", "headers that replace the path"),
    ("HD-16", "injected credentials against the application's"),
    ("HD-17", "several or odd inbound tokens"),
    ("HD-18", "injected tokens and other destinations"),
    ("HD-19", "secrets in any output"),
    ("HD-20", "whether the application gets the token"),
    ("HD-21", "line breaks in values of ours"),
    ("HD-22", "log injection"),
    ("HD-23", "heads above the limits"),
    ("HD-24", "cookie crumbs towards HTTP/1"),
    ("HD-25", "blanks around values"),
    ("HD-26", "`content-length` twice in HTTP/2"),
    ("HD-27", "what a response may not say"),
    ("SM-01", "CL.TE"),
    ("SM-02", "TE.CL"),
    ("SM-03", "lengths that are no number"),
    ("SM-05", "codings other than chunked"),
    ("SM-06", "disguised codings"),
    ("SM-07", "codings and bodies in HTTP/1.0"),
    ("SM-08", "bare line feeds"),
    ("SM-09", "bare CR, NUL, folding, odd names"),
    ("SM-10", "broken and endless chunk sizes"),
    ("SM-11", "line breaks in chunk extensions"),
    ("SM-12", "odd chunk extensions"),
    ("SM-13", "chunks that end wrongly"),
    ("SM-14", "answers before the body (CL.0)"),
    ("SM-15", "expectations"),
    ("SM-16", "bodies where none is usual"),
    ("SM-17", "lengths against DATA in HTTP/2"),
    ("SM-18", "connection headers in HTTP/2"),
    ("SM-19", "values that break out of HTTP/2"),
    ("SM-20", "h2c upgrades"),
    ("SM-21", "bytes behind an upgrade"),
    ("SM-22", "CONNECT and early data"),
    ("SM-23", "broken answers of upstreams"),
    ("SM-24", "pipelining"),
    ("SM-27", "request lines that are none"),
    ("H2-01", "rapid reset, fast and slow"),
    ("H2-03", "resets that we are made to send"),
    ("H2-04", "CONTINUATION flood, slow heads"),
    ("H2-06", "cookie crumbs and list size"),
    ("H2-07", "empty and tiny DATA"),
    ("H2-08", "PING, SETTINGS, PRIORITY, WINDOW_UPDATE floods"),
    ("H2-10", "windows held at zero"),
    ("H2-11", "wrong settings and updates, both sides"),
    ("H2-12", "too many streams, the last stream"),
    ("H2-13", "stalled prefaces"),
    ("H2-14", "h2spec"),
    ("H2-15", "push, GOAWAY and refused streams of upstreams"),
    ("H2-16", "refusals of gRPC calls"),
    ("DS-01", "silence"),
    ("DS-02", "slow heads, bodies, readers"),
    ("DS-03", "slow handshakes"),
    ("DS-04", "handshake floods"),
    ("DS-05", "huge and deep chains"),
    ("DS-06", "KeyUpdate floods"),
    ("DS-08", "no descriptors"),
    ("DS-09", "connections and requests above limits"),
    ("DS-10", "large bodies against slow readers"),
    ("DS-11", "servers that speak first"),
    ("DS-12", "half-close"),
    ("DS-13", "metric series"),
    ("DS-14", "configuration bombs"),
    ("DS-15", "no memory"),
    ("DS-16", "greedy peers"),
    ("TL-01", "resumption after an authority went"),
    ("TL-02", "resumption after anything else changed"),
    ("TL-03", "pooled connections of another identity"),
    ("TL-04", "another trust domain's authority"),
    ("TL-06", "certificates without URI name"),
    ("TL-07", "leaves that may sign, key usage"),
    ("TL-08", "extended key usage"),
    ("TL-09", "malformed SPIFFE IDs"),
    ("TL-11", "validity"),
    ("TL-12", "path building"),
    ("TL-13", "name constraints"),
    ("TL-14", "a leaf as its own root"),
    ("TL-16", "wrong name and unknown root together"),
    ("TL-17", "no client certificate"),
    ("TL-18", "plaintext on mTLS ports, and the reverse"),
    ("TL-20", "SVID messages that do not fit together"),
    ("TL-22", "live connections when trust ends"),
    ("TL-23", "revocation lists"),
    ("TL-24", "kinds of keys"),
    ("TL-25", "early data"),
    ("TL-26", "ALPN"),
    ("TL-27", "old TLS"),
    ("TL-28", "keys at rest"),
    ("JW-01", "algorithms that are none, and forms that are no token"),
    ("JW-02", "public keys taken for secrets"),
    ("JW-03", "keys of another kind or use"),
    ("JW-04", "`kid` missing, unknown, malformed, of others"),
    ("JW-05", "malformed audiences"),
    ("JW-06", "audiences of others"),
    ("JW-07", "`exp` missing, malformed, over"),
    ("JW-08", "`nbf` and `iat`"),
    ("JW-09", "subjects that are none, and of other trust domains"),
    ("JW-11", "other serialisations"),
    ("JW-12", "large and deep tokens"),
    ("JW-13", "members that occur twice"),
    ("JW-14", "base64 in other spellings"),
    ("JW-15", "odd signatures"),
    ("JW-16", "all nine algorithms"),
    ("JW-17", "keys rotated out"),
    ("JW-19", "no keys"),
    ("JW-20", "certificate and token of different workloads, or one of them missing"),
    ("JW-21", "broken tokens where others would do without"),
    ("JW-22", "the same token again"),
    ("JW-23", "keys of one kind of SVID used for the other"),
    ("JW-24", "whom a token of ours is for"),
    ("JW-26", "many requests for one token, its end, a clock that jumps"),
    ("F-01", "no agent at the start"),
    ("F-02", "agent killed"),
    ("F-03", "agent down past expiry"),
    ("F-04", "broken streams"),
    ("F-05", "PermissionDenied"),
    ("F-06", "answers that a retry does not mend"),
    ("F-07", "broken messages"),
    ("F-08", "a federated bundle goes"),
    ("F-09", "rotations under load"),
    ("F-10", "pushes in a row"),
    ("F-11", "clock jumps"),
    ("F-12", "broken configuration files"),
    ("F-13", "access log cannot be written"),
    ("F-14", "descriptor exhaustion"),
    ("F-15", "memory limit"),
    ("F-16", "SIGTERM"),
    ("F-17", "SIGKILL"),
    ("F-18", "a panic in one connection"),
    ("F-19", "a blocked worker"),
    ("F-20", "name resolution fails"),
    ("F-21", "upstreams that fail in every way"),
    ("F-22", "pooled connections that close"),
    ("F-23", "retries"),
    ("F-24", "all upstreams down"),
    ("F-25", "bad networks"),
    ("F-26", "the application restarts"),
    ("F-27", "callers vanish"),
    ("F-28", "half-close of L4"),
    ("F-29", "heavy scraping"),
    ("F-30", "two processes at an upgrade"),
    ("F-31", "rotations and reloads under mixed load"),
    ("F-32", "tokens cannot be minted"),
    ("F-33", "a rule goes between decision and connection"),
];

/// Rows without a test here, and why.
const EXCEPTIONS: &[(&str, &str)] = &[
    ("H2-14", "needs h2spec; run by hand through the proxy, in the clear and strict (`-S`): 147 of 147"),
    ("F-11", "needs a changed clock: chaos run"),
    ("F-15", "needs a control group: chaos run"),
    ("F-17", "needs a process of its own: chaos run"),
    ("F-19", "nothing in a worker blocks; chaos run"),
    ("F-25", "needs network emulation: chaos run"),
    ("F-29", "chaos run"),
    ("F-30", "chaos run"),
];

/// The ids in a test's name: `sm_01_sm_02_…`, `sm_01_02_…` and `pn13_and_pn22_…` name two each.
fn ids(name: &str) -> Vec<String> {
    const GROUPS: [&str; 8] = ["pn", "hd", "sm", "h2", "ds", "tl", "jw", "f"];
    let mut found = Vec::new();
    let mut group = None;
    for word in name.split('_') {
        let (letters, digits) =
            word.split_at(word.len() - word.bytes().rev().take_while(u8::is_ascii_digit).count().min(2));
        match (letters, digits.len()) {
            (_, _) if GROUPS.contains(&word) => group = Some(word),
            (letters, 2) if GROUPS.contains(&letters) => {
                group = Some(letters);
                found.push(format!("{}-{digits}", letters.to_uppercase()));
            }
            ("", 2) => found.extend(group.map(|group| format!("{}-{digits}", group.to_uppercase()))),
            _ => group = None,
        }
    }
    found
}

/// Row → names of tests, as `file: name`.
fn tests() -> BTreeMap<String, Vec<(String, String)>> {
    let mut found: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for source in sources(&[".rs"]) {
        let lines: Vec<&str> = source.text.lines().map(str::trim).collect();
        for (index, line) in lines.iter().enumerate() {
            let Some((_, rest)) = line.split_once("fn ").filter(|(before, _)| matches!(*before, "" | "async ")) else {
                continue;
            };
            let name = rest.split('(').next().unwrap_or_default();
            // Tests have an attribute in one of the lines above; helpers do not.
            let is_test = lines[index.saturating_sub(3)..index]
                .iter()
                .any(|line| line.starts_with("#[") && line.contains("test"));
            if is_test {
                for id in ids(name) {
                    found.entry(id).or_default().push((source.path.clone(), name.to_owned()));
                }
            }
        }
    }
    found
}

#[test]
fn reads_ids_out_of_names() {
    for (name, expected) in [
        ("sm_01_02_08_finds_the_first", &["SM-01", "SM-02", "SM-08"][..]),
        ("pn13_and_pn22_prefixes", &["PN-13", "PN-22"]),
        ("x_22_tl_04_refuses", &["TL-04"]),
        ("f_02_f_04_an_agent", &["F-02", "F-04"]),
        ("h2_08_frames_of_http_2_in_3_rounds", &["H2-08"]),
        ("rfc_9440_client_cert", &[]),
        ("http_1_0_is_answered", &[]),
        ("c_1_tl_09_ids", &["TL-09"]),
    ] {
        assert_eq!(ids(name), expected, "{name}");
    }
}

#[test]
fn every_row_has_a_test_or_a_reason() {
    let tests = tests();
    let mut wrong = Vec::new();
    for (row, what) in ROWS {
        let reason = EXCEPTIONS.iter().any(|(other, _)| other == row);
        match (tests.contains_key(*row), reason) {
            (false, false) => wrong.push(format!("{row} ({what}) has no test")),
            (true, true) => wrong.push(format!("{row} has a test: take it off the exceptions")),
            _ => {}
        }
    }
    for id in tests.keys().chain(&EXCEPTIONS.iter().map(|(row, _)| (*row).to_owned()).collect::<Vec<_>>()) {
        if !ROWS.iter().any(|(row, _)| row == id) {
            wrong.push(format!("{id} is no row"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_page_of_security_tests_is_current() {
    let tests = tests();
    let mut page = String::from(
        "# Attacks and faults, and their tests\n\nMade by `tests/it/threats.rs`; a test compares. Each row of the catalogue of attacks and \
         faults that concerns the data path is held by the tests that have its id in their names. At the wire they also assert that \
         nothing reached the application, that there is one record with a reason, that no credential is in any output, and that the \
         next request is served.\n\n| row | about | tests |\n|---|---|---|\n",
    );
    for (row, what) in ROWS {
        let exception = EXCEPTIONS.iter().find(|(other, _)| other == row).map(|(_, why)| format!("none here: {why}"));
        let names = || {
            let files = tests.get(*row).into_iter().flatten();
            files.map(|(path, name)| format!("`{name}` ({path})")).collect::<Vec<_>>().join("<br>")
        };
        let _ = writeln!(page, "| {row} | {what} | {} |", exception.unwrap_or_else(names));
    }
    let path = root().join("docs/security-tests.md");
    if fs::read_to_string(&path).unwrap_or_default() != page {
        fs::write(&path, page).unwrap();
        panic!("docs/security-tests.md was not current and has been written anew: look at the change and commit it");
    }
}
