//! What there is of a request whose head cannot be read.

use http::{Method, Uri};

/// Method and target of a head that is not known to be one. A target that is not a path is left out, and so is every
/// query.
pub(super) fn read_request_line(head: &[u8]) -> (Option<Method>, Option<Uri>) {
    let line = head.trim_ascii_start();
    let mut words = line.split(|byte| matches!(byte, b' ' | b'\r' | b'\n'));
    let method = words.next().and_then(|word| Method::from_bytes(word).ok());
    let target = words.next().filter(|_| method.is_some()).unwrap_or_default();
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    let path = &path[..path.len().min(PATH_BYTES_KEPT)];
    (method, Some(path).filter(|path| path.starts_with(b"/")).and_then(|path| Uri::try_from(path).ok()))
}

/// More than a record writes.
const PATH_BYTES_KEPT: usize = 2048;

#[cfg(test)]
mod tests {
    use super::read_request_line;

    #[test]
    fn reads_what_there_is_of_a_refused_head() {
        let long = format!("GET /{}", "x".repeat(5000));
        for (head, method, path) in [
            ("GET /a?token=secret HTTP/1.1\r\n", Some("GET"), Some("/a")),
            ("\r\n\r\nPOST /a HTTP/1.1\r\n", Some("POST"), Some("/a")),
            ("GET /a", Some("GET"), Some("/a")),
            ("GET http://u:p@host/a HTTP/1.1\r\n", Some("GET"), None),
            ("GET ", Some("GET"), None),
            ("G\0T /a HTTP/1.1\r\n", None, None),
            ("GET\t/a\tHTTP/1.1\r\n", None, None),
            ("", None, None),
        ] {
            let (found, uri) = read_request_line(head.as_bytes());
            assert_eq!(found.as_ref().map(|method| method.as_str()), method, "{head:?}");
            assert_eq!(uri.as_ref().map(|uri| uri.path()), path, "{head:?}");
        }
        assert_eq!(read_request_line(long.as_bytes()).1.expect("a path").path().len(), 2048);
    }
}
