use super::{Hardened, Outcome, landlock::Writable};
use postern_config::Config;
use std::path::Path;

fn config(text: &str) -> Config {
    Config::from_str(Path::new("postern.yaml"), text).unwrap()
}

fn hardened(writable: Option<Writable>) -> Hardened {
    let [no_new_privileges, no_core_dumps, landlock, seccomp] = [const { Outcome::On }; 4];
    Hardened { no_new_privileges, no_core_dumps, landlock, seccomp, writable }
}

#[test]
fn a_reload_may_move_a_file_within_the_directories_of_the_start_alone() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["logs/deeper", "run", "elsewhere"] {
        std::fs::create_dir_all(folder.path().join(name)).unwrap();
    }
    std::os::unix::fs::symlink(folder.path().join("logs"), folder.path().join("link")).unwrap();
    std::os::unix::fs::symlink("../elsewhere/new.json", folder.path().join("logs/out.json")).unwrap();
    std::os::unix::fs::symlink("circle", folder.path().join("logs/circle")).unwrap();
    let file = |name: &str| folder.path().join(name);
    let wants = |log: &str, socket: &str| {
        config(&format!(
            "telemetry: {{ access_log: {{ file: {} }} }}\nadmin: {{ socket: {} }}\n",
            file(log).display(),
            file(socket).display()
        ))
    };
    let start = [file("logs/access.json"), file("run/admin.sock")];
    let confined = hardened(Some(Writable::of(start.iter().map(AsRef::as_ref))));
    for (log, socket, refused) in [
        ("logs/access.json", "run/admin.sock", None),
        ("logs/other.json", "logs/admin.sock", None),
        ("logs/deeper/access.json", "run/admin.sock", None),
        // The same directory by another name.
        ("link/access.json", "run/admin.sock", None),
        ("elsewhere/access.json", "run/admin.sock", Some("telemetry.access_log.file")),
        ("logs/access.json", "elsewhere/admin.sock", Some("admin.socket")),
        // A link in a directory of the start that leads out of it, to a file that is not there yet.
        ("logs/out.json", "run/admin.sock", Some("telemetry.access_log.file")),
        ("logs/../elsewhere/access.json", "run/admin.sock", Some("telemetry.access_log.file")),
        ("logs/circle", "run/admin.sock", Some("telemetry.access_log.file")),
        ("absent/access.json", "run/admin.sock", Some("telemetry.access_log.file")),
    ] {
        let verdict = confined.permits(&wants(log, socket)).map_err(|error| error.to_string());
        match refused {
            None => assert_eq!(verdict, Ok(()), "{log}, {socket}"),
            Some(setting) => {
                let message = verdict.unwrap_err();
                assert!(message.contains(setting) && message.contains("restart it"), "{log}, {socket}: {message}");
            }
        }
    }
    // Where it was there at the start, it is granted what it leads to as well.
    let start = [file("logs/out.json"), file("run/admin.sock")];
    let linked = hardened(Some(Writable::of(start.iter().map(AsRef::as_ref))));
    linked.permits(&wants("logs/out.json", "run/admin.sock")).unwrap();
    linked.permits(&wants("elsewhere/other.json", "run/admin.sock")).unwrap();
    hardened(None).permits(&wants("elsewhere/access.json", "elsewhere/admin.sock")).unwrap();
}

#[test]
fn unix_sockets_to_listen_on_count_as_written() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("payments.sock");
    let listening = format!(
        "outbound: {{ services: [{{ name: a, listen: \"unix:{}\", endpoints: [\"10.0.0.1:1\"], \
         identity: \"spiffe://a/b\" }}] }}\n",
        socket.display()
    );
    let confined = hardened(Some(Writable::of(std::iter::once(socket.as_path()))));
    confined.permits(&config(&listening)).unwrap();
    let error = hardened(Some(Writable::of(std::iter::empty()))).permits(&config(&listening)).unwrap_err();
    assert!(error.to_string().contains("outbound.services.listen"), "{error}");
}

#[test]
fn a_process_that_writes_nothing_may_write_nowhere() {
    let nowhere = hardened(Some(Writable::of(std::iter::empty())));
    nowhere.permits(&config("telemetry: { access_log: stdout }\n")).unwrap();
    let error = nowhere.permits(&config("admin: { socket: /tmp/postern-admin.sock }\n")).unwrap_err();
    assert!(error.to_string().contains("no directory"), "{error}");
}

#[test]
fn the_audit_log_and_its_second_place_are_written_where_they_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    for name in ["logs", "seals", "elsewhere"] {
        std::fs::create_dir(file(name)).unwrap();
    }
    let wants = |log: &str, second: &str| {
        let (log, second) = (file(log), file(second));
        let to = format!("to: {{ file: {} }}, second_place: {{ file: {} }}", log.display(), second.display());
        config(&format!("audit: {{ {to} }}\n"))
    };
    let start = wants("logs/audit.json", "seals/audit.json");
    let start: Vec<_> = super::written_paths(&start).map(|(_, path)| path).collect();
    assert_eq!(start, [file("logs/audit.json"), file("seals/audit.json")]);
    let confined = hardened(Some(Writable::of(start.into_iter())));
    confined.permits(&wants("logs/other.json", "seals/other.json")).unwrap();
    for (log, second, setting) in [
        ("elsewhere/audit.json", "seals/audit.json", "`audit.to.file`"),
        ("logs/audit.json", "elsewhere/audit.json", "`audit.second_place.file`"),
    ] {
        let refused = confined.permits(&wants(log, second)).unwrap_err().to_string();
        assert!(refused.contains(setting), "{refused}");
    }
}
