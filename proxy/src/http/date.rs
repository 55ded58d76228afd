//! `Date` for answers that came without one (RFC 9110 §6.6.1), written once a second.

use http::HeaderValue;
use std::cell::RefCell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

thread_local! {
    static WRITTEN: RefCell<(u64, HeaderValue)> = const { RefCell::new((u64::MAX, HeaderValue::from_static(""))) };
}

pub fn now() -> HeaderValue {
    at(SystemTime::now())
}

fn at(now: SystemTime) -> HeaderValue {
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    WRITTEN.with_borrow_mut(|(of, written)| {
        if *of != seconds {
            let text = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds));
            // It is all letters and digits; without a clock there is nothing to be said.
            *written = HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""));
            *of = seconds;
        }
        written.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::at;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn says_the_second_that_it_is_asked_for() {
        for (seconds, expected) in [
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (784_111_778, "Sun, 06 Nov 1994 08:49:38 GMT"),
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
        ] {
            assert_eq!(at(UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        }
    }
}
