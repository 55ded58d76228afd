//! A second reader of HTTP/1 requests, to the letter of RFC 9112 and with none of its leniencies: what the next hop might be.

/// A request as this reader understands it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) method: String,
    pub(super) target: String,
    /// Names in lower case, in their order.
    pub(super) fields: Vec<(String, Vec<u8>)>,
    /// `None`: it is not whole.
    pub(super) body: Option<Vec<u8>>,
}

/// Reads one request; what is behind it comes back too. `None`: this reader refuses it, or there is none.
pub(super) fn read(bytes: &[u8]) -> Option<(Seen, &[u8])> {
    let mut rest = bytes;
    // RFC 9112 §2.2: "SHOULD ignore at least one empty line (CRLF) received prior to the request-line".
    while let Some(behind) = rest.strip_prefix(b"\r\n") {
        rest = behind;
    }
    let (line, mut rest) = line(rest)?;
    let mut words = line.split(|byte| *byte == b' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    if words.next().is_some() || !is_token(method) || !is_target(target) {
        return None;
    }
    let is_1_1 = match version {
        b"HTTP/1.1" => true,
        b"HTTP/1.0" => false,
        _ => return None,
    };
    let fields;
    (fields, rest) = self::fields(rest)?;
    let (body, rest) = body(&fields, is_1_1, rest)?;
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
    Some((Seen { method: text(method)?, target: text(target)?, fields, body }, rest))
}

type Fields = Vec<(String, Vec<u8>)>;

/// Up to the empty line.
fn fields(mut rest: &[u8]) -> Option<(Fields, &[u8])> {
    let mut fields = Vec::new();
    loop {
        let (line, behind) = line(rest)?;
        rest = behind;
        if line.is_empty() {
            return Some((fields, rest));
        }
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = (&line[..colon], trimmed(&line[colon + 1..]));
        let is_value = value.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~' | 0x80..));
        if !is_token(name) || !is_value {
            return None;
        }
        fields.push((String::from_utf8(name.to_ascii_lowercase()).ok()?, value.to_vec()));
    }
}

/// RFC 9112 §6.3, with everything refused that two readers could frame differently.
fn body<'a>(fields: &Fields, is_1_1: bool, rest: &'a [u8]) -> Option<(Option<Vec<u8>>, &'a [u8])> {
    let all =
        |wanted: &str| fields.iter().filter(|(name, _)| name == wanted).map(|(_, value)| value).collect::<Vec<_>>();
    match (all("transfer-encoding").as_slice(), all("content-length").as_slice()) {
        ([], []) => Some((Some(Vec::new()), rest)),
        ([], [length]) if !length.is_empty() && length.iter().all(u8::is_ascii_digit) => {
            let length: u64 = std::str::from_utf8(length).ok()?.parse().ok()?;
            match usize::try_from(length).ok().and_then(|length| rest.split_at_checked(length)) {
                Some((body, rest)) => Some((Some(body.to_vec()), rest)),
                None => Some((None, &[])),
            }
        }
        ([coding], []) if is_1_1 && coding.eq_ignore_ascii_case(b"chunked") => Some(chunked(rest)),
        _ => None,
    }
}

/// RFC 9112 §7.1. A body that ends within, or is no chunked body, is not whole, and nothing is behind it.
fn chunked(bytes: &[u8]) -> (Option<Vec<u8>>, &[u8]) {
    match chunks(bytes) {
        Some((body, rest)) => (Some(body), rest),
        None => (None, &[]),
    }
}

fn chunks(mut rest: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut body = Vec::new();
    loop {
        let (line, behind) = line(rest)?;
        // White space may stand behind the digits (BWS of an extension), never before them.
        let size = trimmed_end(line.split(|byte| *byte == b';').next()?);
        let digits = std::str::from_utf8(size).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        let size = usize::try_from(u64::from_str_radix(digits, 16).ok()?).ok()?;
        if size == 0 {
            let (_trailers, rest) = fields(behind)?;
            return Some((body, rest));
        }
        let (chunk, behind) = behind.split_at_checked(size)?;
        body.extend_from_slice(chunk);
        rest = behind.strip_prefix(b"\r\n")?;
    }
}

/// Up to CRLF, which is in no line; a bare CR or LF is in none either.
fn line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let line = &bytes[..end];
    let is_clean = !line.iter().any(|byte| matches!(byte, b'\r' | b'\n'));
    is_clean.then_some((line, &bytes[end + 2..]))
}

const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

fn trimmed(value: &[u8]) -> &[u8] {
    let start = value.iter().position(|byte| !is_space(*byte)).unwrap_or(value.len());
    trimmed_end(&value[start..])
}

fn trimmed_end(value: &[u8]) -> &[u8] {
    let end = value.iter().rposition(|byte| !is_space(*byte)).map_or(0, |last| last + 1);
    &value[..end]
}

fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

fn is_target(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| matches!(byte, b'!'..=b'~' | 0x80..))
}
