use super::{Audit, AuditTarget, Decisions, OnFull, PostAs, PostUrl, Rotate, Seal, SecondPlace};
use crate::{Config, Place};
use std::path::Path;
use std::time::Duration;

const NO_ACCESS_LOG: &str = "telemetry: { access_log: off }\n";

fn read(audit: &str) -> Result<Option<Audit>, String> {
    let config = Config::from_str(Path::new("/etc/postern.yaml"), &format!("{NO_ACCESS_LOG}{audit}"));
    let audit = config.map(|config| config.audit).map_err(|problems| problems.to_string())?;
    Ok(audit.map(|audit| Audit { place: Place::command_line(), ..audit }))
}

fn to_file(rotate: Option<Rotate>) -> Audit {
    Audit {
        to: AuditTarget::File { path: "/var/log/audit".into(), rotate },
        decisions: Decisions::default(),
        on_full: OnFull::Gap,
        seal: Seal::default(),
        second_place: None,
        place: Place::command_line(),
    }
}

#[test]
fn what_is_written_is_what_is_done() {
    let whole = "audit:\n  to: { file: /var/log/audit, rotate: { size: 1MiB, keep: 3 } }\n  \
                 decisions: { denials: true, allows: 1% }\n  on_full: block\n  seal: { every: 5s, records: 7 }\n  \
                 second_place: { file: /mnt/seals }\n";
    let expected = Audit {
        decisions: Decisions { denials: true, allows_percent: 1 },
        on_full: OnFull::Block,
        seal: Seal { every: Duration::from_secs(5), records: 7 },
        second_place: Some(SecondPlace::File("/mnt/seals".into())),
        ..to_file(Some(Rotate { size: 1 << 20, keep: 3 }))
    };
    let url = PostUrl::parse("https://seals.example/a").unwrap();
    let posted = |form| {
        let second_place = Some(SecondPlace::Post { url: url.clone(), form, roots: Some("/r.pem".into()) });
        Some(Audit { to: AuditTarget::Stdout, second_place, ..to_file(None) })
    };
    for (text, expected) in [
        ("", None),
        ("audit: { to: stdout }\n", Some(Audit { to: AuditTarget::Stdout, ..to_file(None) })),
        ("audit: { to: { file: /var/log/audit } }\n", Some(to_file(None))),
        ("audit: { to: { file: ../var/log/audit }, decisions: all }\n", None),
        ("audit: { to: { file: /var/log/audit, rotate: {} } }\n", Some(to_file(Some(Rotate::default())))),
        (whole, Some(expected)),
        (
            "audit: { to: stdout, second_place: { url: \"https://seals.example/a\", roots: /r.pem } }\n",
            posted(PostAs::Line),
        ),
        (
            "audit: { to: stdout, second_place: { otlp: \"https://seals.example/a\", roots: /r.pem } }\n",
            posted(PostAs::Otlp),
        ),
    ] {
        let found = read(text).unwrap_or_else(|problems| panic!("{problems}"));
        match (&found, text.contains("..")) {
            (Some(found), true) => assert_eq!(found.to.file(), Some(Path::new("/etc/../var/log/audit"))),
            _ => assert_eq!(found, expected, "{text}"),
        }
    }
}

#[test]
fn refuses_by_place_and_says_what_to_write() {
    for (text, expected) in [
        ("audit: {}\n", "2:8: `to` is missing"),
        ("audit: { to: stdut }\n", "did you mean `stdout`?"),
        ("audit: { to: { rotate: {} } }\n", "2:14: `file` is missing"),
        ("audit: { to: { file: a, rotate: { size: 1KiB } } }\n", "2:41: `size` is 1024 bytes"),
        ("audit: { to: { file: a, rotate: { keep: 1001 } } }\n", "2:41: `keep: 1001` is more than 1000"),
        ("audit: { to: stdout, on_full: drop }\n", "`on_full: drop` is not known"),
        ("audit: { to: stdout, decisions: none }\n", "`decisions: none` is not known"),
        ("audit: { to: stdout, decisions: { allows: 101% } }\n", "2:43: `allows: 101%`"),
        ("audit: { to: stdout, decisions: { denials: false, allows: 0% } }\n", "2:33: `decisions` has nothing"),
        ("audit: { to: { file: a }, second_place: { file: a } }\n", "2:49: `second_place` is the log itself"),
        ("audit: { to: stdout, second_place: {} }\n", "`second_place` has no place"),
        ("audit: { to: stdout, second_place: { file: a, url: \"https://a/\" } }\n", "has `file` and `url`"),
        (
            "audit: { to: stdout, second_place: { otlp: \"https://b/\", url: \"https://a/\" } }\n",
            "has `url` and `otlp`",
        ),
        ("audit: { to: stdout, second_place: { file: a, roots: b } }\n", "`roots` is about the certificate"),
        ("audit: { to: stdout, second_place: { url: \"http://seals.example/\" } }\n", "anybody on the way"),
        ("audit: { to: stdout, seal: { every: 0s } }\n", "2:37: `every: 0s`"),
    ] {
        let problems = read(text).expect_err(text);
        assert!(problems.contains(expected), "{text}: {problems}");
    }
}

#[test]
fn files_are_not_shared_with_the_access_log() {
    for (text, expected) in [
        ("audit: { to: stdout }\n", "both write to standard output"),
        ("telemetry: { access_log: { file: /a } }\naudit: { to: { file: /a } }\n", "both write to /a"),
    ] {
        let problems = Config::from_str(Path::new("f"), text).expect_err(text).to_string();
        assert!(problems.contains(expected) && problems.contains("hint"), "{text}: {problems}");
    }
}
