"""What an operator looks at: readiness, metrics, `status`, `doctor`, and `check` on a file with five mistakes."""

import re

from harness.apps import Http1App
from harness.clients import Http1, connect
from harness.mesh import ORDERS, WEB, inbound_port
from harness.processes import check, expect, free_port, wait_until
from harness.scenario import main

FIVE_MISTAKES = """\
identity:
  workload_api: unix:///run/agent.sock
inbound:
  - prot: 8080
    protocol: htpp
    allow:
      - spiffe: shop.example/ns/web
outbound:
  services:
    - name: payments
      listen: 127.0.0.1:9001
      endpoints: ["10.0.0.7:8443"]
drain_timeout: 25 bananas
"""


def run(mesh):
    identity = mesh.identity()
    app = Http1App()
    pair = mesh.pair(identity, app.port)
    for _ in range(7):
        expect("a request", Http1(connect(pair.port)).get().status, 200)
    observed(pair)
    commands(pair)
    five_mistakes(mesh, pair)
    agent_down(mesh)


def observed(pair):
    status, body = pair.server.readiness()
    expect("readiness", status, 200)
    metrics = wait_until(lambda: pair.server.metrics(), "metrics")
    samples = [line for line in metrics.splitlines() if line and not line.startswith("#")]
    check(samples, "no metric at all")
    for line in samples:
        check(re.match(r"^[a-zA-Z_:][\w:]*(\{.*\})? \S+$", line), f"not Prometheus' text format: {line!r}")
        check("spiffe://shop.example/ns/web" not in line, f"a label from a peer: {line}")
    check("postern_" in metrics, "no metric of ours")
    wait_until(lambda: len([r for r in pair.server.records() if WEB in str(r)]) >= 7, "a record for each request")
    for record in pair.server.records():
        check("PRIVATE KEY" not in str(record), "a key in the access log")


def commands(pair):
    for sidecar, spiffe_id in ((pair.server, ORDERS), (pair.client, WEB)):
        code, out, err = sidecar.command("status", "--admin", sidecar.admin)
        check(code == 0 and spiffe_id in out, f"status exited {code}: {out}{err}")
        code, out, err = sidecar.command("doctor", "--config", sidecar.config_path)
        check(spiffe_id in out + err, f"doctor does not name {spiffe_id}; exit {code}: {out}{err}")
        code, out, err = sidecar.command("check", sidecar.config_path)
        expect(f"check of a good file ({out}{err})", code, 0)
        code, out, err = sidecar.command("check", sidecar.config_path, "--print")
        check(code == 0 and "orders" in out, f"check --print exited {code}: {out}{err}")
    code, out, err = pair.server.command("schema")
    check(code == 0 and "permission_denied_grace" in out, f"schema exited {code}: {out[:200]}{err}")


def five_mistakes(mesh, pair):
    path = mesh.directory / "mistakes.yaml"
    path.write_text(FIVE_MISTAKES)
    code, out, err = pair.server.command("check", path)
    text = out + err
    expect(f"check of five mistakes ({text})", code, 1)
    places = re.findall(r"mistakes\.yaml:(\d+):(\d+)", text)
    lines = {int(line) for line, _ in places}
    for line, why in ((4, "prot"), (5, "htpp"), (7, "a SPIFFE ID without scheme"), (13, "25 bananas")):
        check(line in lines, f"no problem at line {line} ({why}): {text}")
    check(lines & {10, 11, 12}, f"a mesh service without identity is no problem: {text}")
    check(re.search(r"\bport\b", text), f"the misspelt key's nearest is not named: {text}")


def agent_down(mesh):
    """Without an agent the sidecar starts, binds, and says what is missing."""
    app = Http1App()
    port = free_port()
    socket = f"unix://{mesh.directory}/nobody.sock"
    sidecar = mesh.sidecar("alone", socket, inbound=[inbound_port(app.port, port)]).start(ready=False)
    status = wait_until(lambda: sidecar.alive() and sidecar.readiness(), "readiness to answer")
    expect("readiness without an agent", status[0], 503)
    check("identity" in status[1], f"readiness does not say what is missing: {status[1]!r}")
    connect(port).close()
    code, out, err = sidecar.command("doctor", "--config", sidecar.config_path)
    check(code != 0 and "nobody.sock" in out + err, f"doctor without an agent exited {code}: {out}{err}")


if __name__ == "__main__":
    main(run)
