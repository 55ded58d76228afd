//! No application reads a path that was allowed as one that the rule does not allow (THREATS PN-01 to PN-10).
//!
//! Applications are modelled as sequences of what they do to a path, in any order: decode it (with `%2F` as a separator or
//! as data), strip parameters, merge slashes, remove dots.

use super::tokens::spell;
use http::Method;
use postern::authz::{Asked, ConnectionFacts, Principal, RequestFacts, RuleSet};
use postern::http::normalize::read_path;
use postern_config::authz::{Principal as Who, Rule, Rules};
use postern_config::{PathPattern, Place};
use std::sync::LazyLock;

const VOCABULARY: &[&str] = &[
    "/public",
    "/admin",
    "/..",
    "/.",
    "//",
    "%2f",
    "%2F",
    "%2e",
    "%2E%2e",
    ";",
    "%3b",
    ";x=1",
    "%25",
    "%252e",
    "%61",
    "/x",
    "%41",
    "/../admin",
    "/..;/",
    "%5c",
    "\\",
    "%00",
    "é",
    "%c3%a9",
    "%c0%ae",
    "/%2e%2e/",
    "%",
    "%7",
    "/public/",
    "%20",
    "?",
    "#",
];

static RULES: LazyLock<RuleSet> = LazyLock::new(|| {
    let paths = vec![PathPattern::parse("/public/**").expect("a pattern")];
    let public = Rule { paths, ..Rule::about("public".to_owned(), Who::Anonymous, Place::command_line()) };
    RuleSet::compile(&Rules { allow: vec![public], ..Rules::default() })
});

pub(super) fn check(bytes: &[u8]) {
    let Some((lax, rest)) = bytes.split_first() else { return };
    let Ok(path) = String::from_utf8(spell(rest, VOCABULARY)) else { return };
    let Ok(readings) = read_path(&path, lax & 1 == 1) else { return };
    assert_eq!(readings.raw(), path, "what goes on is what came");
    for reading in readings.iter().skip(1) {
        assert!(reading.starts_with('/'), "{reading:?} of {path:?}");
        let dots = reading.split('/').any(|segment| segment == "." || segment == "..");
        assert!(!dots, "{reading:?} of {path:?} has dots");
    }
    let copy = readings.clone().into_owned();
    assert_eq!(copy, readings);
    let facts = RequestFacts {
        method: &Method::GET,
        host: "app",
        readings: &readings,
        headers: None,
        query: None,
        token: None,
        caller: None,
    };
    let asked = Asked {
        principal: Principal::Anonymous,
        source: None,
        port: None,
        connection: ConnectionFacts::default(),
        now: 0,
        request: Some(facts),
    };
    if !RULES.decide(&asked).is_allowed() {
        return;
    }
    for steps in ORDERS.iter() {
        let seen = steps.iter().fold(path.clone().into_bytes(), |path, step| step(&path));
        // Whoever opens a file removes what dots are left.
        let opened = without_dots(&seen);
        for view in [seen, opened] {
            let within = view == b"/public" || view.starts_with(b"/public/");
            assert!(within, "{path:?} is allowed, and an application reads {:?}", String::from_utf8_lossy(&view));
        }
    }
}

type Step = fn(&[u8]) -> Vec<u8>;

/// Every order of every choice of steps.
static ORDERS: LazyLock<Vec<Vec<Step>>> = LazyLock::new(|| {
    let mut orders: Vec<Vec<Step>> = Vec::new();
    for decode in [decoded as Step, decoded_but_slashes] {
        let steps = [decode, without_parameters, with_slashes_merged, without_dots];
        extend(&mut orders, &steps, &mut Vec::new());
    }
    orders
});

fn extend(orders: &mut Vec<Vec<Step>>, steps: &[Step; 4], chosen: &mut Vec<usize>) {
    orders.push(chosen.iter().map(|index| steps[*index]).collect());
    for index in 0..steps.len() {
        if !chosen.contains(&index) {
            chosen.push(index);
            extend(orders, steps, chosen);
            chosen.pop();
        }
    }
}

fn decoded(path: &[u8]) -> Vec<u8> {
    decode(path, true)
}

fn decoded_but_slashes(path: &[u8]) -> Vec<u8> {
    decode(path, false)
}

/// Delimiters that were encoded stay encoded: no application takes them for what they are not.
fn decode(path: &[u8], slashes: bool) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((first, behind)) = rest.split_first() {
        let code = match rest {
            [b'%', high, low, ..] => digit(*high).zip(digit(*low)).map(|(high, low)| high << 4 | low),
            _ => None,
        };
        match code {
            Some(b'/') if !slashes => decoded.extend_from_slice(&rest[..3]),
            Some(b'%') => decoded.extend_from_slice(&rest[..3]),
            Some(byte) => decoded.push(byte),
            None => decoded.push(*first),
        }
        rest = if code.is_some() { &rest[3..] } else { behind };
    }
    decoded
}

fn without_parameters(path: &[u8]) -> Vec<u8> {
    let segments: Vec<&[u8]> = path
        .split(|byte| *byte == b'/')
        .map(|segment| segment.split(|byte| *byte == b';').next().unwrap_or_default())
        .collect();
    segments.join(&b'/')
}

fn with_slashes_merged(path: &[u8]) -> Vec<u8> {
    let mut merged = path.to_vec();
    merged.dedup_by(|one, before| *one == b'/' && *before == b'/');
    merged
}

/// RFC 3986 §5.2.4; what leads above the root stays at it.
fn without_dots(path: &[u8]) -> Vec<u8> {
    let mut kept: Vec<&[u8]> = Vec::new();
    let segments: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    let last = segments.len() - 1;
    for (index, segment) in segments.iter().enumerate() {
        match *segment {
            b"." | b".." => {
                if *segment == b".." && kept.len() > 1 {
                    kept.pop();
                }
                if index == last {
                    kept.push(b"");
                }
            }
            other => kept.push(other),
        }
    }
    kept.join(&b'/')
}
