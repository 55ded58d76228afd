use super::{CannotTell, Examined, VerifyArgs, examine};
use crate::audit::chain::{Chain, LogId, Record};
use crate::audit::fixtures::{Signer, body, chain_after, new_log, text};
use crate::audit::record::{GAP, write_missing};
use crate::tls::certificate::hex;
use crate::tls::tests::certificates::{Draft, Issuer, as_pem};
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

struct Scene {
    folder: TempDir,
    signer: Signer,
    log: Vec<String>,
}

impl Scene {
    fn new() -> Self {
        let signer = Signer::new();
        let log = new_log(&signer, 1, 13);
        Self { folder: tempfile::tempdir().unwrap(), signer, log }
    }

    fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn args(&self, files: Vec<PathBuf>) -> VerifyArgs {
        VerifyArgs { files, ..VerifyArgs::default() }
    }

    fn trusting(&self, args: VerifyArgs) -> VerifyArgs {
        let bundle = self.write("bundle.pem", as_pem(&self.signer.authority.der).as_bytes());
        VerifyArgs { bundle: Some(bundle), trust_domain: Some("example.org".to_owned()), ..args }
    }
}

fn verdict(args: &VerifyArgs) -> (u8, String) {
    let examined: Examined = examine(args).unwrap_or_else(|error| panic!("{error}"));
    (examined.exit_code(), examined.describe())
}

#[test]
fn files_are_put_in_order_and_what_is_found_is_said_with_its_place() {
    let scene = Scene::new();
    let newest = scene.write("audit.json", &text(&scene.log[8..]));
    let older = scene.write("audit.json.1", &text(&scene.log[3..8]));
    let oldest = scene.write("audit.json.2", &text(&scene.log[..3]));
    let args = scene.trusting(scene.args(vec![newest.clone(), older.clone(), oldest]));
    let (code, said) = verdict(&VerifyArgs { whole: true, ..args.clone() });
    assert_eq!(code, 0, "{said}");
    assert!(
        said.starts_with("intact\n")
            && said.contains("3 seals by spiffe://example.org/orders, vouched for by the bundle given"),
        "{said}"
    );
    assert!(said.contains("records: 1 to 13, 13 in place") && !said.contains("not sealed"), "{said}");

    let edited = String::from_utf8(text(&scene.log[3..8])).unwrap().replacen("/orders/7", "/orders/8", 1);
    fs::write(&older, edited).unwrap();
    let (code, said) = verdict(&args);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains(&format!("{}:1: record 4 was changed", older.display())), "{said}");
    assert!(said.contains("not intact: 1 finding"), "{said}");

    fs::remove_file(&older).unwrap();
    let missing = VerifyArgs { files: args.files.iter().filter(|path| **path != older).cloned().collect(), ..args };
    let (code, said) = verdict(&missing);
    assert_eq!(code, 1);
    assert!(said.contains(&format!("{}:1: records 4 to 8 were removed before this line", newest.display())), "{said}");
}

#[test]
fn an_expected_head_finds_a_cut_tail() {
    let scene = Scene::new();
    let head = hex(&Record::read(scene.log[12].as_bytes()).unwrap().hash);
    let whole = scene.trusting(scene.args(vec![scene.write("whole", &text(&scene.log))]));
    let cut = scene.trusting(scene.args(vec![scene.write("cut", &text(&scene.log[..10]))]));
    assert_eq!(verdict(&cut).0, 0, "nothing in it tells");
    let expecting = |args: &VerifyArgs| VerifyArgs { expect_head: Some(head.clone()), ..args.clone() };
    assert_eq!(verdict(&expecting(&whole)).0, 0);
    let (code, said) = verdict(&expecting(&cut));
    assert_eq!(code, 1);
    assert!(said.contains("the expected head is not there"), "{said}");
    // The second place says from where on it is missing.
    let seals: Vec<_> = [4, 9, 12].map(|index| scene.log[index].clone()).to_vec();
    let seals = scene.write("seals", &text(&seals));
    let (code, said) = verdict(&VerifyArgs { seals: Some(seals.clone()), ..cut });
    assert!(code == 1 && said.contains("the log was cut: records 11 to 13 at least are missing"), "{said}");
    assert_eq!(verdict(&VerifyArgs { seals: Some(seals), ..whole }).0, 0);
}

#[test]
fn says_what_it_cannot_tell() {
    let scene = Scene::new();
    let log = scene.write("log", &text(&scene.log));
    // Nobody's word for it.
    let (code, said) = verdict(&scene.args(vec![log.clone()]));
    assert!(code == 2 && said.starts_with("unbroken, but not proven: "), "{said}");
    // Other authorities than those that vouched.
    let other = Issuer::root(Draft::authority("CA9", "spiffe://example.org"));
    let other = scene.write("other.pem", as_pem(&other.der).as_bytes());
    let args = VerifyArgs { bundle: Some(other), ..scene.trusting(scene.args(vec![log.clone()])) };
    let (code, said) = verdict(&args);
    assert!(code == 2 && said.contains("the bundle given vouches for no seal behind record 0"), "{said}");

    let empty = scene.write("empty", b"");
    let errors = [
        examine(&scene.args(vec![empty])),
        examine(&scene.args(vec![scene.folder.path().join("absent")])),
        examine(&VerifyArgs { expect_head: Some("AB".repeat(32)), ..scene.args(vec![log.clone()]) }),
    ];
    let [empty, absent, head] = errors.map(|error| error.err().expect("no verdict"));
    assert!(matches!(empty, CannotTell::Empty(_)), "{empty}");
    assert!(matches!(absent, CannotTell::Unreadable { .. }), "{absent}");
    assert!(matches!(head, CannotTell::Hash(_)), "upper case is another spelling");
    // A line of the second place that is none is passed over, and named: 13 records, of which 3 are seals.
    let (_, said) = verdict(&VerifyArgs { seals: Some(log.clone()), ..scene.trusting(scene.args(vec![log])) });
    assert!(said.contains("that are no seals, passed over: 10, the first is line 1"), "{said}");
}

#[test]
fn a_tail_that_is_not_sealed_and_what_was_lost_are_said() {
    let scene = Scene::new();
    let mut lines = text(&scene.log);
    let mut chain = chain_after(&scene.log[12]);
    let mut gap = Vec::new();
    write_missing(GAP, 41, std::time::SystemTime::now(), &mut gap, std::time::SystemTime::now());
    chain.append(&gap, &mut lines);
    chain.append(&body(1), &mut lines);
    let log = scene.write("log", &lines);
    let (code, said) = verdict(&scene.trusting(scene.args(vec![log])));
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("gap: 41 records lost before record 14, which says so"), "{said}");
    assert!(said.contains("the last 2 records are not sealed"), "{said}");
    // A log that nobody ever sealed proves that nobody erred, and no more.
    let mut lines = Vec::new();
    Chain::begin(LogId([3; 16])).append(&body(1), &mut lines);
    let (code, said) = verdict(&scene.args(vec![scene.write("unsealed", &lines)]));
    assert!(
        code == 2 && said.contains("nothing is sealed") && said.contains("the last record is not sealed"),
        "{said}"
    );
    // Unless somebody knows its head from elsewhere.
    let head = hex(&Record::read(lines.trim_ascii_end()).unwrap().hash);
    let args = VerifyArgs { expect_head: Some(head), ..scene.args(vec![scene.write("unsealed", &lines)]) };
    assert_eq!(verdict(&args).0, 0);
}

/// What is behind the head that is expected is not excused by it: anybody's key seals what nobody vouches for.
#[test]
fn seals_of_nobody_behind_an_expected_head_prove_nothing() {
    let scene = Scene::new();
    let stranger = new_log(&Signer::new(), 1, 13);
    let head = |index: usize| hex(&Record::read(stranger[index].as_bytes()).unwrap().hash);
    let log = scene.write("log", &text(&stranger));
    let expecting = |index| VerifyArgs { expect_head: Some(head(index)), ..scene.args(vec![log.clone()]) };
    let (code, said) = verdict(&expecting(6));
    assert!(code == 2 && said.contains("the bundle that vouches for the seal in record 13 is not here"), "{said}");
    assert_eq!(verdict(&expecting(12)).0, 0, "all of it is before the head");
}
