//! Properties of everything that reads bytes from outside: over the committed corpora, and some seconds of random bytes.
//! Coverage-guided runs of the same are in `tests/fuzz`.

use postern_tests::properties::{ALL, Property};
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::test_runner::{Config, TestError, TestRunner};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// All corpora together, so that the repository stays small.
const CORPORA_BYTES_MAX: u64 = 1 << 20;
/// For each property; a debug build does some thousand cases in that time. `POSTERN_PROPERTY_SECONDS` says another time.
const RANDOM_FOR: Duration = Duration::from_secs(2);

fn corpus(property: &Property) -> Vec<(String, Vec<u8>)> {
    let folder = crate::tidy::root().join("tests/fuzz/corpora").join(property.name);
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{} has no corpus at {}: {error}", property.name, folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files.into_iter().map(|path| (path.display().to_string(), fs::read(&path).unwrap())).collect()
}

#[test]
fn hold_for_the_committed_corpora() {
    let mut bytes_total = 0;
    for property in ALL {
        let corpus = corpus(property);
        assert!(!corpus.is_empty(), "{} has an empty corpus", property.name);
        for (file, bytes) in corpus {
            bytes_total += bytes.len() as u64;
            let outcome = catch_unwind(AssertUnwindSafe(|| (property.check)(&bytes)));
            assert!(outcome.is_ok(), "{} does not hold for {file}; what it says is above", property.name);
        }
    }
    assert!(bytes_total < CORPORA_BYTES_MAX, "the corpora have {bytes_total} bytes: minimise them");
}

#[test]
fn hold_for_random_bytes() {
    let seconds = std::env::var("POSTERN_PROPERTY_SECONDS").ok().map(|text| text.parse().expect("a number of seconds"));
    let random_for = seconds.map_or(RANDOM_FOR, Duration::from_secs);
    for property in ALL {
        let seeds: Vec<Vec<u8>> = corpus(property).into_iter().map(|(_, bytes)| bytes).collect();
        let begun = Instant::now();
        while begun.elapsed() < random_for {
            let config = Config { cases: 64, failure_persistence: None, ..Config::default() };
            let outcome = TestRunner::new(config).run(&bytes_like(&seeds), |bytes| {
                (property.check)(&bytes);
                Ok(())
            });
            match outcome {
                Ok(()) => {}
                Err(TestError::Fail(why, bytes)) => panic!("{}: {why}; least bytes: {bytes:02x?}", property.name),
                Err(TestError::Abort(why)) => panic!("{}: {why}", property.name),
            }
        }
    }
}

/// Random ones, and a seed with some bytes changed, cut or doubled.
fn bytes_like(seeds: &[Vec<u8>]) -> impl Strategy<Value = Vec<u8>> + use<> {
    let seed = proptest::sample::select(seeds.to_vec());
    let edits = proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>(), 0_u8..4), 0..6);
    let edited = (seed, edits).prop_map(|(mut bytes, edits)| {
        for (at, byte, kind) in edits {
            let at = at.index(bytes.len() + 1);
            match kind {
                0 if at < bytes.len() => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                2 => bytes.truncate(at),
                _ => bytes.extend_from_within(at..),
            }
            bytes.truncate(16 * 1024);
        }
        bytes
    });
    prop_oneof![proptest::collection::vec(any::<u8>(), 0..64), edited, Just(Vec::new())]
}
