use super::grpc_message;
use http::{HeaderMap, HeaderValue, StatusCode};

fn with(status: Option<&'static str>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Some(status) = status {
        headers.insert("grpc-status", HeaderValue::from_static(status));
    }
    headers
}

#[test]
fn a_message_counts_when_its_status_is_ok_and_it_is_whole() {
    let none = HeaderMap::new();
    let message = |status, headers: &HeaderMap, body, trailers: Option<&HeaderMap>| {
        grpc_message(status, headers, body, trailers).map(<[u8]>::to_vec).map_err(|error| error.to_string())
    };
    let whole: &[u8] = &[0, 0, 0, 0, 2, 7, 8];
    let (ok, denied) = (with(Some("0")), with(Some("7")));
    assert_eq!(message(StatusCode::OK, &none, whole, Some(&ok)), Ok(vec![7, 8]));
    for (status, body, trailers, expected) in [
        (StatusCode::BAD_GATEWAY, whole, Some(&ok), "502"),
        (StatusCode::OK, whole, Some(&denied), "gRPC status 7"),
        (StatusCode::OK, whole, None, "that is missing"),
        (StatusCode::OK, &whole[..6], Some(&ok), "no message"),
        (StatusCode::OK, &[][..], Some(&ok), "no message"),
        (StatusCode::OK, &[1, 0, 0, 0, 0][..], Some(&ok), "no message"),
    ] {
        let error = message(status, &none, body, trailers).expect_err(expected);
        assert!(error.contains(expected), "{error}");
    }
    // Trailers-only.
    assert!(message(StatusCode::OK, &denied, &[], None).expect_err("denied").contains("gRPC status 7"));
}
