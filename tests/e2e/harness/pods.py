"""Two pods and a node: network namespaces and veth pairs of our own, gone with the processes that hold them.

    web 10.77.1.2, fd77:1::2  ──  node  ──  orders 10.77.2.2, fd77:2::2

Nothing is named, so nothing can be left behind, and nothing outside these namespaces is touched. Root is needed.
"""

import contextlib
import ctypes
import os
import shutil
import socket

from harness.mesh import Mesh, Sidecar, postern_binary
from harness.processes import Skip, check, tool, wait_until

# Unknown to the system's user database, which shows that none has to be made.
POSTERN_UID = 61337
APP_UID = 61400
CAPTURE_INBOUND, CAPTURE_OUTBOUND = 15006, 15001
METRICS, READINESS = 15020, 15021
CLONE_NEWNET = 0x40000000


class Namespace:
    """A network namespace, as long as the process that holds it."""

    def __init__(self, mesh, name):
        self.mesh, self.name = mesh, name
        self.v4 = self.v6 = None
        self.holder = mesh.workspace.spawn(f"netns-{name}", [tool("unshare"), "--net", tool("sleep"), "100000"])
        self.path = f"/proc/{self.holder.pid}/ns/net"
        ours = os.readlink("/proc/self/ns/net")
        wait_until(lambda: os.readlink(self.path) != ours, f"the namespace {name}", 5)
        self.ip("link", "set", "lo", "up")
        # Servers are ordinary users, and listen where they always do.
        self.sysctl("net/ipv4/ip_unprivileged_port_start", "0")

    def inside(self, *command, uid=None):
        """`command`, as to be run in here."""
        enter = [tool("nsenter"), f"--net={self.path}", "--"]
        return enter + ([] if uid is None else as_user(uid)) + list(command)

    def run(self, *command, uid=None, seconds=30, stdin=None, environment=None):
        return self.mesh.workspace.run(self.inside(*command, uid=uid), seconds, environment, stdin)

    def must(self, *command, **options):
        code, out, err = self.run(*command, **options)
        check(code == 0, f"in {self.name}: {' '.join(map(str, command))} exited {code}: {out}{err}")
        return out

    def spawn(self, name, *command, uid=None, environment=None):
        return self.mesh.workspace.spawn(name, self.inside(*command, uid=uid), environment)

    def ip(self, *arguments):
        return self.must(tool("ip"), *arguments)

    def sysctl(self, key, value):
        # /proc/sys/net shows the namespace of who opens it.
        with self.entered(), open(f"/proc/sys/{key}", "w") as file:
            file.write(value)

    def wait_reachable(self, address):
        """Whoever refuses a connection can be reached."""

        def refuses():
            try:
                with self.entered():
                    socket.create_connection((address, 9), timeout=2).close()
            except ConnectionRefusedError:
                return True
            return False

        wait_until(refuses, f"{address} to be reachable from {self.name}", 10, 0.05)

    @contextlib.contextmanager
    def entered(self):
        """This thread, and no other, is in here: sockets that it makes stay here."""
        with open("/proc/thread-self/ns/net") as back, open(self.path) as there:
            set_namespace(there.fileno())
            try:
                yield self
            finally:
                set_namespace(back.fileno())


def set_namespace(descriptor):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def as_user(uid):
    return [tool("setpriv"), "--reuid", str(uid), "--regid", str(uid), "--clear-groups"]


class PodMesh(Mesh):
    """What a scenario of pods gets: `node`, `web` and `orders`, connected and without any sidecar yet."""

    def __init__(self):
        super().__init__()
        self.node = self.web = self.orders = None

    def network(self):
        if os.getuid() != 0:
            raise Skip("not root: namespaces need it")
        for program in ("unshare", "nsenter", "setpriv", "ip", "nft"):
            tool(program)
        self.probe()
        # Other users have to reach it, wherever the repository lies.
        self.binary = self.directory / "postern-copy"
        shutil.copy(postern_binary(), self.binary)
        self.binary.chmod(0o755)
        # The provider keeps its state in here.
        os.chown(self.directory, POSTERN_UID, POSTERN_UID)
        self.node, self.web, self.orders = (Namespace(self, name) for name in ("node", "web", "orders"))
        for number, pod in ((1, self.web), (2, self.orders)):
            self.connect(number, pod)
        for key in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
            self.node.sysctl(key, "1")
        for address in (self.orders.v4, self.orders.v6):
            self.web.wait_reachable(address)
        return self

    def probe(self):
        code, _, err = self.workspace.run([tool("unshare"), "--net", tool("nft"), "list", "ruleset"])
        if code != 0:
            raise Skip(f"no namespace with a packet filter can be made here: {err.strip()}")

    @property
    def postern(self):
        return str(self.binary)

    def connect(self, number, pod):
        end = f"to-{pod.name}"
        self.node.ip("link", "add", end, "type", "veth", "peer", "name", "eth0", "netns", str(pod.holder.pid))
        pod.v4, pod.v6 = f"10.77.{number}.2", f"fd77:{number}::2"
        for namespace, link, host in ((self.node, end, 1), (pod, "eth0", 2)):
            namespace.ip("addr", "add", f"10.77.{number}.{host}/24", "dev", link)
            namespace.ip("addr", "add", f"fd77:{number}::{host}/64", "dev", link, "nodad")
            namespace.ip("link", "set", link, "up")
        pod.ip("route", "add", "default", "via", f"10.77.{number}.1")
        pod.ip("-6", "route", "add", "default", "via", f"fd77:{number}::1")

    def identity(self, **options):
        """The identity provider, run by Postern's user: only that user, and root, may open its sockets."""
        return super().identity(run_as=as_user(POSTERN_UID), **options)

    def captured(self, pod, identity, name, inbound=(), services=(), prefix=None, **sections):
        """A sidecar in `pod` to which everything is redirected, both ways. `prefix`: how it is run, if not as usual."""
        sidecar = PodSidecar(self, pod, identity.socket(name), inbound, {"services": list(services)}, **sections)
        if prefix:
            sidecar.prefix = prefix
        sidecar.start(ready=False)
        sidecar.redirect()
        sidecar.wait_ready()
        # Before, it says that its connections are not captured.
        sidecar.log_before = len(sidecar.log_text())
        return sidecar


class PodSidecar(Sidecar):
    """`postern run` as its own user in a pod, with the standard ports."""

    def __init__(self, mesh, pod, workload_api, inbound, outbound, **sections):
        super().__init__(mesh, f"sidecar-{pod.name}", workload_api, inbound, outbound, as_user(POSTERN_UID), **sections)
        self.pod = pod
        self.prefix = pod.inside(uid=POSTERN_UID)
        os.chown(self.directory, POSTERN_UID, POSTERN_UID)
        self.config["telemetry"].update(metrics=f"0.0.0.0:{METRICS}", readiness=f"0.0.0.0:{READINESS}")
        self.config["capture"] = {
            "inbound": CAPTURE_INBOUND,
            "outbound": CAPTURE_OUTBOUND,
            "redirect": {"exempt_users": [str(POSTERN_UID)]},
            **self.config.get("capture", {}),
        }

    def readiness(self):
        code, out, err = self.pod.run(tool("curl"), "-s", "-w", " %{http_code}", f"http://127.0.0.1:{READINESS}/healthz/ready")
        if code != 0:
            raise OSError(f"curl exited {code}: {err}")
        body, _, status = out.rpartition(" ")
        return int(status), body

    def metrics(self):
        return self.pod.must(tool("curl"), "-sf", f"http://127.0.0.1:{METRICS}/metrics")

    def redirect(self):
        # Asked of its log: a connection to the port itself would be refused, and have a record.
        wait_until(lambda: self.alive() and f"[::1]:{CAPTURE_OUTBOUND}" in self.log_text(), f"{self.name} to listen")
        self.pod.must(self.mesh.postern, "redirect", "install", "--config", self.config_path)

    def records_of(self, **wanted):
        return [record for record in self.records() if all(record.get(key) == value for key, value in wanted.items())]
