"""A real SPIRE server and agent on loopback: join token, unix selectors, one uid a workload."""

import json
import os
import shutil

from harness.mesh import BATCH, ORDERS, TRUST_DOMAIN, WEB, Mesh, Pems, postern_binary
from harness.processes import Failed, Skip, check, expect, free_port, tool, wait_until

# Numeric, unknown to the system's user database: only unix:uid can tell them apart.
UIDS = {"web": 61001, "orders": 61002, "batch": 61003}
IDS = {"web": WEB, "orders": ORDERS, "batch": BATCH}
AGENT = f"spiffe://{TRUST_DOMAIN}/agent"

SERVER_CONFIG = """\
server {{
  bind_address = "127.0.0.1"
  bind_port = "{port}"
  socket_path = "{directory}/server.sock"
  trust_domain = "{trust_domain}"
  data_dir = "{directory}/server"
  log_level = "INFO"
  ca_ttl = "24h"
  federation {{
    bundle_endpoint {{
      address = "127.0.0.1"
      port = {bundle_port}
      refresh_hint = "60s"
      profile "https_spiffe" {{}}
    }}
  }}
}}
plugins {{
  DataStore "sql" {{
    plugin_data {{
      database_type = "sqlite3"
      connection_string = "{directory}/server/data.sqlite3"
    }}
  }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
  KeyManager "disk" {{ plugin_data {{ keys_path = "{directory}/server/keys.json" }} }}
}}
"""

AGENT_CONFIG = """\
agent {{
  data_dir = "{directory}/agent"
  log_level = "INFO"
  server_address = "127.0.0.1"
  server_port = "{port}"
  socket_path = "{directory}/public/api.sock"
  trust_bundle_path = "{directory}/bootstrap.pem"
  trust_domain = "{trust_domain}"
  experimental {{ sync_interval = "1s" }}
}}
plugins {{
  NodeAttestor "join_token" {{ plugin_data {{}} }}
  KeyManager "disk" {{ plugin_data {{ directory = "{directory}/agent" }} }}
  WorkloadAttestor "unix" {{ plugin_data {{}} }}
}}
"""


class Spire:
    """Looks to a scenario like `DevIdentity`: a socket a workload (here one for all) and a prefix that sets the uid."""

    def __init__(self, mesh, svid_ttl=3600, jwt_ttl=300):
        self.mesh = mesh
        self.directory = mesh.directory / "spire"
        for folder in ("server", "agent", "public"):
            (self.directory / folder).mkdir(parents=True)
        self.server_program, self.agent_program = tool("spire-server"), tool("spire-agent")
        if os.getuid() != 0:
            raise Skip("not root: two workloads on one machine need two uids")
        self.bundle_port = free_port()
        values = {"directory": self.directory, "trust_domain": TRUST_DOMAIN, "port": free_port()}
        values["bundle_port"] = self.bundle_port
        (self.directory / "server.conf").write_text(SERVER_CONFIG.format(**values))
        (self.directory / "agent.conf").write_text(AGENT_CONFIG.format(**values))
        self.starts = 0
        self.start_server()
        (self.directory / "bootstrap.pem").write_text(self.ctl("bundle", "show"))
        token = self.ctl_json("token", "generate", "-spiffeID", AGENT)["value"]
        self.start_agent(token)
        self.entries = {name: self.create_entry(name, svid_ttl, jwt_ttl) for name in UIDS}
        for name in UIDS:
            self.wait_issued(name)

    def start_server(self):
        command = [self.server_program, "run", "-config", self.directory / "server.conf"]
        self.server = self.mesh.workspace.spawn("spire-server", command)
        healthy = [self.server_program, "healthcheck", "-socketPath", self.directory / "server.sock"]
        wait_until(lambda: self.mesh.workspace.run(healthy)[0] == 0, "the SPIRE server", 30, 0.2)

    def start_agent(self, token=None):
        command = [self.agent_program, "run", "-config", self.directory / "agent.conf"]
        self.starts += 1
        self.agent = self.mesh.workspace.spawn(
            f"spire-agent-{self.starts}", command + (["-joinToken", token] if token else [])
        )
        healthy = [self.agent_program, "healthcheck", "-socketPath", self.directory / "public/api.sock"]
        wait_until(lambda: self.mesh.workspace.run(healthy)[0] == 0, "the SPIRE agent", 30, 0.2)

    # What scenarios call on DevIdentity as well.

    def socket(self, name):
        return f"unix://{self.directory}/public/api.sock"

    def prefix(self, name):
        uid = str(UIDS[name])
        return [tool("setpriv"), "--reuid", uid, "--regid", uid, "--clear-groups"]

    def kill(self):
        self.agent.kill()

    def start(self):
        self.start_agent()

    # Server commands.

    def ctl(self, *arguments):
        command = [self.server_program, *arguments, "-socketPath", self.directory / "server.sock"]
        code, out, err = self.mesh.workspace.run(command)
        check(code == 0, f"spire-server {' '.join(map(str, arguments))} exited {code}: {out}{err}")
        return out

    def ctl_json(self, *arguments):
        return json.loads(self.ctl(*arguments, "-output", "json"))

    def create_entry(self, name, svid_ttl, jwt_ttl):
        made = self.ctl_json(
            *("entry", "create", "-parentID", AGENT, "-spiffeID", IDS[name]),
            *("-selector", f"unix:uid:{UIDS[name]}", "-x509SVIDTTL", str(svid_ttl)),
            *("-jwtSVIDTTL", str(jwt_ttl)),
        )
        return made["results"][0]["entry"]["id"]

    def delete_entry(self, name):
        self.ctl("entry", "delete", "-entryID", self.entries[name])

    def fetch_text(self, name, *arguments):
        """What the agent's own client is told for this uid: exit code and text."""
        code, out, err = self._fetch(name, "x509", *arguments)
        return code, out + err

    def fetch(self, name):
        directory = self.mesh.directory / f"pem-{name}"
        directory.mkdir()
        directory.chmod(0o777)
        code, text = self.fetch_text(name, "-write", directory)
        expect(text, code, 0)
        for written, known in (("svid.0.pem", "svid.pem"), ("svid.0.key", "key.pem"), ("bundle.0.pem", "bundle.pem")):
            (directory / written).rename(directory / known)
        return Pems(directory)

    def fetch_token(self, name, audience):
        code, out, err = self._fetch(name, "jwt", "-audience", audience, "-output", "json")
        expect(err, code, 0)
        return json.loads(out)[0]["svids"][0]["svid"]

    def _fetch(self, name, what, *arguments):
        command = [self.agent_program, "api", "fetch", what, "-socketPath", self.directory / "public/api.sock"]
        return self.mesh.workspace.run(self.prefix(name) + command + list(arguments))

    def wait_issued(self, name):
        wait_until(lambda: IDS[name] in self.fetch_text(name)[1], f"the agent to issue {IDS[name]}", 30, 0.3)

    # Rotation of authorities, of certificates (`x509`) and of tokens (`jwt`).

    def authority(self, step, authority=None, of="x509"):
        named = ["-authorityID", authority] if authority else []
        return self.ctl_json("localauthority", of, step, *named)

    def authorities(self, of="x509"):
        """The ids of the active, prepared and old authority, where there is one."""
        shown = self.authority("show", of=of)
        found = {}
        for key in ("active", "prepared", "old"):
            if shown.get(key):
                found[key] = shown[key].get("authority_id") or shown[key].get("authorityId")
        if "active" not in found:
            raise Failed(f"spire-server shows no active authority: {shown}")
        return found


class SpireMesh(Mesh):
    """The mesh of the other scenarios, on SPIRE."""

    def __init__(self):
        super().__init__()
        self.binary = None

    @property
    def postern(self):
        """A copy that other uids can reach, wherever the repository lies."""
        if self.binary is None:
            copy = self.directory / "postern"
            shutil.copy(postern_binary(), copy)
            copy.chmod(0o755)
            self.binary = str(copy)
        return self.binary

    def identity(self, **options):
        return Spire(self, **options)
