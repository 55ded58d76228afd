//! Whatever an authorizer answers: a request that it allows says of its caller, its host and its framing what it said before, and
//! has the same path; a response of its own is framed by us (THREATS HD-10).

use super::tokens::spell;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use postern::authz::external::proto::{
    CheckResponse, DeniedHttpResponse, HeaderValue as Header, HeaderValueOption, HttpResponse, HttpStatus,
    OkHttpResponse, QueryParameter, RpcStatus,
};
use postern::authz::external::{Verdict, read_grpc};
use prost::Message as _;

const VOCABULARY: &[&str] = &[
    "set ",
    "append ",
    "absent ",
    "remove ",
    "answer ",
    "query ",
    "unquery ",
    "denied ",
    "\t",
    "\n",
    "x-spiffe-id",
    "X_Spiffe.ID",
    "\r",
    "x-forwarded-client-cert",
    "transfer-encoding",
    "content_length",
    "host",
    ":path",
    "connection",
    "x-postern-refusal",
    "x-tenant",
    "x_claim_sub",
    ": ",
    "te",
    "upgrade",
    "x-original-url",
    "a=1&b",
    "/admin?",
    "page",
    "debug",
    "expect",
];
const HEADERS: &[(&str, &str)] = &[
    ("host", "orders.shop.svc"),
    ("content-length", "7"),
    ("connection", "upgrade"),
    ("upgrade", "websocket"),
    ("x-spiffe-id", "spiffe://shop.example/web"),
    ("x-forwarded-client-cert", "URI=spiffe://shop.example/web"),
    ("x-claim-sub", "spiffe://shop.example/web"),
    ("x-tenant", "acme"),
];

/// A message as it comes, and one that is written line by line.
pub(super) fn check(bytes: &[u8]) {
    if let Ok(answer) = CheckResponse::decode(bytes) {
        holds(answer);
    }
    let written = written(&spell(bytes, VOCABULARY)).encode_to_vec();
    holds(CheckResponse::decode(written.as_slice()).expect("what was encoded"));
}

fn holds(answer: CheckResponse) {
    let is_yes = answer.status.as_ref().is_none_or(|status| status.code == 0)
        && matches!(answer.http_response, None | Some(HttpResponse::Ok(_)));
    match read_grpc(answer) {
        Err(_) => {}
        Ok(Verdict::Denied(denial)) => {
            assert!((200..600).contains(&denial.status.as_u16()), "{}", denial.status);
            assert_eq!(denial.headers.keys().find(|name| is_protected(name)), None, "in a refusal");
        }
        Ok(Verdict::Allowed(changes)) => {
            assert!(is_yes, "a no was read as a yes");
            let mut request = Request::builder().method("GET").uri("http://orders.shop.svc/orders/7?page=1&debug=1");
            for (name, value) in HEADERS {
                request = request.header(*name, *value);
            }
            let mut head = request.body(()).expect("a request").into_parts().0;
            if changes.apply(&mut head, &[HeaderName::from_static("x-claim-sub")]).is_ok() {
                assert_eq!(head.uri.path(), "/orders/7");
                assert_eq!(head.uri.authority().map(|it| it.as_str()), Some("orders.shop.svc"));
                assert_eq!(protected(&head.headers), protected_before(), "of a request");
            }
            let mut response = HeaderMap::new();
            changes.response.iter().for_each(|change| change.apply(&mut response));
            assert_eq!(response.keys().find(|name| is_protected(name)), None, "in an answer");
        }
    }
}

/// `x-claim-sub` is a claim's header, which only requests have.
fn is_protected(name: &HeaderName) -> bool {
    let folded: String = name.as_str().chars().map(|c| if c == '_' || c == '.' { '-' } else { c }).collect();
    let names = [
        "host",
        "content-length",
        "connection",
        "upgrade",
        "transfer-encoding",
        "te",
        "expect",
        "keep-alive",
        "trailer",
        "proxy-connection",
        "x-spiffe-id",
        "x-forwarded-client-cert",
        "client-cert",
    ];
    names.contains(&folded.as_str()) || folded.starts_with("x-postern-")
}

fn protected(headers: &HeaderMap) -> Vec<(String, HeaderValue)> {
    let is_told = |name: &HeaderName| is_protected(name) || name.as_str().replace(['_', '.'], "-") == "x-claim-sub";
    let told = headers.iter().filter(|(name, _)| is_told(name));
    let mut told: Vec<_> = told.map(|(name, value)| (name.as_str().to_owned(), value.clone())).collect();
    told.sort();
    told
}

fn protected_before() -> Vec<(String, HeaderValue)> {
    let told = HEADERS.iter().filter(|(name, _)| *name != "x-tenant");
    let mut told: Vec<_> = told.map(|(name, value)| ((*name).to_owned(), HeaderValue::from_static(value))).collect();
    told.sort();
    told
}

fn written(lines: &[u8]) -> CheckResponse {
    let (mut yes, mut no) = (OkHttpResponse::default(), None::<DeniedHttpResponse>);
    let lines = String::from_utf8_lossy(lines).into_owned();
    for line in lines.split('\n') {
        let Some((what, rest)) = line.split_once(' ') else { continue };
        let (key, value) = rest.split_once(": ").unwrap_or((rest, ""));
        let option = |append_action| HeaderValueOption {
            header: Some(Header { key: key.to_owned(), value: value.to_owned(), raw_value: Vec::new() }),
            append: (what == "append").then_some(true),
            append_action,
        };
        match what {
            "set" => yes.headers.push(option(2)),
            "append" => yes.headers.push(option(0)),
            "absent" => yes.headers.push(option(1)),
            "remove" => yes.headers_to_remove.push(rest.to_owned()),
            "answer" => yes.response_headers_to_add.push(option(0)),
            "query" => {
                yes.query_parameters_to_set.push(QueryParameter { key: key.to_owned(), value: value.to_owned() });
            }
            "unquery" => yes.query_parameters_to_remove.push(rest.to_owned()),
            "denied" => {
                let no = no.get_or_insert_default();
                no.status = value.parse().ok().map(|code| HttpStatus { code });
                no.headers.push(option(0));
            }
            _ => {}
        }
    }
    let code = if no.is_some() { 7 } else { 0 };
    let http_response = Some(no.map_or(HttpResponse::Ok(yes), HttpResponse::Denied));
    CheckResponse { status: Some(RpcStatus { code, message: String::new() }), http_response }
}
