use super::*;
use proptest::prelude::*;

/// All pieces, and whether the body has ended; of bytes that come `at_once` at a time.
fn read(bytes: &[u8], at_once: usize) -> Result<(Vec<u8>, Option<HeaderMap>, bool, usize), Malformed> {
    let (mut chunks, mut unread) = (Chunks::default(), BytesMut::new());
    let (mut data, mut trailers) = (Vec::new(), None);
    for part in bytes.chunks(at_once) {
        unread.extend_from_slice(part);
        while let Some(piece) = chunks.next(&mut unread)? {
            match piece {
                Piece::Data(bytes) => data.extend_from_slice(&bytes),
                Piece::Trailers(fields) => trailers = Some(fields),
            }
        }
    }
    Ok((data, trailers, chunks.has_ended(), unread.len()))
}

#[test]
fn chunks_are_read_whatever_pieces_they_come_in() {
    for (bytes, body, rest) in [
        ("0\r\n\r\n", "", 0),
        ("5\r\nhello\r\n0\r\n\r\n", "hello", 0),
        ("5;a=b\r\nhello\r\n000A ;c\r\n, world 12\r\n0;last\r\n\r\nGET /", "hello, world 12", 5),
        ("1;a=\"\r\nX\r\n0\r\n\r\nGET", "X", 3),
    ] {
        for at_once in [1, 2, 3, 7, 1000] {
            let (data, trailers, has_ended, left) = read(bytes.as_bytes(), at_once).unwrap();
            assert_eq!((data.as_slice(), has_ended, left), (body.as_bytes(), true, rest), "{bytes:?} by {at_once}");
            assert!(trailers.is_none());
        }
    }
}

#[test]
fn trailers_end_a_body() {
    let (data, trailers, has_ended, left) = read(b"1\r\nx\r\n0\r\ngrpc-status: 0\r\nB:  c \r\n\r\nrest", 1000).unwrap();
    let trailers = trailers.unwrap();
    assert_eq!((data.as_slice(), has_ended, left), (b"x".as_slice(), true, 4));
    assert_eq!((&trailers["grpc-status"], &trailers["b"]), (&"0".parse().unwrap(), &"c".parse().unwrap()));
}

#[test]
fn the_end_is_known_with_the_last_data_where_it_has_come() {
    let (mut chunks, mut unread) = (Chunks::default(), BytesMut::from("1\r\nx\r\n0\r\n\r\n"));
    assert_eq!(chunks.next(&mut unread).unwrap(), Some(Piece::Data(Bytes::from("x"))));
    assert!(chunks.has_ended());
}

#[test]
fn sm_10_sm_12_sm_13_what_has_no_clear_end_is_refused() {
    for bytes in [
        "\r\n",
        ";a\r\n",
        " 5\r\n",
        "5 x\r\n",
        "-1\r\n",
        "+5\r\n",
        "0x5\r\n",
        "5\n",
        "5;a\n",
        "5\r;\r\n",
        "5;\0\r\n",
        "10000000000000000\r\n",
        "00000000000000001\r\n",
        "3\r\nabcd\r\n",
        "3\r\nabc0\r\n",
        "3\r\nabc\n",
        "3\r\nabc\r\r\n",
        "0\r\nbad name: x\r\n\r\n",
        "0\r\nno colon\r\n\r\n",
        "0\r\na: b\n\r\n",
        "0\r\na: b\r\n\n",
        "g\r\n",
    ] {
        for at_once in [1, 1000] {
            assert!(read(bytes.as_bytes(), at_once).is_err(), "{bytes:?}");
        }
    }
}

#[test]
fn sm_10_lines_and_trailers_have_an_end() {
    let long = format!("5;{}", "a".repeat(LINE_BYTES_MAX));
    assert!(matches!(read(long.as_bytes(), 1), Err(Malformed::LongChunkLine)));
    let long = format!("0\r\nx: {}", "a".repeat(TRAILER_BYTES_MAX));
    assert!(matches!(read(long.as_bytes(), 1000), Err(Malformed::LongTrailers)));
    let many = format!("0\r\n{}\r\n", "x: y\r\n".repeat(fields::FIELDS_MAX + 1));
    assert!(read(many.as_bytes(), 1000).is_err());
}

#[test]
fn sm_10_limits_of_lines_and_trailers_are_exact() {
    let line = |bytes: usize| format!("1;{}", "a".repeat(bytes - 2));
    // The last byte may be the line feed.
    let whole = format!("{}\r\nx", line(LINE_BYTES_MAX - 2));
    assert_eq!(read(whole.as_bytes(), usize::MAX).unwrap().0, b"x");
    assert!(matches!(read(line(LINE_BYTES_MAX - 1).as_bytes(), usize::MAX), Ok((_, None, false, _))));
    assert!(matches!(read(line(LINE_BYTES_MAX).as_bytes(), usize::MAX), Err(Malformed::LongChunkLine)));
    let whole = format!("{}\r\nx", line(LINE_BYTES_MAX - 1));
    assert!(matches!(read(whole.as_bytes(), usize::MAX), Err(Malformed::LongChunkLine)));

    let trailers = |bytes: usize| format!("0\r\nx: {}", "a".repeat(bytes - 3));
    assert!(matches!(read(trailers(TRAILER_BYTES_MAX - 1).as_bytes(), usize::MAX), Ok((_, None, false, _))));
    assert!(matches!(read(trailers(TRAILER_BYTES_MAX).as_bytes(), usize::MAX), Err(Malformed::LongTrailers)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn pieces_make_no_difference(bytes in "(([0-9a-fA-F;]|\r|\n|\r\n|x: y){0,5}(0\r\n\r\n|2\r\nab\r\n|1;x\r\n.\r\n)?){0,6}", at_once in 1_usize..9) {
        let (whole, parts) = (read(bytes.as_bytes(), usize::MAX), read(bytes.as_bytes(), at_once));
        match (whole, parts) {
            (Ok(whole), Ok(parts)) => prop_assert_eq!(whole, parts),
            (Err(_), Err(_)) => {}
            (whole, parts) => prop_assert!(false, "{:?}, {:?}", whole, parts),
        }
    }
}
