//! What a hardened process can no longer do, tried from within: in a child, because what is given up is given up for good.

use postern::hardening::{self, Outcome};
use postern_config::Config;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

/// The child's folder, of which it may write `in/` and `links/` alone.
const FOLDER: &str = "POSTERN_TEST_HARDENED_FOLDER";

#[test]
fn a_hardened_process_starts_no_program_and_writes_only_where_the_file_says() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["in", "out", "links"] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "hardening::the_child", "--nocapture", "--test-threads=1"])
        .env(FOLDER, folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout).into_owned() + &String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success() && said.contains("the child was here"), "{said}");
}

/// Does nothing unless the test above started it.
#[test]
fn the_child() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let folder = Path::new(&folder);
    // Named by a link in another directory, as where logs are on a volume of their own.
    let (log, link) = (folder.join("in/access.json"), folder.join("links/access.json"));
    std::os::unix::fs::symlink(&log, &link).unwrap();
    let text = format!("telemetry: {{ access_log: {{ file: {} }} }}\n", link.display());
    let config = Config::from_str(&folder.join("postern.yaml"), &text).unwrap();
    std::fs::write(folder.join("out/before"), "").unwrap();

    let hardened = hardening::apply(&config);
    assert_eq!(hardened.no_new_privileges, Outcome::On);
    assert_eq!(hardened.no_core_dumps, Outcome::On);
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");

    still_works(&log);
    match &hardened.seccomp {
        Outcome::On => starts_nothing(&status),
        other => println!("SKIPPED seccomp: {other}"),
    }
    match &hardened.landlock {
        Outcome::On | Outcome::Partly(_) => writes_nothing_outside(folder),
        other => println!("SKIPPED landlock: {other}"),
    }
    println!("the child was here");
}

/// What a proxy does all the time.
fn still_works(log: &Path) {
    std::fs::write(log, "a line\n").unwrap();
    std::fs::rename(log, log.with_extension("1")).unwrap();
    std::fs::remove_file(log.with_extension("1")).unwrap();
    drop(std::os::unix::net::UnixListener::bind(log.with_extension("sock")).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let sum = std::thread::spawn(move || drop(TcpStream::connect(address).unwrap()));
    listener.accept().unwrap();
    sum.join().unwrap();
    Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP)).unwrap();
    // The kernel's answer to who a local caller is.
    Socket::new(Domain::from(16), Type::RAW, Some(Protocol::from(4))).unwrap();
    std::fs::read("/etc/passwd").unwrap();
    assert!(std::fs::read_dir("/proc/self/fd").unwrap().count() > 2);
}

fn starts_nothing(status: &str) {
    assert!(status.contains("Seccomp:\t2"), "{status}");
    let refused = Command::new("/bin/true").status().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::PermissionDenied, "{refused}");
    // AF_PACKET, AF_ALG, AF_VSOCK.
    for family in [17, 38, 40] {
        let refused = Socket::new(Domain::from(family), Type::DGRAM, None).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::PermissionDenied, "family {family}: {refused}");
    }
}

fn writes_nothing_outside(folder: &Path) {
    let outside = folder.join("out");
    let is_refused = |result: std::io::Result<()>, what: &str| {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::PermissionDenied, "{what}");
    };
    is_refused(std::fs::write(outside.join("new"), "x"), "a new file");
    is_refused(std::fs::write(outside.join("before"), "x"), "a file that was there");
    is_refused(std::fs::remove_file(outside.join("before")), "to remove it");
    is_refused(std::fs::create_dir(outside.join("folder")), "a folder");
    is_refused(std::fs::create_dir(folder.join("in/folder")), "a folder, which nobody here makes");
    is_refused(std::os::unix::net::UnixListener::bind(outside.join("socket")).map(drop), "a socket");
    assert_eq!(std::fs::read(outside.join("before")).unwrap(), b"", "it can still be read, and was not written");
    // For threads that were started afterwards as well.
    let path = outside.join("thread");
    let of_thread = std::thread::spawn(move || std::fs::write(path, "x")).join().unwrap();
    is_refused(of_thread, "a new file of another thread");
}
