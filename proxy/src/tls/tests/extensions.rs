//! What a certificate's fields may look like: each extension's bytes, and what is read from them.

use super::cases::{ID, World};
use super::certificates::{
    BASIC_CONSTRAINTS, DIRECTORY, DNS, Draft, EXTENDED_KEY_USAGE, Extension, KEY_USAGE, NAME_CONSTRAINTS,
    SUBJECT_ALT_NAME, URI, common_name, name_constraints, sequence, subject_alt_name, tlv,
};
use crate::tls::certificate::{CertificateFault, Fields, NameConstraintForms};
use crate::tls::der::{BOOLEAN, CERTIFICATE_BYTES_MAX, CONTEXT_0, DerError, OBJECT_IDENTIFIER, SEQUENCE};
use std::time::{Duration, SystemTime};

/// What is read of a leaf with `extension`.
fn read<T>(extension: Extension, of: impl Fn(&Fields<'_>) -> T) -> Result<T, CertificateFault> {
    let world = World::new();
    let leaf = world.ca1.issue(&Draft::leaf(ID).with(extension), &world.key);
    Fields::read(&leaf).map(|fields| of(&fields))
}

fn extension(oid: &'static [u8], value: &[u8]) -> Extension {
    Extension { oid, critical: true, value: value.to_vec() }
}

/// An extension's bytes, and what is read from them.
type Row<T> = (&'static [u8], Result<T, DerError>);

/// RFC 5280 §4.2.1.3; X.690 §8.6.2 for the unused bits, which are zero in DER (§11.2.1).
#[test]
fn reads_the_bits_of_key_usage() {
    let table: [Row<[bool; 3]>; 15] = [
        (&[3, 2, 7, 0x80], Ok([true, false, false])),
        (&[3, 2, 2, 0x04], Ok([false, true, false])),
        (&[3, 2, 1, 0x02], Ok([false, false, true])),
        (&[3, 2, 0, 0xff], Ok([true, true, true])),
        (&[3, 2, 0, 0x79], Ok([false, false, false])),
        (&[3, 3, 7, 0, 0x80], Ok([false, false, false])),
        (&[3, 1, 0], Ok([false, false, false])),
        (&[3, 1, 1], Err(DerError::Value)),
        (&[3, 0], Err(DerError::Value)),
        (&[3, 2, 8, 0], Err(DerError::Value)),
        (&[3, 2, 7, 0xc0], Err(DerError::Value)),
        (&[3, 2, 1, 0x03], Err(DerError::Value)),
        (&[3, 3, 7, 0x80, 0x40], Err(DerError::Value)),
        (&[4, 2, 7, 0x80], Err(DerError::Tag { expected: 3, found: 4 })),
        (&[3, 2, 7, 0x80, 0], Err(DerError::TrailingBytes)),
    ];
    for (value, expected) in table {
        let bits = read(extension(KEY_USAGE, value), |fields| {
            fields.key_usage.as_ref().map(|usage| [usage.digital_signature, usage.key_cert_sign, usage.crl_sign])
        });
        assert_eq!(bits, expected.map(Some).map_err(CertificateFault::KeyUsage), "{value:02x?}");
    }
}

/// RFC 5280 §4.2.1.9. A length above 127 limits nothing that we would accept, however long it is written.
#[test]
fn reads_basic_constraints() {
    let table: [Row<(bool, Option<usize>)>; 19] = [
        (&[], Ok((false, None))),
        (&[1, 1, 0], Ok((false, None))),
        (&[1, 1, 0xff], Ok((true, None))),
        (&[1, 1, 1], Err(DerError::Value)),
        (&[1, 2, 0xff, 0xff], Err(DerError::Value)),
        (&[1, 1, 0xff, 2, 1, 0], Ok((true, Some(0)))),
        (&[1, 1, 0xff, 2, 1, 0x7f], Ok((true, Some(127)))),
        (&[1, 1, 0xff, 2, 2, 0, 0x80], Ok((true, Some(255)))),
        (&[1, 1, 0xff, 2, 2, 1, 0], Ok((true, Some(255)))),
        (&[1, 1, 0xff, 2, 3, 0x7f, 0, 0], Ok((true, Some(255)))),
        (&[2, 1, 3], Ok((false, Some(3)))),
        (&[1, 1, 0xff, 2, 0], Err(DerError::Value)),
        (&[1, 1, 0xff, 2, 1, 0x80], Err(DerError::Value)),
        (&[1, 1, 0xff, 2, 2, 0, 0x7f], Err(DerError::Value)),
        (&[1, 1, 0xff, 2, 2, 0xff, 0], Err(DerError::Value)),
        (&[2, 1, 0, 1, 1, 0xff], Err(DerError::TrailingBytes)),
        (&[1, 1, 0xff, 2, 1, 0, 2, 1, 0], Err(DerError::TrailingBytes)),
        (&[4, 0], Err(DerError::TrailingBytes)),
        (&[1], Err(DerError::Truncated)),
    ];
    for (content, expected) in table {
        let found = read(extension(BASIC_CONSTRAINTS, &tlv(SEQUENCE, content)), |fields| {
            fields.basic_constraints.as_ref().map(|constraints| (constraints.ca, constraints.path_length))
        });
        assert_eq!(found, expected.map(Some).map_err(CertificateFault::BasicConstraints), "{content:02x?}");
    }
}

/// Whatever follows an extension's value is read by nobody, or by somebody else.
#[test]
fn refuses_bytes_behind_the_value_of_an_extension() {
    let trailing = |oid, value: Vec<u8>| read(extension(oid, &[value, vec![0]].concat()), |_| ());
    let end = DerError::TrailingBytes;
    let id = subject_alt_name(&[(URI, ID.as_bytes())]).value;
    assert_eq!(trailing(SUBJECT_ALT_NAME, id), Err(CertificateFault::SubjectAltName(end)));
    assert_eq!(trailing(BASIC_CONSTRAINTS, sequence(&[])), Err(CertificateFault::BasicConstraints(end)));
    let usage = sequence(&[tlv(OBJECT_IDENTIFIER, &[0x2a])]);
    assert_eq!(trailing(EXTENDED_KEY_USAGE, usage), Err(CertificateFault::ExtendedKeyUsage(end)));
    let constraints = name_constraints(&[(DNS, b"a")], &[]).value;
    assert_eq!(trailing(NAME_CONSTRAINTS, constraints), Err(CertificateFault::NameConstraints(end)));
}

/// RFC 5280 §4.2.1.6: GeneralName has the choices [0] to [8]; [6] is an IA5String, which DER never constructs.
#[test]
fn takes_no_other_names_than_there_are() {
    for tag in 0..=0xff_u8 {
        let value = sequence(&[tlv(URI, ID.as_bytes()), tlv(tag, b"x")]);
        let uris = read(extension(SUBJECT_ALT_NAME, &value), |fields| {
            fields.subject_alt_name.as_ref().map_or(0, |names| names.uris.len())
        });
        let fault = |error| Err(CertificateFault::SubjectAltName(error));
        let expected = match tag {
            0x86 => Ok(2),
            0x80..=0x88 | 0xa0..=0xa5 | 0xa7 | 0xa8 => Ok(1),
            tag if tag & 0x1f == 0x1f => fault(DerError::LongTag),
            tag => fault(DerError::Tag { expected: URI, found: tag }),
        };
        assert_eq!(uris, expected, "{tag:#04x}");
    }
}

#[test]
fn finds_the_forms_of_name_that_constraints_are_about() {
    let forms = |uri, directory_name| NameConstraintForms { uri, directory_name };
    let directory: &[u8] = &common_name("x");
    for (extension, expected) in [
        (name_constraints(&[(DNS, b"a")], &[(DNS, b"b")]), forms(false, false)),
        (name_constraints(&[(URI, b"a")], &[]), forms(true, false)),
        (name_constraints(&[(DNS, b"a"), (URI, b"a")], &[(DNS, b"b")]), forms(true, false)),
        (name_constraints(&[], &[(DIRECTORY, directory)]), forms(false, true)),
        (name_constraints(&[(DIRECTORY, directory)], &[(URI, b"a")]), forms(true, true)),
    ] {
        let value = extension.value.escape_ascii().to_string();
        assert_eq!(read(extension, |fields| fields.name_constraints), Ok(expected), "{value}");
    }
    let subtree = sequence(&[tlv(DNS, b"a")]);
    for (value, error) in [
        (tlv(0xa2, &subtree), DerError::Tag { expected: CONTEXT_0, found: 0xa2 }),
        (tlv(CONTEXT_0, &tlv(DNS, b"a")), DerError::Tag { expected: SEQUENCE, found: DNS }),
        (tlv(CONTEXT_0, &sequence(&[])), DerError::Truncated),
    ] {
        let found = read(extension(NAME_CONSTRAINTS, &sequence(&[value])), |fields| fields.name_constraints);
        assert_eq!(found, Err(CertificateFault::NameConstraints(error)));
    }
}

#[test]
fn takes_purposes_that_are_oids_only() {
    let purposes = |content: &[Vec<u8>]| {
        read(extension(EXTENDED_KEY_USAGE, &sequence(content)), |fields| {
            fields.extended_key_usage.as_ref().map_or(0, Vec::len)
        })
    };
    let oid = tlv(OBJECT_IDENTIFIER, &[0x2a]);
    assert_eq!(purposes(&[oid.clone(), oid.clone()]), Ok(2));
    let error = DerError::Tag { expected: OBJECT_IDENTIFIER, found: BOOLEAN };
    assert_eq!(purposes(&[oid, tlv(BOOLEAN, &[0])]), Err(CertificateFault::ExtendedKeyUsage(error)));
    assert_eq!(purposes(&[]), Err(CertificateFault::ExtendedKeyUsage(DerError::Empty)));
}

/// RFC 5280 §4.2.1 has sixteen extensions, of which three are never critical; 2.5.29.54 is inhibitAnyPolicy.
#[test]
fn knows_the_critical_extensions_of_rfc_5280_and_no_other() {
    const READ_HERE: [u8; 5] = [15, 17, 19, 30, 37];
    let world = World::new();
    for id in 0..=0x7f {
        for oid in [vec![0x55, 0x1d, id], vec![0x55, 0x1d, id, 1], vec![0x55, 0x1c, id], vec![0x55, id]] {
            if oid.starts_with(&[0x55, 0x1d]) && oid.len() == 3 && READ_HERE.contains(&id) {
                continue;
            }
            let is_known = oid[..2] == [0x55, 0x1d] && matches!(oid[2..], [14 | 18 | 31..=33 | 35 | 36 | 54]);
            for critical in [true, false] {
                let extension = Extension { oid: oid.clone().leak(), critical, value: tlv(5, &[]) };
                let leaf = world.ca1.issue(&Draft::leaf(ID).adding(extension), &world.key);
                let found = Fields::read(&leaf).expect("a certificate").unknown_critical;
                assert_eq!(found.is_none(), is_known || !critical, "{oid:?}, critical: {critical}");
            }
        }
    }
}

#[test]
fn refuses_what_is_larger_or_longer_than_a_certificate() {
    let read = |bytes: &[u8]| Fields::read(bytes).map(drop);
    let world = World::new();
    assert_eq!(read(&world.ca1.der), Ok(()));
    assert_eq!(read(&[world.ca1.der.as_ref(), &[0]].concat()), Err(CertificateFault::TrailingBytes));
    assert_eq!(read(&[0; CERTIFICATE_BYTES_MAX]), Err(CertificateFault::NotX509));
    assert_eq!(read(&[0; CERTIFICATE_BYTES_MAX + 1]), Err(CertificateFault::TooLarge));
}

#[test]
fn reads_times_on_both_sides_of_1970_and_the_serial_in_hex() {
    let world = World::new();
    let day = Duration::from_secs(24 * 3600);
    for not_before in [SystemTime::UNIX_EPOCH - 366 * day, SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + 366 * day] {
        let leaf = world.ca1.issue(&Draft { not_before, ..Draft::leaf(ID) }, &world.key);
        let fields = Fields::read(&leaf).expect("a certificate");
        assert_eq!((fields.not_before, fields.serial.as_str()), (not_before, "010fa0"));
    }
}

/// Subjects are for people's eyes: whoever writes one writes no lines in our log, and no long ones.
#[test]
fn a_subject_is_shown_without_controls_and_in_part() {
    let world = World::new();
    let shown = |name: &str| {
        let leaf = world.ca1.issue(&Draft::leaf(ID).subject(common_name(name)), &world.key);
        Fields::read(&leaf).expect("a certificate").subject.to_string()
    };
    assert_eq!(shown("a\nb\u{1b}"), "CN=a?b?");
    assert_eq!(shown(&"x".repeat(118)), format!("CN={}", "x".repeat(117)));
}
