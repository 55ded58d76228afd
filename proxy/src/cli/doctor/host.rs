//! The host and the process that would run on it: user, descriptors, the places it writes to.

use super::Report;
use crate::admin::own_uid;
use crate::capture::local_users::unknown_users;
use postern_config::Config;
use postern_config::audit::SecondPlace;
use postern_config::telemetry::AccessLog;
use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Listeners, logs, the agent, DNS, and room to accept and close.
const DESCRIPTORS_OF_OUR_OWN: u64 = 128;
/// Below this a busy sidecar is soon at its limit.
const DESCRIPTORS_WANTED: u64 = 4096;

pub(super) fn examine(report: &mut Report, config: Option<&Config>) {
    user(report);
    descriptors(report, config.and_then(|config| config.limits.connections));
    let Some(config) = config else { return };
    users(report, config);
    if let Some(socket) = &config.admin.socket {
        admin_socket(report, socket);
    }
    if let AccessLog::File(file) = &config.telemetry.access_log {
        log_file(report, "access log", file);
    }
    if let Some(audit) = &config.audit {
        for file in audit.to.file().into_iter().chain(audit.second_place.as_ref().and_then(SecondPlace::file)) {
            log_file(report, "audit log", file);
        }
    }
}

fn user(report: &mut Report) {
    match own_uid() {
        0 => report.warn(
            "user",
            "this runs as root, so the agent attests root, and a defect would be root's",
            "run as a user of its own: `User=postern` in systemd, `runAsUser` in Kubernetes",
        ),
        uid => report.ok("user", format!("uid {uid}")),
    }
}

/// Of services: those that the rules exempt are looked at with the rules.
fn users(report: &mut Report, config: &Config) {
    let unknown = match unknown_users(config) {
        Ok(unknown) => unknown,
        Err(error) => {
            report.fail("users", format!("/etc/passwd cannot be read: {error}"), "write the users' numbers instead");
            return;
        }
    };
    for user in unknown.iter().filter(|user| user.place.is_some()) {
        let what = format!("{} names `{}`, who is not in /etc/passwd", user.named_by, user.name);
        report.fail("users", what, "correct the name, add the user, or write a number");
    }
}

fn descriptors(report: &mut Report, connections: Option<usize>) {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let Some(limit) = soft_limit(&limits) else {
        report.warn("descriptors", "the limit cannot be read from /proc/self/limits", "mount /proc");
        return;
    };
    let wanted = match connections {
        Some(connections) => 2 * connections as u64 + DESCRIPTORS_OF_OUR_OWN,
        None => DESCRIPTORS_WANTED,
    };
    if limit >= wanted {
        report.ok("descriptors", format!("{limit} allowed"));
        return;
    }
    let why = match connections {
        Some(connections) => format!("{connections} connections want two each"),
        None => "every connection takes two".to_owned(),
    };
    report.warn(
        "descriptors",
        format!("{limit} allowed, and {why}"),
        format!("raise `nofile` to {wanted} (`LimitNOFILE=` in systemd), or lower `limits.connections`"),
    );
}

/// "Max open files            1024                 524288               files"
fn soft_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_ascii_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

fn admin_socket(report: &mut Report, socket: &Path) {
    const SUBJECT: &str = "admin socket";
    let path = socket.display();
    if let Ok(found) = std::fs::symlink_metadata(socket) {
        use std::os::unix::fs::FileTypeExt;
        if !found.file_type().is_socket() {
            report.fail(SUBJECT, format!("{path} is there and is no socket"), "remove it, or name another path");
            return;
        }
        match UnixStream::connect(socket) {
            Ok(_) => report.ok(SUBJECT, format!("a process listens on {path}")),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                report.ok(SUBJECT, format!("{path} is left from a process that was killed, and will be replaced"));
            }
            Err(error) => report.fail(SUBJECT, format!("{path}: {error}"), "run this as the proxy's user"),
        }
        return;
    }
    let folder = folder_of(socket);
    match writable(folder) {
        Ok(()) => report.ok(SUBJECT, format!("{path} can be made")),
        Err(error) => report.fail(
            SUBJECT,
            format!("{} is not writable for us: {error}", folder.display()),
            "`RuntimeDirectory=postern` in systemd makes /run/postern; in a pod mount an emptyDir there",
        ),
    }
}

fn log_file(report: &mut Report, subject: &'static str, file: &Path) {
    let folder = folder_of(file);
    let possible =
        if file.exists() { std::fs::OpenOptions::new().append(true).open(file).map(drop) } else { writable(folder) };
    match possible {
        Ok(()) => report.ok(subject, format!("{} can be written", file.display())),
        Err(error) => report.fail(
            subject,
            format!("{} cannot be written: {error}", file.display()),
            format!("make {} and give it to the proxy's user", folder.display()),
        ),
    }
}

fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Whether a file can be made there: mode bits do not tell (read-only mounts, capabilities), so one is made and removed.
fn writable(folder: &Path) -> std::io::Result<()> {
    let probe = folder.join(format!(".postern-doctor-{}", std::process::id()));
    std::fs::OpenOptions::new().write(true).create_new(true).open(&probe)?;
    std::fs::remove_file(&probe)
}

#[cfg(test)]
mod tests {
    use super::soft_limit;

    #[test]
    fn reads_the_soft_limit() {
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024   524288   files\n";
        assert_eq!(soft_limit(limits), Some(1024));
        assert_eq!(soft_limit("Max open files   unlimited unlimited files"), Some(u64::MAX));
        assert_eq!(soft_limit(""), None);
    }
}
