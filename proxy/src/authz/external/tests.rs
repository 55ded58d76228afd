use super::answer::AnswerFault;
use super::proto::{CheckResponse, DeniedHttpResponse, HeaderValue, HeaderValueOption, HttpResponse, OkHttpResponse};
use super::proto::{HttpStatus, QueryParameter, RpcStatus};
use super::{Change, Changes, How, Verdict, read_grpc};
use http::{HeaderMap, HeaderName, Request};

fn option(key: &str, append: Option<bool>, append_action: i32) -> HeaderValueOption {
    let header = HeaderValue { key: key.to_owned(), value: "v".to_owned(), raw_value: Vec::new() };
    HeaderValueOption { header: Some(header), append, append_action }
}

fn answer(code: i32, http_response: Option<HttpResponse>) -> Result<Verdict, AnswerFault> {
    read_grpc(CheckResponse { status: Some(RpcStatus { code, message: String::new() }), http_response })
}

#[test]
fn what_an_answer_means() {
    let denied = |status| Some(HttpResponse::Denied(DeniedHttpResponse { status, ..Default::default() }));
    let status = |verdict: Result<Verdict, AnswerFault>| match verdict {
        Ok(Verdict::Allowed(_)) => Ok(None),
        Ok(Verdict::Denied(denial)) => Ok(Some(denial.status.as_u16())),
        Err(fault) => Err(fault),
    };
    let ok = || Some(HttpResponse::Ok(OkHttpResponse::default()));
    assert_eq!(status(answer(0, None)), Ok(None));
    assert_eq!(status(answer(0, ok())), Ok(None));
    assert_eq!(status(answer(7, None)), Ok(Some(403)));
    // A contradiction is a no.
    assert_eq!(status(answer(7, ok())), Ok(Some(403)));
    assert_eq!(status(answer(0, denied(None))), Ok(Some(403)));
    assert_eq!(status(answer(16, denied(Some(HttpStatus { code: 401 })))), Ok(Some(401)));
    assert_eq!(status(answer(16, denied(Some(HttpStatus { code: 101 })))), Err(AnswerFault::Status(101)));
    assert_eq!(status(answer(16, denied(Some(HttpStatus { code: -1 })))), Err(AnswerFault::Status(-1)));
    let error = |status| Some(HttpResponse::Error(DeniedHttpResponse { status, ..Default::default() }));
    assert_eq!(status(answer(14, error(Some(HttpStatus { code: 502 })))), Err(AnswerFault::Undecided(502)));
    assert_eq!(status(answer(0, error(None))), Err(AnswerFault::Undecided(0)), "whatever else it says");
    assert_eq!(status(read_grpc(CheckResponse::default())), Ok(None), "all zeros are OK, as in Envoy");
}

#[test]
fn hd_10_what_is_not_an_authorizers_to_say_is_found_in_every_spelling() {
    for name in [
        "x-spiffe-id",
        "X_SPIFFE_ID",
        "x.spiffe.id",
        "x-forwarded-client-cert",
        "client_cert",
        "x-postern-hops",
        "host",
        "content-length",
        "content_length",
        "Transfer-Encoding",
        "transfer_encoding",
        "connection",
        "upgrade",
        "te",
        "trailer",
        "expect",
        "x-original-url",
        "workload.spiffe.io",
        ":path",
        ":authority",
    ] {
        let set = OkHttpResponse { headers: vec![option(name, None, 0)], ..Default::default() };
        let removed = OkHttpResponse { headers_to_remove: vec![name.to_owned()], ..Default::default() };
        let response = OkHttpResponse { response_headers_to_add: vec![option(name, None, 0)], ..Default::default() };
        for changes in [set, removed, response] {
            let fault = answer(0, Some(HttpResponse::Ok(changes))).expect_err(name);
            assert_eq!(fault, AnswerFault::NotSettable(name.to_owned()));
        }
        // Of a refusal it is left out.
        let response = DeniedHttpResponse { headers: vec![option(name, None, 0)], ..Default::default() };
        let Ok(Verdict::Denied(denial)) = answer(7, Some(HttpResponse::Denied(response))) else { panic!("{name}") };
        assert!(denial.headers.is_empty(), "{name}");
    }
    let bad = OkHttpResponse { headers: vec![option("a b", None, 0)], ..Default::default() };
    assert_eq!(answer(0, Some(HttpResponse::Ok(bad))), Err(AnswerFault::NoHeader("a b".to_owned())));
    let many = OkHttpResponse { headers: vec![option("a", None, 0); 65], ..Default::default() };
    assert_eq!(answer(0, Some(HttpResponse::Ok(many))), Err(AnswerFault::TooMany));
}

/// `append` and `append_action` as Envoy reads them, in requests and in responses.
#[test]
fn headers_are_set_or_appended_as_envoy_does() {
    for (append, action, of_request, of_response) in [
        (None, 0, How::Overwrite, How::Append),
        (None, 1, How::AddIfAbsent, How::AddIfAbsent),
        (None, 2, How::Overwrite, How::Overwrite),
        (None, 3, How::OverwriteIfExists, How::OverwriteIfExists),
        (Some(true), 0, How::AppendIfExists, How::Append),
        (Some(false), 0, How::Overwrite, How::Overwrite),
    ] {
        let response = OkHttpResponse {
            headers: vec![option("a", append, action)],
            response_headers_to_add: vec![option("a", append, action)],
            ..Default::default()
        };
        let Ok(Verdict::Allowed(changes)) = answer(0, Some(HttpResponse::Ok(response))) else { panic!("allowed") };
        assert_eq!((changes.headers[0].how, changes.response[0].how), (of_request, of_response), "{append:?} {action}");
    }
    for (how, absent, present) in [
        (How::Append, &["v"][..], &["o", "v"][..]),
        (How::AppendIfExists, &[], &["o", "v"]),
        (How::AddIfAbsent, &["v"], &["o"]),
        (How::Overwrite, &["v"], &["v"]),
        (How::OverwriteIfExists, &[], &["v"]),
    ] {
        let change = Change { name: HeaderName::from_static("a"), value: "v".parse().unwrap(), how };
        for (before, expected) in [(None, absent), (Some("o"), present)] {
            let mut headers = HeaderMap::new();
            if let Some(before) = before {
                headers.insert("a", before.parse().unwrap());
            }
            change.apply(&mut headers);
            assert_eq!(headers.get_all("a").iter().collect::<Vec<_>>(), expected, "{how:?} {before:?}");
        }
    }
}

#[test]
fn parameters_change_and_all_others_stay_byte_by_byte() {
    let changed = |uri: &str, set: &[(&str, &str)], remove: &[&str]| {
        let (mut head, ()) = Request::builder().uri(uri).body(()).unwrap().into_parts();
        let response = OkHttpResponse {
            query_parameters_to_set: set
                .iter()
                .map(|(key, value)| QueryParameter { key: (*key).to_owned(), value: (*value).to_owned() })
                .collect(),
            query_parameters_to_remove: remove.iter().map(|key| (*key).to_owned()).collect(),
            ..Default::default()
        };
        let Ok(Verdict::Allowed(changes)) = answer(0, Some(HttpResponse::Ok(response))) else { panic!("allowed") };
        changes.apply(&mut head, &[]).map(|()| head.uri.to_string())
    };
    assert_eq!(changed("/a//b?x=%2f&y", &[("z", "1")], &[]).unwrap(), "/a//b?x=%2f&y&z=1");
    assert_eq!(changed("http://h/a?x=1&y=2&x=3", &[("x", "9")], &["y"]).unwrap(), "http://h/a?x=9");
    assert_eq!(changed("/a?x=1", &[], &["x"]).unwrap(), "/a");
    assert_eq!(changed("/a", &[("x", "1")], &[]).unwrap(), "/a?x=1");
    for value in ["1&admin=1", "a b", "1#", "\r\n"] {
        assert_eq!(changed("/a", &[("x", value)], &[]), Err(AnswerFault::Query), "{value:?}");
    }
}

#[test]
fn a_verified_claim_stays() {
    let (mut head, ()) = Request::builder().uri("/").header("b", "1").body(()).unwrap().into_parts();
    let change = Change { name: HeaderName::from_static("x_tenant"), value: "v".parse().unwrap(), how: How::Overwrite };
    let changes = Changes { headers: vec![change], ..Changes::default() };
    let claims = [HeaderName::from_static("x-tenant")];
    assert_eq!(changes.apply(&mut head, &claims), Err(AnswerFault::NotSettable("x_tenant".to_owned())));
    assert_eq!(changes.apply(&mut head, &[]), Ok(()));
}
