use super::{Frame, Frames, PREFACE_BYTES, Watch};
use proptest::prelude::*;
use std::time::{Duration, Instant};

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

const PING: u8 = 6;
const SETTINGS: u8 = 4;
const PRIORITY: u8 = 2;
const WINDOW_UPDATE: u8 = 8;

fn watch() -> (Watch, Instant) {
    let now = Instant::now();
    let mut watch = Watch::new(100, PREFACE_BYTES, now);
    assert!(watch.received(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", || now));
    (watch, now)
}

#[test]
fn h2_08_frames_that_carry_nothing_are_bounded_whatever_their_kind() {
    let kinds = [
        frame(PING, 0, 0, &[0; 8]),
        frame(SETTINGS, 0, 0, &[]),
        frame(PRIORITY, 0, 3, &[0; 5]),
        frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
        frame(3, 0, 1, &[0, 0, 0, 8]),
        frame(0xFE, 0, 0, b"unknown"),
        frame(0, 0, 1, &[]),
    ];
    for frame in kinds {
        let (mut watch, now) = watch();
        assert!(watch.received(&frame.repeat(100), || now), "{frame:?}");
        // A second later there are as many again.
        let later = now + Duration::from_secs(1);
        assert!(watch.received(&frame.repeat(100), || later), "{frame:?}");
        assert!(!watch.received(&frame, || later), "{frame:?}");
    }
}

#[test]
fn h2_08_a_peer_that_works_has_all_the_frames_that_it_needs() {
    let (mut watch, now) = watch();
    for stream in 0..1000 {
        let stream = 2 * stream + 1;
        let bytes = [
            frame(1, 0x4, stream, b"head"),
            frame(WINDOW_UPDATE, 0, stream, &[0, 0, 0, 1]),
            frame(0, 0x1, stream, b"body"),
            frame(3, 0, stream, &[0, 0, 0, 8]),
        ];
        assert!(watch.received(&bytes.concat(), || now), "stream {stream}");
    }
    // A download: two updates for each DATA frame.
    for _ in 0..10_000 {
        watch.sent(&frame(0, 0, 1, &[0; 100]), |_| panic!("no reset"));
        assert!(watch.received(&frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]).repeat(2), || now));
    }
    // What is saved up has an end.
    assert!(!watch.received(&frame(PING, 0, 0, &[0; 8]).repeat(1001), || now));
}

#[test]
fn h2_13_the_preface_and_unfinished_heads_count_as_heads() {
    let now = Instant::now();
    let mut watch = Watch::new(100, PREFACE_BYTES, now);
    for bytes in ["PRI * HTTP/2.0\r\n", "\r\nSM\r\n\r\n", "\0\0"] {
        assert!(watch.received(bytes.as_bytes(), || now) && watch.awaits_head(), "{bytes:?}");
    }
    assert!(watch.received(&frame(SETTINGS, 0, 0, &[])[2..], || now) && !watch.awaits_head());
    assert!(watch.received(&frame(1, 0, 1, b"he"), || now) && watch.awaits_head());
    assert!(watch.received(&frame(9, 0, 1, b"a"), || now) && watch.awaits_head());
    assert!(watch.received(&frame(9, 0x4, 1, b"d"), || now) && !watch.awaits_head());
    let (begin, end) = (&frame(0, 0, 1, b"body")[..5], &frame(0, 0, 1, b"body")[5..]);
    assert!(watch.received(begin, || now) && watch.awaits_head());
    assert!(watch.received(end, || now) && !watch.awaits_head());
}

#[test]
fn sees_resets_with_their_code() {
    let (mut watch, _) = watch();
    let mut codes = Vec::new();
    let bytes = [frame(3, 0, 1, &[0, 0, 0, 1]), frame(0, 0, 3, b"x"), frame(3, 0, 3, &[0, 0, 0, 8])].concat();
    for byte in bytes {
        watch.sent(&[byte], |code| codes.push(code));
    }
    assert_eq!(codes, [1, 8]);
}

fn all(bytes: &[&[u8]]) -> Vec<Frame> {
    let mut frames = Frames::default();
    let mut found = Vec::new();
    for part in bytes {
        let mut part = *part;
        while let Some(frame) = frames.next(&mut part) {
            found.push(frame);
        }
        assert!(part.is_empty());
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn finds_the_same_frames_however_they_arrive(
        frames in prop::collection::vec((0_u8..12, any::<u8>(), any::<u32>(), prop::collection::vec(any::<u8>(), 0..40)), 0..12),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let bytes: Vec<u8> = frames.iter().flat_map(|(kind, flags, stream, payload)| frame(*kind, *flags, *stream, payload)).collect();
        let whole = all(&[&bytes]);
        let seen: Vec<_> = whole.iter().map(|frame| (frame.kind, frame.flags, frame.stream, frame.length as usize)).collect();
        let sent: Vec<_> = frames.iter().map(|(kind, flags, stream, payload)| (*kind, *flags, stream & 0x7FFF_FFFF, payload.len())).collect();
        prop_assert_eq!(seen, sent);
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        at.extend([0, bytes.len()]);
        at.sort_unstable();
        let parts: Vec<&[u8]> = at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
        prop_assert_eq!(all(&parts), whole);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let now = Instant::now();
        let mut watch = Watch::new(10, PREFACE_BYTES, now);
        let _ = watch.received(&bytes, || now);
        watch.sent(&bytes, |_| {});
    }
}
