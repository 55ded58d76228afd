//! How many of our kind a request has come through, so that one which goes in a circle ends (THREATS NW-11).
//!
//! One process sees when it would call itself ([`Policy::leads_back`](crate::policy::Policy::leads_back)); two that call
//! each other do not, and neither does one whose application sends everything on. `Via` (RFC 9110 §7.6.3) would tell as
//! well, but servers take it for a reason to behave otherwise: nginx does not compress for a proxy.
//!
//! The count is the only field of ours that an application sees and may send: else the circle would be lost in it. It
//! decides nothing but this, so a forged one harms its own request alone.

use crate::refusal::{Refusal, Refused};
use http::{HeaderMap, HeaderName, HeaderValue};

pub const HOPS_HEADER: HeaderName = HeaderName::from_static("x-postern-hops");
/// What the next hop is told where nobody has counted.
pub const FIRST: HeaderValue = HeaderValue::from_static("1");
/// A call of a call is no circle, where applications pass on what they do not know: sixteen of them, with a sidecar on both
/// sides, are beyond what anybody waits for.
const HOPS_MAX: u16 = 32;

/// What the next hop is told.
///
/// # Errors
/// It has been through more of us than any way leads, or the count cannot be read: who garbles it could go round for ever.
pub fn one_more(headers: &HeaderMap) -> Result<HeaderValue, Refused> {
    let mut most = 0;
    for value in headers.get_all(HOPS_HEADER) {
        // What a server on the way made of several lines (RFC 9110 §5.3).
        for count in value.to_str().unwrap_or("?").split(',') {
            let count = count.trim().parse::<u16>();
            let count = count.map_err(|_| refused(format_args!("{HOPS_HEADER} is not a number: {value:?}")))?;
            most = most.max(count);
        }
    }
    match most {
        0 => Ok(FIRST),
        1 => Ok(HeaderValue::from_static("2")),
        count if count < HOPS_MAX => Ok(HeaderValue::from(count + 1)),
        count => Err(refused(format_args!(
            "it has come through {count} sidecars: somewhere on the way an `app` or `endpoints` leads back"
        ))),
    }
}

fn refused(why: std::fmt::Arguments<'_>) -> Refused {
    Refused::new(Refusal::Loop, why.to_string())
}

#[cfg(test)]
mod tests {
    use super::{HOPS_HEADER, HOPS_MAX, one_more};
    use crate::refusal::Refusal;
    use http::{HeaderMap, HeaderValue};

    #[test]
    fn nw_11_counts_up_to_the_most_and_no_further() {
        for (lines, expected) in [
            (&[][..], Some("1")),
            (&["0"], Some("1")),
            (&["1"], Some("2")),
            (&["2"], Some("3")),
            (&["31"], Some("32")),
            (&["32"], None),
            (&["65535"], None),
            (&["65536"], None),
            (&["-1"], None),
            (&[""], None),
            (&["a few"], None),
            (&["2", "5"], Some("6")),
            (&["5, 2"], Some("6")),
            (&["2", "x"], None),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(HOPS_HEADER, HeaderValue::from_static(line));
            }
            let next = one_more(&headers);
            assert_eq!(next.as_ref().ok().map(|value| value.to_str().unwrap()), expected, "{lines:?}");
            assert!(next.is_ok() || next.is_err_and(|refused| refused.refusal == Refusal::Loop), "{lines:?}");
        }
        assert_eq!(HOPS_MAX, 32);
    }
}
