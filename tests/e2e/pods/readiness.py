"""A sidecar that expects outbound capture is ready while it is there, whoever made the rules, and not without it."""

import json
import time

from harness.mesh import ORDERS
from harness.pods import PodMesh, PodSidecar
from harness.processes import check, expect, tool, wait_until
from harness.scenario import main

PROBED_V4, PROBED_V6, PORT = "192.0.2.2", "2001:db8::2", 20560
GONE = {
    "nft": [["nft", "flush", "ruleset"]],
    "iptables-nft": [["iptables-nft", "-t", "nat", "-F", "POSTERN_OUTBOUND"]],
    "iptables-legacy": [["ip6tables-legacy", "-t", "nat", "-F", "POSTERN_OUTBOUND"]],
}


def run(mesh):
    for name in ("iptables-nft", "iptables-legacy"):
        tool(name)
    mesh.network()
    watch_the_wire(mesh.node)
    services = [{"name": "orders", "addresses": [f"{mesh.orders.v4}:80"], "identity": ORDERS}]
    sidecar = PodSidecar(mesh, mesh.web, mesh.identity().socket("web"), (), {"services": services})
    sidecar.start(ready=False)
    unready(sidecar, PROBED_V4, "before an installation")
    for backend, commands in GONE.items():
        install(mesh, sidecar, "--backend", backend)
        wait_until(lambda: sidecar.readiness()[0] == 200, f"ready with rules of {backend}", 15)
        if backend == "nft":
            quiet(mesh)
        for command in commands:
            mesh.web.must(tool(command[0]), *command[1:])
        unready(sidecar, PROBED_V6 if backend == "iptables-legacy" else PROBED_V4, f"without the rules of {backend}")
    one_family(mesh, sidecar)
    nobody_else_gets_anything(mesh, sidecar)
    expect("probes have no record", sidecar.records_of(kind="connection", refusal=None), [])
    log = sidecar.log_text()
    check("outbound connections are captured" in log and "postern redirect install" in log, log)
    check("inbound connections" not in log, log)


def install(mesh, sidecar, *flags):
    mesh.web.must(mesh.postern, "redirect", "install", "--config", sidecar.config_path, *flags)


def unready(sidecar, address, when):
    shown = f"[{address}]:{PORT}" if ":" in address else f"{address}:{PORT}"

    def said():
        status, body = sidecar.readiness()
        return status == 503 and "capture" in body and shown in body and "postern redirect install" in body

    wait_until(said, f"not ready {when}", 20)


def one_family(mesh, sidecar):
    install(mesh, sidecar, "--family", "v4")
    unready(sidecar, PROBED_V6, "without rules for IPv6")
    install(mesh, sidecar)
    wait_until(lambda: sidecar.readiness()[0] == 200, "ready with rules of both families", 15)


def watch_the_wire(node):
    """What of the probes gets as far as the first router, and what beyond."""
    chains = "".join(
        f"chain {hook} {{ type filter hook {hook} priority -300; "
        f"ip daddr {PROBED_V4} counter; ip6 daddr {PROBED_V6} counter; }}\n"
        for hook in ("prerouting", "forward")
    )
    node.must(tool("nft"), f"table inet watch {{ {chains} }}")


def seen(node, chain):
    listed = json.loads(node.must(tool("nft"), "-j", "list", "chain", "inet", "watch", chain))
    rules = [item["rule"]["expr"] for item in listed["nftables"] if "rule" in item]
    return sum(part["counter"]["packets"] for rule in rules for part in rule if "counter" in part)


def quiet(mesh):
    """Captured, no probe leaves the pod."""
    before = seen(mesh.node, "prerouting")
    time.sleep(12)
    expect("probes on the wire while they are captured", seen(mesh.node, "prerouting"), before)
    expect("probes that a router passed on", seen(mesh.node, "forward"), 0)


def nobody_else_gets_anything(mesh, sidecar):
    """The destination is no way to anywhere, and no way round."""
    code, out, err = mesh.web.run(tool("curl"), "-sg", "-m", "5", f"http://{PROBED_V4}:{PORT}/", uid=61400)
    check(code != 0, f"somebody answered at {PROBED_V4}: {out}{err}")
    record = wait_until(lambda: sidecar.records_of(kind="connection", refusal="loop"), "a record")[0]
    expect("its destination", record.get("capture.destination") or record["refusal.detail"].split()[0], f"{PROBED_V4}:{PORT}")


if __name__ == "__main__":
    main(run, PodMesh)
