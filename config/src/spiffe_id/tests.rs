//! SPIFFE C-1: every row, and the bytes one by one.

use super::*;
use proptest::prelude::*;

fn accepts(text: &str, trust_domain: &str, path: &str) {
    let id = SpiffeId::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    assert_eq!((id.trust_domain_name(), id.path(), id.as_str()), (trust_domain, path, text));
    assert_eq!(id.trust_domain().as_str(), trust_domain);
}

fn refuses(error: SpiffeIdError, texts: &[&str]) {
    for text in texts {
        assert_eq!(SpiffeId::parse(text), Err(error), "{text:?}");
    }
}

#[test]
fn id_01_02_a_path_is_optional() {
    accepts("spiffe://example.org/a", "example.org", "/a");
    accepts("spiffe://example.org", "example.org", "");
}

#[test]
fn id_03_16_refuses_a_trailing_slash() {
    refuses(SpiffeIdError::PathEmptySegment, &["spiffe://example.org/", "spiffe://example.org/a/"]);
}

#[test]
fn id_04_refuses_what_is_incomplete() {
    refuses(SpiffeIdError::Scheme, &["", "spiffe:", "spiffe:/a"]);
    refuses(SpiffeIdError::TrustDomainEmpty, &["spiffe://", "spiffe:///a"]);
}

#[test]
fn id_05_06_refuses_other_schemes_and_upper_case() {
    refuses(
        SpiffeIdError::Scheme,
        &["https://example.org/a", "spiff://example.org/a", "SPIFFE://example.org/a", "Spiffe://example.org/a"],
    );
}

#[test]
fn id_07_refuses_upper_case_in_the_trust_domain() {
    refuses(SpiffeIdError::TrustDomainCharacter, &["spiffe://Example.org/a"]);
}

#[test]
fn id_09_refuses_users_and_ports() {
    refuses(
        SpiffeIdError::TrustDomainCharacter,
        &[
            "spiffe://u@example.org/a",
            "spiffe://u:p@example.org/a",
            "spiffe://@example.org/a",
            "spiffe://example.org:/a",
            "spiffe://example.org:443/a",
            "spiffe://[::1]/a",
        ],
    );
}

#[test]
fn id_10_11_refuses_query_and_fragment() {
    refuses(
        SpiffeIdError::PathCharacter,
        &[
            "spiffe://example.org/a?x=1",
            "spiffe://example.org/a?",
            "spiffe://example.org/a#f",
            "spiffe://example.org/a#",
        ],
    );
    refuses(SpiffeIdError::TrustDomainCharacter, &["spiffe://example.org?x", "spiffe://example.org#f"]);
}

#[test]
fn id_12_refuses_percent_codes() {
    refuses(SpiffeIdError::PathCharacter, &["spiffe://example.org/%41"]);
    refuses(SpiffeIdError::TrustDomainCharacter, &["spiffe://ex%61mple.org/a"]);
}

#[test]
fn id_13_refuses_empty_segments() {
    refuses(SpiffeIdError::PathEmptySegment, &["spiffe://example.org//a", "spiffe://example.org/a//b"]);
}

#[test]
fn id_14_15_refuses_dot_segments_and_no_other_dots() {
    refuses(
        SpiffeIdError::PathDotSegment,
        &[
            "spiffe://example.org/a/./b",
            "spiffe://example.org/a/../b",
            "spiffe://example.org/.",
            "spiffe://example.org/..",
        ],
    );
    for path in ["/...", "/.a", "/..a", "/a."] {
        accepts(&format!("spiffe://example.org{path}"), "example.org", path);
    }
}

/// Every byte as a character of its own (above 0x7f: of the same number, which is two bytes of UTF-8).
#[test]
fn id_17_18_accepts_exactly_the_listed_characters() {
    for character in (0..=255_u8).map(char::from) {
        let in_path = character.is_ascii_alphanumeric() || ".-_".contains(character);
        let path = SpiffeId::parse(&format!("spiffe://example.org/a{character}"));
        let expected = if in_path { Ok(()) } else { Err(SpiffeIdError::PathCharacter) };
        if character != '/' {
            assert_eq!(path.map(|_| ()), expected, "{character:?}");
        }
        let in_name = in_path && !character.is_ascii_uppercase();
        let expected = if in_name { Ok(()) } else { Err(SpiffeIdError::TrustDomainCharacter) };
        if character != '/' {
            assert_eq!(SpiffeId::parse(&format!("spiffe://td{character}/a")).map(|_| ()), expected, "{character:?}");
            assert_eq!(SpiffeId::parse(&format!("spiffe://td{character}")).map(|_| ()), expected, "{character:?}");
        }
    }
}

#[test]
fn id_19_a_trust_domain_need_not_look_like_a_host() {
    for name in ["1.2.3.4", "td_1", "-", ".."] {
        accepts(&format!("spiffe://{name}/a"), name, "/a");
    }
}

#[test]
fn id_21_a_trust_domain_has_at_most_255_bytes() {
    let name = "a".repeat(255);
    accepts(&format!("spiffe://{name}/a"), &name, "/a");
    refuses(SpiffeIdError::TrustDomainTooLong, &[&format!("spiffe://{name}a/a"), &format!("spiffe://{name}a")]);
}

#[test]
fn id_22_an_id_has_at_most_2048_bytes() {
    let path = format!("/{}", "a".repeat(2048 - "spiffe://example.org/".len()));
    accepts(&format!("spiffe://example.org{path}"), "example.org", &path);
    refuses(SpiffeIdError::TooLong, &[&format!("spiffe://example.org{path}a")]);
}

#[test]
fn id_23_25_equality_is_byte_equality() {
    let parsed = |text| SpiffeId::parse(text).expect(text);
    assert_ne!(parsed("spiffe://example.org/A"), parsed("spiffe://example.org/a"));
    assert_ne!(parsed("spiffe://example.org./a"), parsed("spiffe://example.org/a"));
    assert_eq!(parsed("spiffe://example.org/a"), parsed("spiffe://example.org/a"));
}

#[test]
fn id_24_refuses_space_and_look_alikes() {
    for around in [" ", "\t", "\r", "\n", "\u{200b}"] {
        refuses(SpiffeIdError::Scheme, &[&format!("{around}spiffe://example.org/a")]);
        refuses(SpiffeIdError::PathCharacter, &[&format!("spiffe://example.org/a{around}")]);
    }
    refuses(SpiffeIdError::PathCharacter, &["spiffe://example.org/\u{ff41}"]);
    refuses(SpiffeIdError::TrustDomainCharacter, &["spiffe://\u{ff45}xample.org/a"]);
    refuses(SpiffeIdError::Scheme, &["\u{ff53}piffe://example.org/a"]);
}

#[test]
fn a_trust_domain_is_a_name_alone() {
    assert_eq!(TrustDomain::parse("example.org").expect("valid").as_str(), "example.org");
    assert_eq!(TrustDomain::parse("example.org/a"), Err(SpiffeIdError::TrustDomainHasPath));
    assert_eq!(TrustDomain::parse(""), Err(SpiffeIdError::TrustDomainEmpty));
    assert_eq!(TrustDomain::parse("Example.org"), Err(SpiffeIdError::TrustDomainCharacter));
    assert_eq!(TrustDomain::parse("spiffe://example.org"), Err(SpiffeIdError::TrustDomainCharacter));
}

proptest! {
    /// Nothing is normalised, whatever comes: what is accepted is given back byte for byte, and its parts join to it.
    #[test]
    fn what_is_accepted_stays_as_it_is(text in "(spiffe://)?[a-zA-Z0-9._/%@:-]{0,40}|\\PC{0,40}") {
        if let Ok(id) = SpiffeId::parse(&text) {
            prop_assert_eq!(id.as_str(), &text);
            prop_assert_eq!(format!("spiffe://{}{}", id.trust_domain_name(), id.path()), text);
        }
    }
}
