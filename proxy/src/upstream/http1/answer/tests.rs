use super::*;

const HEAD_MAX: usize = 4096;

fn answer_to(method: &Method, text: &str) -> Result<Option<Answer>, Malformed> {
    take(&mut BytesMut::from(text), method, HEAD_MAX)
}

fn answer(text: &str) -> Answer {
    answer_to(&Method::GET, text).unwrap().unwrap()
}

#[test]
fn rfc9112_6_3_the_end_of_a_body_is_told_in_this_order() {
    let get = Method::GET;
    for (method, head, body, keeps) in [
        (&get, "200 OK\r\ncontent-length: 5", "Length(5)", true),
        (&get, "200 OK\r\ntransfer-encoding: Chunked", "Chunks(Chunks { state: Size })", true),
        (&get, "200 OK", "UntilEnd { has_ended: false }", false),
        (&get, "200 OK\r\ncontent-length: 5\r\ncontent-length: 05", "Length(5)", true),
        (&get, "200 OK\r\ncontent-length: 05\r\ncontent-length: 5\r\ncontent-length: 5", "Length(5)", true),
        (&get, "204 No Content\r\ncontent-length: 5", "Length(0)", true),
        (&get, "304 Not Modified\r\ncontent-length: 5", "Length(0)", true),
        (&get, "204 No Content\r\ntransfer-encoding: chunked", "Length(0)", true),
        (&Method::HEAD, "200 OK\r\ncontent-length: 5", "Length(0)", true),
        (&Method::HEAD, "200 OK", "Length(0)", true),
        (&Method::CONNECT, "200 OK\r\ncontent-length: 5", "Length(0)", false),
        (&Method::CONNECT, "405 No\r\ncontent-length: 5", "Length(5)", true),
        (&get, "101 Switching Protocols\r\nupgrade: x", "Length(0)", false),
    ] {
        let found = answer_to(method, &format!("HTTP/1.1 {head}\r\n\r\n")).unwrap().unwrap();
        assert_eq!((format!("{:?}", found.body).as_str(), found.keeps), (body, keeps), "{method} {head}");
        assert!(found.head.headers.get_all(CONTENT_LENGTH).iter().count() <= 1, "{head}");
    }
}

#[test]
fn sm_23_what_frames_its_body_in_two_ways_is_refused() {
    for head in [
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length:\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551616\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, chunked\r\n\r\n",
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx: a\r\n b\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length : 5\r\n\r\n",
        "HTTP/1.1 099 No\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
    ] {
        assert!(answer_to(&Method::GET, head).is_err(), "{head:?}");
    }
}

#[test]
fn rfc9112_9_3_a_connection_lives_on_where_both_sides_say_so() {
    for (head, keeps) in [
        ("HTTP/1.1 200 OK\r\n", true),
        ("HTTP/1.1 200 OK\r\nconnection: x, Close\r\n", false),
        ("HTTP/1.1 200 OK\r\nconnection: keep-alive\r\nconnection: close\r\n", false),
        ("HTTP/1.0 200 OK\r\n", false),
        ("HTTP/1.0 200 OK\r\nconnection: Keep-Alive\r\n", true),
    ] {
        assert_eq!(answer(&format!("{head}content-length: 0\r\n\r\n")).keeps, keeps, "{head:?}");
    }
}

#[test]
fn rfc9110_15_2_interim_answers_are_passed_over() {
    let mut bytes = BytesMut::from(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 Fine\r\na: b\r\ncontent-length: 1\r\n\r\nx",
    );
    let found = take(&mut bytes, &Method::GET, HEAD_MAX).unwrap().unwrap();
    assert_eq!(
        (found.head.status, found.head.headers["a"].as_bytes(), &bytes[..]),
        (StatusCode::OK, &b"b"[..], &b"x"[..])
    );
    assert!(!found.head.headers.contains_key("link"));
    assert_eq!(found.head.extensions.get::<ReasonPhrase>().unwrap().as_bytes(), b"Fine");
    assert!(answer_to(&Method::GET, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 2").unwrap().is_none());
}

#[test]
fn rfc9112_4_a_reason_is_kept_where_the_status_does_not_say_it() {
    for (line, expected) in [
        ("200 Fine", Some("Fine")),
        ("200 OK", None),
        ("200 ", None),
        ("299 ", None),
        ("299 So So", Some("So So")),
        ("404 OK", Some("OK")),
    ] {
        let found = answer(&format!("HTTP/1.1 {line}\r\ncontent-length: 0\r\n\r\n"));
        let reason = found.head.extensions.get::<ReasonPhrase>().map(ReasonPhrase::as_bytes);
        assert_eq!(reason, expected.map(str::as_bytes), "{line:?}");
    }
}

#[test]
fn heads_have_an_end() {
    let long = format!("HTTP/1.1 200 OK\r\nx: {}", "a".repeat(HEAD_MAX));
    assert!(matches!(answer_to(&Method::GET, &long), Err(Malformed::LongHead(HEAD_MAX))));
    assert!(matches!(answer_to(&Method::GET, &format!("{long}\r\n\r\n")), Err(Malformed::LongHead(HEAD_MAX))));
    // Exactly so many bytes of a head are one, and more of one that has not come whole are none.
    let head = |bytes: usize| format!("HTTP/1.1 204 No\r\nx: {}\r\n\r\n", "a".repeat(bytes - 24));
    assert!(matches!(answer_to(&Method::GET, &head(HEAD_MAX)), Ok(Some(_))));
    assert!(matches!(answer_to(&Method::GET, &head(HEAD_MAX + 1)), Err(Malformed::LongHead(HEAD_MAX))));
    assert!(matches!(answer_to(&Method::GET, &long[..HEAD_MAX - 1]), Ok(None)));
    assert!(matches!(answer_to(&Method::GET, &long[..HEAD_MAX]), Err(Malformed::LongHead(HEAD_MAX))));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(fields::FIELDS_MAX + 1));
    assert!(matches!(answer_to(&Method::GET, &many), Err(Malformed::ManyFields)));
}
