"""Process hardening: what each thread of a sidecar gave up, what the kernel refuses it, what a reload may not ask for."""

import os
import shutil
import signal
import time
from pathlib import Path

from harness.apps import Http1App
from harness.clients import Http1, connect
from harness.mesh import inbound_port
from harness.processes import Skip, check, expect, free_port, tool, wait_until
from harness.scenario import main

ALL_OFF = {name: "off" for name in ("no_new_privileges", "no_core_dumps", "landlock", "seccomp")}
NOBODY = 65534


def run(mesh):
    identity = mesh.identity()
    app = Http1App()
    sidecar, port = plaintext_sidecar(mesh, identity, app, "hardened")
    sidecar.start()
    every_thread(sidecar, {"NoNewPrivs": "1", "Seccomp": "2"})
    expect("the core limits", core_limits(sidecar), ["0", "0"])
    check("process hardening" in sidecar.log_text(), "no line of the log says what is active")
    outside = reload_outside(mesh, sidecar, app, port)
    reload_with_a_condition(sidecar, port)
    turned_off(mesh, identity, app, outside)
    if "landlock=on" in sidecar.log_text():
        the_kernel_refuses(mesh, identity, app)
    if os.getuid() == 0:
        as_nobody(mesh, identity, app)
    code, out, _ = sidecar.command("doctor")
    check("hardening" in out, f"doctor says nothing of it: {out}")


def plaintext_sidecar(mesh, identity, app, name, **sections):
    port = free_port()
    inbound = [inbound_port(app.port, port, tls="off", allow=[{"anonymous": True}])]
    return mesh.sidecar(name, identity.socket("orders"), inbound=inbound, **sections), port


def every_thread(sidecar, expected):
    tasks = list(Path(f"/proc/{sidecar.process.pid}/task").iterdir())
    check(len(tasks) > 2, f"{len(tasks)} threads")
    for task in tasks:
        status = dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines() if ":\t" in line)
        for field, value in expected.items():
            expect(f"{field} of thread {status['Name']}", status[field], value)


def core_limits(sidecar):
    limits = Path(f"/proc/{sidecar.process.pid}/limits").read_text().splitlines()
    return next(line for line in limits if line.startswith("Max core file size")).split()[4:6]


def get(port):
    expect("a request", Http1(connect(port)).get().status, 200)


def reload_with_a_condition(sidecar, port):
    """Conditions are read on a thread of their own, which a hardened process has to be able to begin."""
    allow = sidecar.config["inbound"][0]["allow"]
    sidecar.config["inbound"][0]["allow"] = [{"anonymous": True, "when": "request.method == 'POST' || " * 30 + "false"}]
    sidecar.reload()
    wait_until(lambda: Http1(connect(port)).get().status == 403, "the condition to be in force", 10)
    sidecar.config["inbound"][0]["allow"] = allow
    sidecar.reload()
    wait_until(lambda: Http1(connect(port)).get().status == 200, "the rules from before", 10)


def reload_outside(mesh, sidecar, app, port):
    """A reload that names a log in another directory is refused with the reason; the last good configuration stays."""
    outside = mesh.directory / "outside"
    outside.mkdir()
    log = outside / "access.json"
    inside = sidecar.config["telemetry"]["access_log"]
    sidecar.config["telemetry"]["access_log"] = {"file": str(log)}
    sidecar.reload()
    wait_until(lambda: "restart it, or keep the file there" in sidecar.log_text(), "the reason in the log", 10)
    check("telemetry.access_log.file" in sidecar.log_text(), "the log does not name the setting")
    get(port)
    check(not log.exists(), "the log was made outside")
    wait_until(lambda: sidecar.records(), "the record in the old log", 5)
    # Another file of the same directory is fine.
    sidecar.records_path = sidecar.directory / "moved.json"
    sidecar.config["telemetry"]["access_log"] = {"file": str(sidecar.records_path)}
    sidecar.reload()
    get(port)
    wait_until(lambda: get(port) or sidecar.records(), "records in the log that moved within its directory", 10)
    sidecar.config["telemetry"]["access_log"] = inside
    return log


def turned_off(mesh, identity, app, log):
    """With every switch off nothing is given up, and the same reload is taken."""
    sidecar, port = plaintext_sidecar(mesh, identity, app, "soft", hardening=ALL_OFF)
    sidecar.start()
    every_thread(sidecar, {"NoNewPrivs": "0", "Seccomp": "0"})
    sidecar.config["telemetry"]["access_log"] = {"file": str(log)}
    sidecar.reload()
    wait_until(lambda: get(port) or log.exists(), "the log outside", 10)
    log.unlink()


def the_kernel_refuses(mesh, identity, app):
    """The directory of the log is swapped for another one: our own check sees nothing of that, Landlock does."""
    one, other, link = (mesh.directory / name for name in ("one", "other", "link"))
    one.mkdir()
    other.mkdir()
    link.symlink_to(one)
    sidecar, port = plaintext_sidecar(mesh, identity, app, "swapped")
    sidecar.config["telemetry"]["access_log"] = {"file": str(link / "access.json")}
    sidecar.start()
    get(port)
    wait_until(lambda: (one / "access.json").read_text(), "a record", 5)
    swap(link, other)
    sidecar.process.signal(signal.SIGHUP)
    for _ in range(5):
        get(port)
        time.sleep(0.3)
    expect("what was written in a directory that was not there at the start", list(other.iterdir()), [])
    sidecar.alive()
    swap(link, one)
    before = (one / "access.json").read_text().count("\n")
    wait_until(
        lambda: get(port) or (one / "access.json").read_text().count("\n") > before, "records, after the swap back", 10
    )


def swap(link, target):
    beside = link.with_suffix(".new")
    beside.symlink_to(target)
    beside.rename(link)


def as_nobody(mesh, identity, app):
    """Not dumpable, a process belongs to root in /proc: it still has to know its own user."""
    try:
        setpriv = tool("setpriv")
    except Skip:
        print("setpriv is not installed: nothing is run as another user")
        return
    prefix = [setpriv, f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    for name, hardening, owner in (("nobody", {}, 0), ("nobody-soft", ALL_OFF, NOBODY)):
        sidecar, port = plaintext_sidecar(mesh, identity, app, name, prefix=prefix, hardening=hardening)
        sidecar.start(ready=False)
        wait_until(lambda: sidecar.alive() and sidecar.admin.exists() and sidecar.metrics(), "the sidecar to listen", 10)
        get(port)
        expect(f"the owner of /proc/PID/mem of {name}", os.stat(f"/proc/{sidecar.process.pid}/mem").st_uid, owner)
        check(sidecar.metric("process_open_fds") > 3, "it does not know its own descriptors")
        _, out, err = mesh.workspace.run([*prefix, mesh.postern, "status", "--admin", sidecar.admin])
        check(f"process {sidecar.process.pid}" in out, f"its own user may not ask it: {out}{err}")
        reader = mesh.workspace.run([*prefix, shutil.which("head"), "-c1", f"/proc/{sidecar.process.pid}/environ"])
        expect(f"whether others of its user read the memory of {name}", reader[0] == 0, owner != 0)


if __name__ == "__main__":
    main(run)
