"""Debian's servers in a pod, unmodified, on loopback and on their own ports; none of them knows of a sidecar.

Each is an ordinary user's process with its data below the scenario's folder, and ends with it.
"""

import os
import shutil
from pathlib import Path

from harness.processes import Skip, accepts, check, tool, wait_until

# In every user database, and nobody's: initdb wants a user that has a name.
NOBODY = 65534


def start(pod, name, *command, port, seconds=30, uid=NOBODY, environment=None):
    process = pod.spawn(name, *command, uid=uid, environment=environment)

    def listening():
        check(process.running(), f"{name} ended with {process.child.returncode}: {process.text()[-2000:]}")
        with pod.entered():
            return accepts(port)

    wait_until(listening, f"{name} on port {port}", seconds, 0.05)
    return process


def folder(pod, name):
    path = pod.mesh.directory / f"{pod.name}-{name}"
    path.mkdir()
    os.chown(path, NOBODY, NOBODY)
    return path


def nginx(pod, port, port_http2, content):
    """HTTP/1 on one port and HTTP/2 with prior knowledge on another; `content` is at /file."""
    root = folder(pod, "nginx")
    (root / "file").write_bytes(content)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "\n".join(f"{kind}_temp_path {root}/{kind};" for kind in kinds)
    config = root / "nginx.conf"
    config.write_text(
        f"daemon off; master_process off; pid {root}/pid; error_log stderr warn; events {{ }}\n"
        f"http {{ {temporary} access_log off; root {root};\n"
        f"server {{ listen 127.0.0.1:{port}; location = /who {{ return 200 $http_x_spiffe_id; }} }}\n"
        f"server {{ listen 127.0.0.1:{port_http2} http2; location = /who {{ return 200 $http_x_spiffe_id; }} }} }}\n"
    )
    return start(pod, "nginx", tool("nginx"), "-p", root, "-c", config, port=port_http2)


def postgresql(pod, port):
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not programs:
        raise Skip("postgresql is not installed")
    binaries, data = programs[-1].parent, folder(pod, "postgresql")
    for name in ("initdb", "postgres"):
        shutil.which(name, path=str(binaries)) or check(False, f"{binaries} has no {name}")
    init = ("--auth=trust", "--username=app", "--no-sync", "--encoding=UTF8", "--locale=C", "-D", data)
    pod.must(binaries / "initdb", *init, uid=NOBODY, seconds=60)
    options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": data, "fsync": "off", "ssl": "off"}
    settings = [word for key, value in options.items() for word in ("-c", f"{key}={value}")]
    return start(pod, "postgresql", binaries / "postgres", "-D", data, "-p", str(port), *settings, port=port)


def mariadb(pod, port):
    data = folder(pod, "mariadb")
    server = tool("mariadbd")
    socket = data / "socket"
    init = ("--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal", "--skip-test-db")
    # It finds its files from where it is installed, and not in the working directory.
    pod.must(tool("mariadb-install-db"), *init, uid=NOBODY, seconds=90)
    grants = data / "grants.sql"
    grants.write_text("CREATE USER app@'127.0.0.1';\nGRANT ALL ON *.* TO app@'127.0.0.1';\nCREATE DATABASE app;\n")
    options = ("--no-defaults", f"--datadir={data}", f"--socket={socket}", f"--pid-file={data}/pid", f"--port={port}")
    network = ("--bind-address=127.0.0.1", "--skip-name-resolve", "--innodb-flush-method=nosync", f"--init-file={grants}")
    return start(pod, "mariadb", server, *options, *network, port=port)


def redis(pod, port):
    data = folder(pod, "redis")
    options = ("--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", data)
    return start(pod, "redis", tool("redis-server"), *options, port=port)


def opensmtpd(pod, port):
    """Takes mail for anybody at pod.test and keeps it in its queue; returns the process and how to read that queue.

    Its paths are compiled in and it wants to be root, so it has a mount namespace with folders of its own.
    """
    server = tool("smtpd")
    root = pod.mesh.directory / f"{pod.name}-opensmtpd"
    root.mkdir()
    config = root / "smtpd.conf"
    # Nobody answers there: mail waits in the queue, where it can be read.
    config.write_text(
        f'listen on 127.0.0.1 port {port} hostname orders.pod.test\n'
        'action "keep" relay host "smtp://127.0.0.1:1"\n'
        'match from any for domain "pod.test" action "keep"\n'
    )
    config.chmod(0o600)
    # It asks for its caller's name before it says a word: nobody there is an answer at once.
    resolver = root / "resolv.conf"
    resolver.write_text("nameserver 127.0.0.1\n")
    script = (
        "mount --make-rprivate / && mount -t tmpfs -o mode=0711 none /var/spool && mount -t tmpfs none /run"
        " && mount --bind \"$2\" /etc/resolv.conf && mkdir -m 0711 /var/spool/smtpd && exec \"$0\" -d -f \"$1\""
    )
    private = (tool("unshare"), "--mount", "--", tool("sh"), "-c", script, server, config, resolver)
    process = start(pod, "opensmtpd", *private, port=port, uid=0)

    def queued():
        """The messages that wait, as they are stored."""
        spool = Path(f"/proc/{process.pid}/root/var/spool/smtpd/queue")
        return [path.read_bytes() for path in spool.rglob("message")]

    return process, queued
