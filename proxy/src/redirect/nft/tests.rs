use super::{Layout, install, present, remove, render};
use crate::redirect::plan::tests::{full, plan};
use crate::redirect::{Families, RedirectPlan};

/// The texts are kept in files: `POSTERN_BLESS=1 cargo test -p postern --lib redirect` writes them anew.
fn golden(name: &str, text: &str) {
    crate::redirect::iptables::tests::golden(&format!("nft/{name}.nft"), text);
}

#[test]
fn the_table_of_the_defaults() {
    golden("defaults", &install(&plan("exempt_users: 1337"), Layout::Inet, &["inet".to_owned()]));
}

#[test]
fn the_tables_of_everything() {
    golden("everything", &install(&full(Families::Both), Layout::Inet, &[]));
    golden("everything-split", &install(&full(Families::Both), Layout::Split, &["inet".to_owned()]));
}

#[test]
fn one_family_has_its_own_table_alone() {
    let text = install(&full(Families::V6), Layout::Inet, &[]);
    assert!(text.contains("table ip6 postern") && !text.contains("table inet") && !text.contains("ip daddr"), "{text}");
}

#[test]
fn without_a_direction_its_chains_are_absent() {
    let both = plan("exempt_users: 1337");
    let inbound_only = render(&RedirectPlan { outbound: None, ..both.clone() }, "inet");
    assert!(!inbound_only.contains(":15001") && inbound_only.contains("chain outbound"), "{inbound_only}");
    let nobody = RedirectPlan { outbound: None, exempt_uids: Vec::new(), ..both.clone() };
    assert!(!render(&nobody, "inet").contains("chain outbound"));
    let outbound_only = render(&RedirectPlan { inbound: None, ..both.clone() }, "inet");
    assert!(!outbound_only.contains("chain inbound") && !outbound_only.contains("15006\n"), "{outbound_only}");
    let liberal = render(&RedirectPlan { drop_invalid: false, ..both }, "inet");
    assert!(!liberal.contains("invalid"), "{liberal}");
}

#[test]
fn only_tables_of_our_name_are_ours() {
    let listing = "table inet postern\ntable ip postern\ntable ip nat\ntable inet postern2\ntable bridge postern\n";
    let found = present(listing);
    assert_eq!(found, ["inet", "ip"]);
    assert_eq!(remove(&found), "delete table inet postern\ndelete table ip postern\n");
}
