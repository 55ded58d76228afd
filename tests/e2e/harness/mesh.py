"""An identity provider and sidecars, as an operator would run them: the `postern` binary, files and sockets."""

import json
import os
import re
import signal
import urllib.error
import urllib.request
from pathlib import Path

from harness.processes import Failed, Workspace, accepts, check, free_port, tool, wait_until

TRUST_DOMAIN = "shop.example"
WEB = f"spiffe://{TRUST_DOMAIN}/ns/web/sa/frontend"
ORDERS = f"spiffe://{TRUST_DOMAIN}/ns/shop/sa/orders"
BATCH = f"spiffe://{TRUST_DOMAIN}/ns/batch/sa/report"
ROOT = Path(__file__).resolve().parents[3]


def postern_binary():
    path = Path(os.environ.get("POSTERN") or ROOT / "target/release/postern")
    check(path.exists(), f"{path} does not exist: build it, or set POSTERN")
    return str(path.resolve())


def is_debug_build():
    """Sizes and times of such a build say nothing about the real one."""
    return "/debug/" in postern_binary()


class DevIdentity:
    """`postern dev-identity`: a small CA that serves the Workload API, one socket a workload."""

    def __init__(self, mesh, workloads, trust_domain=TRUST_DOMAIN, ttl="1h", run_as=()):
        self.mesh = mesh
        self.run_as = list(run_as)
        self.workloads = workloads
        self.trust_domain = trust_domain
        self.ttl = ttl
        self.state = mesh.directory / f"ca-{trust_domain}"
        self.starts = 0
        self.start()

    def start(self):
        self.starts += 1
        command = self.run_as + [self.mesh.postern, "dev-identity", "--state", self.state]
        command += ["--trust-domain", self.trust_domain]
        for name, spiffe_id in self.workloads.items():
            command += ["--workload", f"{name}={spiffe_id}"]
        command += ["--ttl", self.ttl]
        self.process = self.mesh.workspace.spawn(f"identity-{self.trust_domain}-{self.starts}", command)
        wait_until(lambda: self._alive() and self._ready(), "the provider to be ready")

    def _alive(self):
        if not self.process.running():
            raise Failed(f"dev-identity ended with {self.process.child.returncode}: {self.process.text()}")
        return True

    def _ready(self):
        return "ready" in self.process.text().splitlines()

    def socket(self, name):
        """The value of SPIFFE_ENDPOINT_SOCKET for a workload, as the provider printed it."""
        for line in self.process.text().splitlines():
            found = re.match(rf"SPIFFE_ENDPOINT_SOCKET=(\S+)\s+# {re.escape(name)}:", line)
            if found:
                return found.group(1)
        raise KeyError(f"no socket of {name} in the provider's output yet")

    def ctl(self, *arguments):
        code, out, err = self.mesh.workspace.run(
            [self.mesh.postern, "dev-identity", "ctl", "--state", self.state, *arguments]
        )
        check(code == 0, f"dev-identity ctl {' '.join(arguments)} exited {code}: {out}{err}")
        return out

    def prefix(self, _name):
        """Nothing: whoever opens a workload's socket is that workload. SPIRE wants a uid here."""
        return []

    def kill(self):
        self.process.kill()

    def fetch(self, name):
        return fetch_pems(self.socket(name), self.mesh.directory / f"pem-{name}")


class Pems:
    """An SVID in files, for peers that know no Workload API."""

    def __init__(self, directory):
        self.certificate = str(directory / "svid.pem")
        self.key = str(directory / "key.pem")
        self.bundle = str(directory / "bundle.pem")


def fetch_pems(endpoint, directory):
    """Fetches an SVID with the official Python client and writes it as PEM."""
    from cryptography.hazmat.primitives.serialization import Encoding
    from spiffe import WorkloadApiClient

    directory.mkdir(exist_ok=True)
    pems = Pems(directory)
    with WorkloadApiClient(endpoint) as client:
        context = client.fetch_x509_context(timeout=10)
    svid = context.default_svid
    svid.save(pems.certificate, pems.key, Encoding.PEM)
    bundle = context.x509_bundle_set.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
    bundle.save(pems.bundle, Encoding.PEM)
    return pems


class Sidecar:
    """`postern run --config FILE` with its log, records, admin socket, metrics and readiness."""

    def __init__(self, mesh, name, workload_api, inbound=(), outbound=None, prefix=(), **sections):
        self.mesh = mesh
        self.name = name
        self.prefix = list(prefix)
        self.directory = mesh.directory / name
        self.directory.mkdir()
        if prefix:
            self.directory.chmod(0o777)
        self.config_path = self.directory / "postern.yaml"
        self.records_path = self.directory / "access.json"
        self.admin = self.directory / "admin.sock"
        self.metrics_port, self.readiness_port = free_port(), free_port()
        self.config = {
            "identity": {"workload_api": workload_api},
            "inbound": list(inbound),
            "outbound": outbound or {},
            "telemetry": {
                "metrics": f"127.0.0.1:{self.metrics_port}",
                "readiness": f"127.0.0.1:{self.readiness_port}",
                "access_log": {"file": str(self.records_path)},
            },
            "admin": {"socket": str(self.admin)},
            "workers": 1,
        }
        for section, value in sections.items():
            if isinstance(value, dict):
                self.config.setdefault(section, {}).update(value)
            else:
                self.config[section] = value
        self.process = None
        # What it may lack and be ready all the same for a scenario, such as `capture` where nobody installs rules.
        self.may_lack = ()

    def write(self):
        """Renamed in, as the rulings ask of whoever writes files that are watched. JSON is YAML."""
        temporary = self.config_path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.config, indent=2))
        temporary.chmod(0o644)
        temporary.rename(self.config_path)

    def start(self, ready=True):
        self.write()
        command = self.prefix + [self.mesh.postern, "run", "--config", self.config_path]
        self.process = self.mesh.workspace.spawn(self.name, command)
        if ready:
            self.wait_ready()
        return self

    def wait_ready(self, seconds=20):
        wait_until(lambda: self.alive() and self.ready_enough(), f"{self.name} to be ready", seconds)

    def ready_enough(self):
        status, body = self.readiness()
        return status == 200 or {each["condition"] for each in json.loads(body)["missing"]} <= set(self.may_lack)

    def alive(self):
        if not self.process.running():
            raise Failed(f"{self.name} ended with {self.process.child.returncode}:\n{self.process.text()[-3000:]}")
        return True

    def readiness(self):
        return http_get(self.readiness_port, "/healthz/ready")

    def metrics(self):
        return http_get(self.metrics_port, "/metrics")[1]

    def metric(self, name, **labels):
        """The sum of a metric's samples that carry these labels."""
        total = 0.0
        for line in self.metrics().splitlines():
            if re.match(rf"{re.escape(name)}(\{{|\s)", line):
                if all(f'{key}="{value}"' in line for key, value in labels.items()):
                    total += float(line.rsplit(" ", 1)[1])
        return total

    def records(self):
        if not self.records_path.exists():
            return []
        return [json.loads(line) for line in self.records_path.read_text().splitlines() if line.strip()]

    def log_text(self):
        return self.process.text()

    def reload(self, by_signal=True):
        self.write()
        if by_signal:
            self.process.signal(signal.SIGHUP)

    def command(self, *arguments, seconds=30):
        return self.mesh.workspace.run([self.mesh.postern, *arguments], seconds)


def http_get(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()


class Pair:
    """Client sidecar → mTLS → server sidecar → app. `port` is where an app's client connects."""

    def __init__(self, client, server, port, mesh_port):
        self.client, self.server, self.port, self.mesh_port = client, server, port, mesh_port

    def url(self, path="/", host="127.0.0.1"):
        return f"http://{host}:{self.port}{path}"


class Mesh:
    """What a scenario gets."""

    def __init__(self):
        self.workspace = Workspace()
        self.directory = self.workspace.directory

    @property
    def postern(self):
        return postern_binary()

    def close(self, keep=False):
        self.workspace.close(keep)

    def identity(self, **options):
        workloads = {"web": WEB, "orders": ORDERS, "batch": BATCH}
        return DevIdentity(self, workloads, **options)

    def sidecar(self, name, workload_api, **options):
        return Sidecar(self, name, workload_api, **options)

    def workload(self, identity, name, suffix="", /, **options):
        """The sidecar of a workload that `identity` knows."""
        return self.sidecar(f"{name}{suffix}", identity.socket(name), prefix=identity.prefix(name), **options)

    def pair(
        self, identity, app_port, protocol="http", inbound=None, service=None, client=None, server=None, suffix=""
    ):
        """`inbound`, `service`: more keys of the port and of the service; `client`, `server`: more sections; `suffix`
        tells the sidecars of several pairs apart."""
        mesh_port, local_port = free_port(), free_port()
        port = inbound_port(app_port, mesh_port, protocol, **(inbound or {}))
        server_sidecar = self.workload(identity, "orders", suffix, inbound=[port], **(server or {})).start()
        target = outbound_service(local_port, mesh_port, protocol, **(service or {}))
        services = {"services": [target]}
        client_sidecar = self.workload(identity, "web", suffix, outbound=services, **(client or {})).start()
        return Pair(client_sidecar, server_sidecar, local_port, mesh_port)

    def nginx(self, server_block, name="nginx", http2=False, top=""):
        """nginx as one process in the foreground; returns its port. `{root}` is a writable folder."""
        port = free_port()
        root = self.directory / name
        (root / "files").mkdir(parents=True)
        temporary = "\n".join(
            f"{kind}_temp_path {root}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        config = root / "nginx.conf"
        config.write_text(
            f"daemon off; master_process off; pid {root}/pid; error_log stderr warn;\n{user_line()}"
            f"worker_rlimit_nofile 8192; events {{ worker_connections 2048; }}\n"
            f"http {{ {temporary} access_log off; {top}\n"
            f"keepalive_requests 100000000; client_max_body_size 64m;\n"
            f"server {{ listen 127.0.0.1:{port}{' http2' if http2 else ''}; root {root}/files;\n"
            f"{server_block} }} }}\n"
        )
        self.workspace.spawn(name, [tool("nginx"), "-p", root, "-c", config])
        wait_until(lambda: accepts(port), "nginx")
        return port


def user_line():
    return "user root;\n" if os.getuid() == 0 else ""


def inbound_port(app_port, mesh_port, protocol="http", **more):
    """`mesh_port` is None for ports that have no listener of their own."""
    port = {
        "name": "orders",
        "port": app_port,
        "listen": mesh_port and f"127.0.0.1:{mesh_port}",
        "app": f"127.0.0.1:{app_port}",
        "protocol": protocol,
        "allow": [{"spiffe": WEB}],
    }
    port.update(more)
    return {key: value for key, value in port.items() if value is not None}


def outbound_service(local_port, mesh_port, protocol="http", **more):
    service = {
        "name": "orders",
        "hosts": ["orders.shop.svc"],
        "listen": f"127.0.0.1:{local_port}",
        "endpoints": [f"127.0.0.1:{mesh_port}"],
        "protocol": protocol,
        "identity": ORDERS,
    }
    service.update(more)
    return {key: value for key, value in service.items() if value is not None}
