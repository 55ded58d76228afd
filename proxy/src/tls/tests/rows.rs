//! Every row of C-2 that is a chain, by its number. A row is run three ways: by the verifier in both roles, and through
//! a real handshake with each side judging; before each, the positive control.

use super::cases::{Accepted, Case, Refused, Verdict, World, all};
use super::side::{GENERATION, Side, bundles, meet};
use crate::tls::{Role, Strictness, TlsError, verify_svid};
use std::time::SystemTime;

/// rustls reads no Certificate message of this size, so no handshake gets as far as the verifier.
const TOO_LARGE_FOR_TLS: &str = "X-52 bytes";

fn check(row: &str) {
    let world = World::new();
    let (control, cases): (Vec<_>, Vec<_>) = all(&world).into_iter().partition(|case| case.name == "X-01");
    let variant = format!("{row} ");
    let rows: Vec<_> = cases.iter().filter(|case| case.name == row || case.name.starts_with(&variant)).collect();
    assert!(row == "X-01" || !rows.is_empty(), "no case {row}");
    for case in control.iter().chain(rows) {
        verify_alone(case);
        if case.name != TOO_LARGE_FOR_TLS {
            tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .expect("a runtime")
                .block_on(shake_hands(&world, case));
        }
    }
}

fn verify_alone(case: &Case) {
    let strict = [(Role::Client, case.as_client), (Role::Server, case.as_server)];
    for (role, expected) in strict {
        let found = verdict(case, role, Strictness::Strict);
        assert_eq!(found, expected, "{} as {role}", case.name);
        let found = verdict(case, role, Strictness::Compat);
        assert_eq!(found, case.compat.unwrap_or(expected), "{} as {role}, compat", case.name);
    }
}

fn verdict(case: &Case, role: Role, strictness: Strictness) -> Verdict {
    let now = SystemTime::now();
    match verify_svid(&case.chain, &bundles(&case.bundles), GENERATION, role, now, strictness) {
        Ok(peer) => {
            assert_eq!(peer.chain, case.chain, "{}", case.name);
            assert_eq!(peer.generation, GENERATION, "{}", case.name);
            Accepted
        }
        Err(error) => {
            assert!(!error.section().is_empty(), "{}", case.name);
            Refused(error.code())
        }
    }
}

/// The case's chain presented by a client, then by a server, to a peer that believes the case's bundles.
async fn shake_hands(world: &World, case: &Case) {
    let presenting = Side::new(case.chain.clone(), &case.key, &world.bundles());
    let judging = Side::opposite(world, case);

    let (accepted, _) = meet(&judging, &presenting, super::cases::ID).await;
    assert_eq!(outcome(&accepted), case.as_client, "{}: presented by a client", case.name);

    let id = match &case.name[..4] {
        "X-25" => "spiffe://other.org/b",
        _ => super::cases::ID,
    };
    let (_, connected) = meet(&presenting, &judging, id).await;
    assert_eq!(outcome(&connected), case.as_server, "{}: presented by a server", case.name);
}

fn outcome<T>(result: &Result<T, TlsError>) -> Verdict {
    match result {
        Ok(_) => Accepted,
        Err(TlsError::Verify(error)) => Refused(error.code()),
        Err(other) => panic!("not the verifier's verdict: {other:?}"),
    }
}

#[test]
fn x_01_base_leaf_is_accepted() {
    check("X-01");
}

#[test]
fn x_02_leaf_of_a_presented_intermediate() {
    check("X-02");
}

#[test]
fn x_03_other_names_beside_the_id() {
    check("X-03");
}

#[test]
fn x_05_empty_subject_wants_critical_name() {
    check("X-05");
}

#[test]
fn x_06_refuses_two_uri_names() {
    check("X-06");
}

#[test]
fn x_08_refuses_two_uri_names_of_which_one_is_not_text() {
    check("X-08");
}

#[test]
fn x_09_tl_06_refuses_a_leaf_without_uri_name() {
    check("X-09");
}

#[test]
fn x_11_refuses_an_id_without_path() {
    check("X-11");
}

#[test]
fn x_12_tl_07_refuses_a_ca_as_leaf() {
    check("X-12");
}

#[test]
fn x_13_refuses_absent_basic_constraints() {
    check("X-13");
}

#[test]
fn x_14_tl_07_refuses_a_leaf_that_may_sign() {
    check("X-14");
}

#[test]
fn x_16_tl_07_refuses_key_usage_absent_or_without_digital_signature() {
    check("X-16");
}

#[test]
fn x_18_more_key_usages() {
    check("X-18");
}

#[test]
fn x_20_tl_08_refuses_the_wrong_extended_key_usage() {
    check("X-20");
}

#[test]
fn x_21_tl_11_refuses_expired_and_early() {
    check("X-21");
}

#[test]
fn x_22_tl_04_refuses_another_domains_authority() {
    check("X-22");
}

#[test]
fn x_24_refuses_a_domain_without_bundle() {
    check("X-24");
}

#[test]
fn x_25_federated_leaf() {
    check("X-25");
}

#[test]
fn x_29_refuses_all_of_an_empty_bundle() {
    check("X-29");
}

#[test]
fn x_30_refuses_an_intermediate_that_may_not_sign() {
    check("X-30");
}

#[test]
fn x_31_tl_12_finds_the_valid_one_of_two_paths() {
    check("X-31");
}

#[test]
fn x_32_tl_12_refuses_an_intermediate_that_is_no_ca() {
    check("X-32");
}

#[test]
fn x_33_tl_12_refuses_a_path_longer_than_the_root_allows() {
    check("X-33");
}

#[test]
fn x_34_tl_13_refuses_uri_name_constraints_by_name() {
    check("X-34");
}

#[test]
fn x_36_tl_13_refuses_names_outside_constraints() {
    check("X-36");
}

#[test]
fn x_37_refuses_an_expired_root() {
    check("X-37");
}

#[test]
fn x_38_refuses_a_root_that_is_no_ca() {
    check("X-38");
}

#[test]
fn x_39_tl_14_refuses_a_leaf_that_is_its_own_root() {
    check("X-39");
}

#[test]
fn x_40_refuses_an_unknown_critical_extension() {
    check("X-40");
}

#[test]
fn x_41_refuses_duplicate_extensions() {
    check("X-41");
}

#[test]
fn x_45_intermediate_of_another_trust_domain() {
    check("X-45");
}

#[test]
fn x_52_ds_05_refuses_deep_and_long_chains() {
    check("X-52");
}

/// A row that no test above names would not be run.
#[test]
fn every_case_has_its_row() {
    let rows = [
        "X-01", "X-02", "X-03", "X-05", "X-06", "X-08", "X-09", "X-11", "X-12", "X-13", "X-14", "X-16", "X-18", "X-20",
        "X-21", "X-22", "X-24", "X-25", "X-29", "X-30", "X-31", "X-32", "X-33", "X-34", "X-36", "X-37", "X-38", "X-39",
        "X-40", "X-41", "X-45", "X-52",
    ];
    for case in all(&World::new()) {
        assert!(rows.contains(&&case.name[..4]), "{}", case.name);
    }
}
