"""Two pods and a node: network namespaces and veth pairs of our own, gone with the processes that hold them.

    web 10.77.1.2, fd77:1::2  ──  node  ──  orders 10.77.2.2, fd77:2::2

Nothing is named, so nothing can be left behind, and nothing outside these namespaces is touched. Root is needed.
"""

import os
import shutil

from harness.mesh import Mesh, Sidecar, postern_binary
from harness.netns import Namespace, as_user, connect, default_routes, require
from harness.processes import tool, wait_until

# Unknown to the system's user database, which shows that none has to be made.
POSTERN_UID = 61337
APP_UID = 61400
CAPTURE_INBOUND, CAPTURE_OUTBOUND = 15006, 15001
METRICS, READINESS = 15020, 15021


class Pod(Namespace):
    """A namespace with the addresses that others know it by."""

    def __init__(self, mesh, name):
        super().__init__(mesh.workspace, name)
        self.mesh = mesh
        self.v4 = self.v6 = None
        # Servers are ordinary users, and listen where they always do.
        self.sysctl("net/ipv4/ip_unprivileged_port_start", "0")


class PodMesh(Mesh):
    """What a scenario of pods gets: `node`, `web` and `orders`, connected and without any sidecar yet."""

    def __init__(self):
        super().__init__()
        self.node = self.web = self.orders = None

    def network(self):
        require(self.workspace)
        # Other users have to reach it, wherever the repository lies.
        self.binary = self.directory / "postern-copy"
        shutil.copy(postern_binary(), self.binary)
        self.binary.chmod(0o755)
        # The provider keeps its state in here.
        os.chown(self.directory, POSTERN_UID, POSTERN_UID)
        self.node, self.web, self.orders = (Pod(self, name) for name in ("node", "web", "orders"))
        for number, pod in ((1, self.web), (2, self.orders)):
            self.connect(number, pod)
        for key in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
            self.node.sysctl(key, "1")
        for address in (self.orders.v4, self.orders.v6):
            self.web.wait_reachable(address)
        return self

    @property
    def postern(self):
        return str(self.binary)

    def connect(self, number, pod):
        pod.v4, pod.v6 = f"10.77.{number}.2", f"fd77:{number}::2"
        ours, theirs = ([f"10.77.{number}.{host}/24", f"fd77:{number}::{host}/64"] for host in (1, 2))
        connect((self.node, f"to-{pod.name}", ours), (pod, "eth0", theirs))
        default_routes(pod, f"10.77.{number}.1", f"fd77:{number}::1")

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
        self.prefix = pod.command(uid=POSTERN_UID)
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
