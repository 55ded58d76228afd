"""Processes, ports and waiting. Everything started here ends with the scenario, by process id."""

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path


class Skip(Exception):
    """A tool is missing: the scenario is skipped and the tool named."""


class Failed(Exception):
    """Postern, or a third party, did not do what the scenario says."""


def check(condition, message):
    """An assertion that `python -O` keeps and whose message is a sentence."""
    if not condition:
        raise Failed(message)


def expect(what, actual, expected):
    check(actual == expected, f"{what}: expected {expected!r}, got {actual!r}")


def tool(name):
    """The path of an installed program, or a skip that names it."""
    search = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    beside_python = Path(os.sys.executable).parent / name
    if beside_python.exists():
        return str(beside_python)
    found = shutil.which(name, path=search)
    if not found:
        raise Skip(f"{name} is not installed")
    return found


_handed_out = set()


def free_port():
    """A free port below the ephemeral range, so that no outgoing connection takes it before we bind it."""
    for _ in range(1000):
        port = random.randint(10240, 32000)
        if port in _handed_out:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _handed_out.add(port)
        return port
    raise Failed("no free port found")


def wait_until(condition, what, seconds=20.0, every=0.02):
    """Polls until `condition()` is truthy and returns its value; exceptions of connections count as not yet."""
    deadline = time.monotonic() + seconds
    last = None
    while time.monotonic() < deadline:
        try:
            value = condition()
            if value:
                return value
        except (OSError, KeyError, ValueError) as error:
            last = error
        time.sleep(every)
    raise Failed(f"waited {seconds:g} s in vain for {what}" + (f" (last: {last!r})" if last else ""))


def accepts(port):
    with socket.create_connection(("127.0.0.1", port), timeout=1):
        return True


class Process:
    """One child with its output in a file."""

    def __init__(self, name, command, log, environment=None, check_alive=True):
        self.name = name
        self.log = Path(log)
        self.check_alive = check_alive
        full = dict(os.environ)
        full.update(environment or {})
        with open(self.log, "ab") as output:
            self.child = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=full,
            )

    @property
    def pid(self):
        return self.child.pid

    def running(self):
        return self.child.poll() is None

    def signal(self, number):
        if self.running():
            self.child.send_signal(number)

    def kill(self):
        self.signal(signal.SIGKILL)
        self.child.wait(10)

    def terminate(self, seconds=35):
        """SIGTERM; returns the exit code, or fails when the process outstays its time."""
        self.signal(signal.SIGTERM)
        try:
            return self.child.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failed(f"{self.name} did not end within {seconds} s of SIGTERM") from None

    def text(self):
        return self.log.read_text(errors="replace")


class Workspace:
    """A scenario's temporary directory and its children."""

    def __init__(self):
        # Short: a unix socket's path has 108 bytes.
        self.directory = Path(tempfile.mkdtemp(prefix="pe2e-", dir="/tmp"))
        self.directory.chmod(0o755)
        self.processes = []
        self.cleanups = []

    def spawn(self, name, command, environment=None):
        process = Process(name, command, self.directory / f"{name}.log", environment)
        self.processes.append(process)
        return process

    def run(self, command, seconds=60, environment=None, stdin=None):
        """Runs a command to its end; returns (exit code, stdout, stderr)."""
        full = dict(os.environ)
        full.update(environment or {})
        done = subprocess.run(
            [str(part) for part in command],
            capture_output=True,
            timeout=seconds,
            env=full,
            input=stdin,
            **({} if stdin is not None else {"stdin": subprocess.DEVNULL}),
        )
        return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")

    def at_end(self, action):
        self.cleanups.append(action)

    def close(self, keep=False):
        for action in reversed(self.cleanups):
            try:
                action()
            except Exception as error:  # noqa: BLE001 - the next cleanup must run whatever this one did
                print(f"clean-up: {error!r}")
        for process in reversed(self.processes):
            if process.running():
                process.kill()
        if not keep:
            shutil.rmtree(self.directory, ignore_errors=True)

    def tails(self, lines=25):
        """The ends of all logs: printed when a scenario fails."""
        parts = []
        for log in sorted(self.directory.rglob("*.log")):
            text = log.read_text(errors="replace")
            if "\0" in text:
                continue  # a database's own, which are not for reading
            text = text.splitlines()[-lines:]
            parts.append(f"--- {log.name}\n" + "\n".join(text))
        return "\n".join(parts)
