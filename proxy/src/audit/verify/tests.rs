use super::finding::{Finding, TimeFault};
use super::seals::{Judge, Vouched};
use super::{Expected, Report, SecondPlace, verify};
use crate::audit::chain::{Chain, Hash, LogId, Record};
use crate::audit::fixtures::{ID, Signer, body, chain_after, new_log, sealed, text};
use crate::audit::record::{Process, Resumed};
use crate::tls::bundle::sha256;
use crate::tls::tests::certificates::{Draft, Issuer};
use proptest::prelude::*;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

const RECORDS: u64 = 13;

/// One log; another one; and one that is as the first up to its half, and then not.
struct World {
    signer: Signer,
    log: Vec<String>,
    other: Vec<String>,
    fork: Vec<String>,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let signer = Signer::new();
    let (log, other) = (new_log(&signer, 1, RECORDS), new_log(&signer, 2, RECORDS));
    let mut fork = log[..FORK].to_vec();
    fork.extend(sealed(&signer, &mut chain_after(&log[FORK - 1]), RECORDS - FORK as u64, 100));
    World { signer, log, other, fork }
});

const FORK: usize = 6;

fn hash_of(line: &str) -> Hash {
    Record::read(line.as_bytes()).unwrap().hash
}

/// As somebody asks who knows the head, and that these are all files.
fn verified(files: &[Vec<u8>], judge: &Judge) -> Report {
    let head = WORLD.log.last().map(|line| hash_of(line));
    let expected = Expected { head, whole: true, ..Expected::default() };
    verify(files.iter().map(Vec::as_slice).collect(), judge, &expected).unwrap()
}

fn findings(lines: &[String]) -> Vec<Finding> {
    verified(&[text(lines)], &WORLD.signer.judge()).findings
}

#[test]
fn what_was_written_is_intact_in_one_file_or_in_several() {
    let (world, judge) = (&*WORLD, WORLD.signer.judge());
    for at in 0..=world.log.len() {
        let (first, second) = world.log.split_at(at);
        let report = verified(&[text(first), text(second)], &judge);
        assert_eq!(report.findings, [], "split at {at}");
        assert_eq!((report.records, report.first, report.last), (RECORDS, 1, RECORDS));
        assert_eq!((report.unsealed(), report.sealed.seals, report.after_head), (0, 3, Some(0)));
        assert_eq!(report.sealed.last_vouched, Some(Vouched::ByTrusted));
    }
}

#[test]
fn says_how_much_of_the_tail_is_unsealed() {
    let mut lines = text(&WORLD.log);
    let mut chain = chain_after(&WORLD.log[RECORDS as usize - 1]);
    (0..4).for_each(|number| chain.append(&body(number), &mut lines));
    let report = verified(&[lines], &WORLD.signer.judge());
    assert_eq!((report.findings.len(), report.unsealed(), report.after_head), (0, 4, Some(4)));
}

#[test]
fn names_the_edit_and_nothing_else() {
    let edited = |edit: &dyn Fn(&mut Vec<String>)| {
        let mut lines = WORLD.log.clone();
        edit(&mut lines);
        let named = |finding: &Finding| {
            let debug = format!("{finding:?}");
            let kind = debug.split([' ', '{']).next().unwrap().to_owned();
            (kind, finding.at().map_or(0, |at| at.line), finding.number().unwrap_or_default())
        };
        findings(&lines).iter().map(named).collect::<Vec<_>>()
    };
    let is = |kind: &str, line: u64, number: u64| (kind.to_owned(), line, number);
    type Case<'a> = (&'a str, &'a dyn Fn(&mut Vec<String>), Vec<(String, u64, u64)>);
    let cases: [Case<'_>; 13] = [
        ("nothing", &|_| {}, vec![]),
        ("a letter", &|lines| lines[3] = lines[3].replace("/orders/7", "/orders/8"), vec![is("Changed", 4, 4)]),
        ("a number", &|lines| lines[3] = lines[3].replacen("\"seq\":4", "\"seq\":5", 1), vec![is("Changed", 4, 4)]),
        (
            "the last",
            &|lines| lines[12] = lines[12].replace("interval", "rotation"),
            vec![is("Changed", 13, 13), is("HeadMissing", 0, 0)],
        ),
        ("removed", &|lines| drop(lines.remove(6)), vec![is("Removed", 7, 7)]),
        ("several removed", &|lines| drop(lines.drain(5..8)), vec![is("Removed", 6, 6)]),
        ("the first removed", &|lines| drop(lines.remove(0)), vec![is("Removed", 1, 1)]),
        ("cut", &|lines| lines.truncate(11), vec![is("HeadMissing", 0, 0)]),
        ("copied", &|lines| lines.insert(8, lines[2].clone()), vec![is("Inserted", 9, 3)]),
        ("no record", &|lines| lines.insert(8, "{}".to_owned()), vec![is("Inserted", 9, 0)]),
        ("neighbours", &|lines| lines.swap(6, 7), vec![is("Moved", 7, 8)]),
        ("far apart", &|lines| lines.swap(2, 8), vec![is("Moved", 3, 9), is("Moved", 9, 3)]),
        ("moved", &|lines| lines.swap(11, 12), vec![is("Moved", 12, 13), is("HeadMissing", 0, 0)]),
    ];
    for (name, edit, expected) in cases {
        assert_eq!(edited(edit), expected, "{name}");
    }
}

/// Who has no key can make the chain agree with itself again, and not the seals.
#[test]
fn a_chain_that_was_written_anew_does_not_fit_its_seals() {
    let mut chain = Chain::begin(LogId([1; 16]));
    let mut lines = Vec::new();
    for (index, line) in WORLD.log.iter().enumerate() {
        let record = Record::read(line.as_bytes()).unwrap();
        let from = line.find("\"kind\"").unwrap();
        let to = line.rfind(",\"hash\"").unwrap();
        let body = if index == 2 { line[from..to].replace("allowed", "refused") } else { line[from..to].to_owned() };
        assert_eq!(record.number, chain.next());
        chain.append(body.as_bytes(), &mut lines);
    }
    let found = verified(&[lines], &WORLD.signer.judge()).findings;
    let seals: Vec<_> = found
        .iter()
        .filter_map(|finding| match finding {
            Finding::Seal { number, since, why, .. } if why.contains("signature") => Some((*since, *number)),
            _ => None,
        })
        .collect();
    assert_eq!(seals, [(1, 5), (1, 10), (1, 13)], "{found:?}");
}

#[test]
fn a_record_that_was_made_up_is_named() {
    // It agrees with itself and with what is before it.
    let mut forged = Vec::new();
    chain_after(&WORLD.log[6]).append(&body(999), &mut forged);
    let forged = String::from_utf8(forged).unwrap().trim_end().to_owned();
    let mut inserted = WORLD.log.clone();
    inserted.insert(7, forged.clone());
    assert!(matches!(findings(&inserted)[..], [Finding::Inserted { at, number: Some(8) }] if at.line == 8));
    let mut replaced = WORLD.log.clone();
    replaced[7] = forged;
    assert!(matches!(findings(&replaced)[..], [Finding::Rewritten { at, number: 8 }] if at.line == 8));
}

#[test]
fn seals_of_others_are_none() {
    let found = |signer: &Signer, judge: &Judge| {
        let log = new_log(signer, 1, 5);
        let report = verify(vec![text(&log).as_slice()], judge, &Expected::default()).unwrap();
        let why = report.findings.first().map(|finding| match finding {
            Finding::Seal { why, .. } => why.clone(),
            other => panic!("{other:?}"),
        });
        (why.unwrap_or_default(), report.sealed.last_vouched)
    };
    let signer = Signer::new();
    assert_eq!(found(&signer, &signer.judge()), (String::new(), Some(Vouched::ByTrusted)));
    // The archive that the seal names is not here, and nobody said whom to believe.
    let nobody = Judge { trusted: None, ..signer.judge() };
    assert_eq!(found(&signer, &nobody), (String::new(), Some(Vouched::ByNobody)));
    let stranger = Signer::of(signer.authority.clone(), "spiffe://example.org/stranger");
    let expecting = Judge { id: Some(postern_config::SpiffePattern::parse(ID).unwrap()), ..signer.judge() };
    assert_eq!(found(&signer, &expecting).1, Some(Vouched::ByTrusted));
    assert!(found(&stranger, &expecting).0.contains("who is not spiffe://example.org/orders"));
    let impostor = Signer::of(Issuer::root(Draft::authority("CA1", "spiffe://example.org")), ID);
    assert_eq!(found(&impostor, &signer.judge()).1, Some(Vouched::ByNobody), "another authority of the same name");
}

#[test]
fn half_a_line_that_the_next_process_names_is_no_edit() {
    let torn = &WORLD.log[4].as_bytes()[..100];
    let process = Process { boot: 1, policy: "d", denials: true, allows_percent: 100 };
    let digest = sha256(torn);
    let resumed = Resumed { was_closed: false, torn: Some((&digest, torn.len())), verified: None };
    let mut body = Vec::new();
    process.write_resumed(&resumed, &mut body, SystemTime::now());
    let mut log = text(&WORLD.log[..4]);
    log.extend_from_slice(torn);
    log.push(b'\n');
    chain_after(&WORLD.log[3]).append(&body, &mut log);
    let report = verify(vec![log.as_slice()], &WORLD.signer.judge(), &Expected::default()).unwrap();
    assert_eq!((report.findings.len(), report.torn.len(), report.resumed, report.last), (0, 1, 1, 5));
    // Another half line is not the one that it names.
    let mut edited = log.clone();
    edited[text(&WORLD.log[..4]).len() + 30] ^= 1;
    let report = verify(vec![edited.as_slice()], &WORLD.signer.judge(), &Expected::default()).unwrap();
    assert!(
        matches!(report.findings[..], [Finding::Inserted { at, .. }, Finding::HalfLineRemoved { .. }] if at.line == 5),
        "{:?}",
        report.findings
    );
}

#[test]
fn half_a_line_that_a_record_names_has_to_be_there() {
    let process = Process { boot: 1, policy: "d", denials: true, allows_percent: 100 };
    let digest = sha256(b"half a li");
    let resumed = Resumed { was_closed: false, torn: Some((&digest, 9)), verified: None };
    let (mut body, mut log) = (Vec::new(), text(&WORLD.log[..4]));
    process.write_resumed(&resumed, &mut body, SystemTime::now());
    chain_after(&WORLD.log[3]).append(&body, &mut log);
    let report = verify(vec![log.as_slice()], &WORLD.signer.judge(), &Expected::default()).unwrap();
    assert!(
        matches!(report.findings[..], [Finding::HalfLineRemoved { at, number: 5 }] if at.line == 5),
        "{:?}",
        report.findings
    );
}

/// Somebody looks while it is being written.
#[test]
fn half_a_line_at_the_end_of_a_live_log_is_no_edit() {
    let whole = text(&WORLD.log[..4]);
    let next = WORLD.log[4].as_bytes();
    let found = |end: &[u8]| {
        let log = [&whole[..], end].concat();
        let report = verify(vec![log.as_slice()], &WORLD.signer.judge(), &Expected::default()).unwrap();
        (report.findings.len(), report.unfinished.is_some())
    };
    for bytes in [1, 10, 100, next.len() - 1] {
        assert_eq!(found(&next[..bytes]), (0, true), "{bytes} bytes");
    }
    assert_eq!(found(next), (0, false), "only its end is missing");
    assert_eq!(found(&[next, b"x"].concat()), (1, false), "its end was changed");
    assert_eq!(found(&WORLD.log[5].as_bytes()[..100]), (1, false), "half of another one");
}

#[test]
fn the_first_record_is_behind_none() {
    let mut lines = Vec::new();
    let first = WORLD.log[0].replacen(&"0".repeat(64), &"1".repeat(64), 1);
    let (from, to) = (first.find("\"kind\"").unwrap(), first.rfind(",\"hash\"").unwrap());
    // As from `Chain::append`, with another hash before it.
    let mut context = b"postern-audit-record-v1\0".to_vec();
    context.extend_from_slice(&first.as_bytes()[..to]);
    let hash = crate::tls::certificate::hex(&sha256(&context));
    assert!(from < to);
    lines.extend_from_slice(format!("{},\"hash\":\"{hash}\"}}\n", &first[..to]).as_bytes());
    let report = verify(vec![lines.as_slice()], &WORLD.signer.judge(), &Expected::default()).unwrap();
    assert!(matches!(report.findings[..], [Finding::NotFirst { .. }]), "{:?}", report.findings);
}

/// Who has the key chooses what a seal says of its time.
#[test]
fn a_seal_is_of_the_time_of_its_records() {
    let at = |seconds: i64| {
        let now = SystemTime::now();
        let distance = Duration::from_secs(seconds.unsigned_abs());
        if seconds < 0 { now - distance } else { now + distance }
    };
    let found = |steps: &[(&str, i64)]| {
        let (mut chain, mut lines, mut body) = (Chain::begin(LogId([1; 16])), Vec::new(), Vec::new());
        for (kind, seconds) in steps {
            match *kind {
                "seal" => WORLD.signer.seal_at(&mut chain, &mut lines, at(*seconds)),
                "clock" => {
                    crate::audit::record::write_clock(at(0), &mut body, at(*seconds));
                    chain.append(&body, &mut lines);
                }
                kind => {
                    crate::audit::record::write_missing(kind, 1, at(0), &mut body, at(*seconds));
                    chain.append(&body, &mut lines);
                }
            }
        }
        let report = verify(vec![lines.as_slice()], &WORLD.signer.judge(), &Expected::default()).unwrap();
        let fault = |finding: &Finding| match finding {
            Finding::SealTime { number, fault, .. } => (*number, *fault),
            other => panic!("{other:?}"),
        };
        report.findings.iter().map(fault).collect::<Vec<_>>()
    };
    assert_eq!(found(&[("gap", -30), ("seal", -30), ("gap", -20), ("seal", -10)]), []);
    assert_eq!(found(&[("gap", -30), ("gap", -33), ("seal", -35), ("gap", -35)]), [], "threads are in no order");
    assert_eq!(found(&[("gap", -10), ("seal", -40)]), [(2, TimeFault::BeforeItsRecords)]);
    assert_eq!(found(&[("gap", -40), ("seal", -10), ("gap", -30), ("seal", -20)]), [(2, TimeFault::AfterTheNext)]);
    assert_eq!(found(&[("gap", -40), ("seal", 900)]), [(2, TimeFault::Future)]);
    assert_eq!(found(&[("gap", -10), ("clock", -40), ("gap", -39), ("seal", -38)]), [], "the writer noticed");
    let again = [("gap", -9), ("seal", -5), ("resumed", -60), ("clock", -59), ("gap", -58), ("seal", -57)];
    assert_eq!(found(&again), [], "meanwhile");
    assert_eq!(found(&[&again[..3], &again[4..]].concat())[0], (2, TimeFault::AfterTheNext));
    let report = verify(vec![text(&WORLD.log).as_slice()], &WORLD.signer.judge(), &Expected::default()).unwrap();
    assert!(report.sealed.last_time.is_some_and(|time| time <= SystemTime::now()));
}

/// A writer whose target was replaced while it wrote a line.
#[test]
fn a_line_that_is_whole_in_the_next_file_is_no_edit() {
    let mut first = text(&WORLD.log[..4]);
    first.extend_from_slice(&WORLD.log[4].as_bytes()[..50]);
    let report = verified(&[first, text(&WORLD.log[4..])], &WORLD.signer.judge());
    assert_eq!((report.findings.len(), report.torn.len(), report.last), (0, 1, RECORDS));
}

#[test]
fn the_second_place_shows_a_log_that_its_signer_wrote_anew() {
    // Whoever has the key makes everything fit again: `fork` is as good as `log`.
    let alone = verify(vec![text(&WORLD.fork).as_slice()], &WORLD.signer.judge(), &Expected::default()).unwrap();
    assert_eq!(alone.findings, []);
    let seals = |lines: &[String]| {
        let mut place = SecondPlace::default();
        let records = lines.iter().map(|line| Record::read(line.as_bytes()).unwrap());
        records.filter(|record| record.kind == "seal").for_each(|it| place.add(it.log, it.number, it.hash));
        place
    };
    let expected = Expected { seals: Some(seals(&WORLD.log)), ..Expected::default() };
    let compared = verify(vec![text(&WORLD.fork).as_slice()], &WORLD.signer.judge(), &expected).unwrap();
    let numbers: Vec<_> = compared.findings.iter().filter_map(Finding::number).collect();
    assert_eq!(numbers, [10, 13], "5 is in what both have: {:?}", compared.findings);
    let cut = verify(vec![text(&WORLD.log[..11]).as_slice()], &WORLD.signer.judge(), &expected).unwrap();
    assert_eq!(cut.findings, [Finding::Removed { first: 12, last: 13, before: None }]);
    // What is added to it later takes nothing back: who has the key and wrote the log anew sends the new seals after it.
    let both =
        Expected { seals: Some(seals(&[WORLD.log.clone(), WORLD.fork.clone()].concat())), ..Expected::default() };
    for log in [&WORLD.log, &WORLD.fork] {
        let found = verify(vec![text(log).as_slice()], &WORLD.signer.judge(), &both).unwrap().findings;
        assert!(found.contains(&Finding::SealedTwice { number: 13 }), "{found:?}");
    }
    // Another log, which nobody sealed.
    let (mut chain, mut lines) = (Chain::begin(LogId([9; 16])), Vec::new());
    chain.append(&body(1), &mut lines);
    let found = verify(vec![lines.as_slice()], &WORLD.signer.judge(), &expected).unwrap().findings;
    assert_eq!(found, [Finding::UnknownElsewhere { log: LogId([9; 16]) }]);
}

#[derive(Clone, Debug)]
enum Edit {
    Flip {
        at: prop::sample::Index,
        bit: u8,
    },
    Delete {
        from: prop::sample::Index,
        count: usize,
    },
    Move {
        from: prop::sample::Index,
        to: prop::sample::Index,
    },
    /// Two lines become one, or one two.
    Join(prop::sample::Index),
    Break(prop::sample::Index),
    /// A record that agrees with itself and with what is before it.
    Forge(prop::sample::Index),
    /// Everything from one record on is written anew, by who has no key.
    Rechain(prop::sample::Index),
    Cut(prop::sample::Index),
    Insert {
        from: prop::sample::Index,
        to: prop::sample::Index,
    },
    Swap(prop::sample::Index, prop::sample::Index),
    Splice(prop::sample::Index),
    Fork(prop::sample::Index),
}

fn edits() -> impl Strategy<Value = Edit> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        4 => (index(), 0..8_u8).prop_map(|(at, bit)| Edit::Flip { at, bit }),
        1 => (index(), 1..4_usize).prop_map(|(from, count)| Edit::Delete { from, count }),
        1 => (index(), index()).prop_map(|(from, to)| Edit::Move { from, to }),
        1 => index().prop_map(Edit::Join),
        1 => index().prop_map(Edit::Break),
        1 => index().prop_map(Edit::Forge),
        1 => index().prop_map(Edit::Rechain),
        1 => index().prop_map(Edit::Cut),
        1 => (index(), index()).prop_map(|(from, to)| Edit::Insert { from, to }),
        1 => (index(), index()).prop_map(|(one, other)| Edit::Swap(one, other)),
        1 => index().prop_map(Edit::Splice),
        1 => index().prop_map(Edit::Fork),
    ]
}

/// The edited log, and what a finding may say of it: a line, or a number.
fn apply(edit: &Edit) -> Option<(Vec<u8>, Vec<u64>, Vec<u64>)> {
    let mut lines = WORLD.log.clone();
    let count = lines.len();
    let (places, numbers) = match edit {
        Edit::Flip { at, bit } => {
            let mut bytes = text(&lines);
            let at = at.index(bytes.len());
            let line = bytes[..at].iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
            bytes[at] ^= 1 << bit;
            return Some((bytes, vec![line], vec![]));
        }
        Edit::Delete { from, count: removed } => {
            let from = from.index(count);
            let to = (from + removed).min(count);
            lines.drain(from..to);
            (vec![], (from as u64 + 1..=to as u64).collect())
        }
        Edit::Move { from, to } => {
            let (from, to) = (from.index(count), to.index(count));
            if from == to {
                return None;
            }
            let line = lines.remove(from);
            lines.insert(to, line);
            // Of neighbours, nobody can say which one was moved.
            (vec![to as u64 + 1], vec![from as u64 + 1, to as u64 + 1])
        }
        Edit::Join(at) => {
            let at = at.index(count - 1);
            let second = lines.remove(at + 1);
            lines[at].push_str(&second);
            (vec![at as u64 + 1], vec![at as u64 + 1, at as u64 + 2])
        }
        Edit::Break(at) => {
            let at = at.index(count);
            let middle = lines[at].len() / 2;
            let half = lines[at].split_off(middle);
            lines.insert(at + 1, half);
            (vec![at as u64 + 1, at as u64 + 2], vec![at as u64 + 1])
        }
        Edit::Forge(at) => {
            let at = 1 + at.index(count - 2);
            let mut forged = Vec::new();
            chain_after(&lines[at - 1]).append(&body(999), &mut forged);
            lines.insert(at, String::from_utf8(forged).unwrap().trim_end().to_owned());
            (vec![at as u64 + 1], vec![at as u64 + 1])
        }
        Edit::Rechain(at) => {
            let at = 1 + at.index(count - 2);
            let mut chain = chain_after(&lines[at - 1]);
            let mut anew = Vec::new();
            for line in &lines[at..] {
                let (from, to) = (line.find("\"kind\"").unwrap(), line.rfind(",\"hash\"").unwrap());
                let edited = line[from..to].replace("allowed", "refused");
                chain.append(edited.as_bytes(), &mut anew);
            }
            lines.truncate(at);
            let first_edited = String::from_utf8(anew).unwrap();
            lines.extend(first_edited.lines().map(str::to_owned));
            if lines == WORLD.log {
                // There was nothing but seals.
                return None;
            }
            // The first seal behind what was edited is of something else.
            let seals: Vec<_> = (at..count).filter(|at| lines[*at].contains("\"kind\":\"seal\"")).collect();
            (vec![], seals.iter().map(|at| *at as u64 + 1).collect())
        }
        Edit::Cut(at) => {
            lines.truncate(1 + at.index(count - 1));
            (vec![], vec![])
        }
        Edit::Insert { from, to } => {
            let (from, to) = (from.index(count), to.index(count + 1));
            lines.insert(to, lines[from].clone());
            (vec![to as u64 + 1], vec![from as u64 + 1])
        }
        Edit::Swap(one, other) => {
            let (one, other) = (one.index(count), other.index(count));
            if one == other {
                return None;
            }
            lines.swap(one, other);
            (vec![], vec![one as u64 + 1, other as u64 + 1])
        }
        Edit::Splice(at) => {
            let at = 1 + at.index(count - 1);
            lines.splice(at.., WORLD.other[at..].iter().cloned());
            (vec![at as u64 + 1], vec![])
        }
        Edit::Fork(at) => {
            let at = FORK + 1 + at.index(count - FORK - 1);
            lines.splice(at.., WORLD.fork[at..].iter().cloned());
            (vec![at as u64], vec![])
        }
    };
    Some((text(&lines), places, numbers))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_single_edit_of_a_sealed_log_is_found_and_named(edit in edits(), split in any::<prop::sample::Index>()) {
        let Some((bytes, places, numbers)) = apply(&edit) else { return Ok(()) };
        // In one file or in two.
        let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
        let split = split.index(lines + 1);
        let ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
        let (first, second) = bytes.split_at(std::iter::once(0).chain(ends).nth(split).unwrap());
        let found = verified(&[first.to_vec(), second.to_vec()], &WORLD.signer.judge()).findings;
        prop_assert!(!found.is_empty(), "{edit:?}");
        let at_end = matches!(edit, Edit::Cut(_)) || numbers.contains(&RECORDS);
        if at_end && found == [Finding::HeadMissing] {
            return Ok(());
        }
        let is_named = |finding: &Finding| {
            let line = finding.at().map(|at| at.line + if at.file == 0 { 0 } else { split as u64 });
            let covers = |number: &u64| match finding {
                Finding::Removed { first, last, .. } => (first..=last).contains(&number),
                other => other.number() == Some(*number),
            };
            line.is_some_and(|line| places.contains(&line)) || numbers.iter().any(covers)
        };
        prop_assert!(found.iter().any(is_named), "{edit:?}: {found:?}");
        // And little else with it.
        let strangers = found.iter().filter(|finding| !is_named(finding)).count();
        prop_assert!(strangers <= 2 || matches!(edit, Edit::Splice(_) | Edit::Fork(_)), "{edit:?}: {found:?}");
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), at in any::<prop::sample::Index>()) {
        let mut log = text(&WORLD.log);
        let at = at.index(log.len());
        log.splice(at..at, bytes);
        verified(&[log], &WORLD.signer.judge());
    }
}
