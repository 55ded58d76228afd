"""On real SPIRE: tokens between sidecars while the agent is away and the key of tokens is rotated; a captured one is worth nothing
to others, and nothing to its owner once its key is revoked. Last, `postern inventory` against SPIRE's own entries."""

import json
import time

from harness.apps import Http1App
from harness.clients import Http1, Load, connect, connect_tls, mesh_tls
from harness.mesh import BATCH, ORDERS, WEB, inbound_port, outbound_service
from harness.processes import check, expect, free_port, tool, wait_until
from harness.scenario import main
from harness.spire import SpireMesh

TOKEN_TTL = 60


def get(connection, token):
    head = f"GET / HTTP/1.1\r\nhost: orders.shop.svc\r\nauthorization: Bearer {token}\r\n\r\n"
    return connection.request(head.encode())


def recorded(sidecar, key, value):
    wait_until(lambda: any(record.get(key) == value for record in sidecar.records()), f"a record with {key} {value}", 5)


def run(mesh):
    tool("wrk")
    identity = mesh.identity(jwt_ttl=TOKEN_TTL)
    app, nginx = Http1App(), mesh.nginx("location / { return 200 'hello'; }")
    ports = {"orders": (app.port, free_port(), free_port()), "load": (nginx, free_port(), free_port())}
    route = {"match": {}, "audience": ORDERS, "binding": "peer"}
    callers = [{"spiffe": WEB}, {"spiffe": BATCH}]
    inbound = [
        inbound_port(behind, port, name=name, allow=callers, routes=[route]) for name, (behind, port, _) in ports.items()
    ]
    services = [
        outbound_service(local, port, name=name, hosts=[f"{name}.shop.svc"], credential="jwt_svid")
        for name, (_, port, local) in ports.items()
    ]
    orders = mesh.workload(identity, "orders", inbound=inbound).start()
    web = mesh.workload(identity, "web", outbound={"services": services}).start()

    expect("through both sidecars", Http1(connect(ports["orders"][2])).get().status, 200)
    check(b"authorization" not in app.heads[-1].lower(), f"the app saw {app.heads[-1]!r}")
    recorded(orders, "token.subject", WEB)

    token = identity.fetch_token("web", ORDERS)
    own, thief = (mesh_tls(identity.fetch(name), ["http/1.1"]) for name in ("web", "batch"))
    port = ports["orders"][1]
    expect("its own", get(Http1(connect_tls(port, own)), token).status, 200)
    expect("captured", get(Http1(connect_tls(port, thief)), token).status, 403)
    recorded(orders, "refusal", "token_not_bound")

    away(mesh, identity, ports["load"][2])
    rotated(mesh, identity, ports["load"][2])
    expect("its key is revoked", get(Http1(connect_tls(port, own)), token).status, 401)
    recorded(orders, "refusal", "token_invalid")
    check(web.metric("postern_token_fetches_total", result="success") >= 3, "tokens were not fetched again")
    compared(mesh, identity, orders, web)


def away(mesh, identity, port):
    load = Load(mesh, f"http://127.0.0.1:{port}/", TOKEN_TTL // 2)
    time.sleep(2)
    identity.kill()
    time.sleep(TOKEN_TTL // 4)
    identity.start()
    print("agent away:", load.finish(), "requests with tokens")


def rotated(mesh, identity, port):
    """As SPIRE's documents have it: prepare, let everybody learn of it, activate, taint, revoke."""
    load = Load(mesh, f"http://127.0.0.1:{port}/", 50)
    old = identity.authorities("jwt")["active"]
    identity.authority("prepare", of="jwt")
    prepared = identity.authorities("jwt")["prepared"]
    time.sleep(6)
    identity.authority("activate", prepared, of="jwt")
    identity.authority("taint", old, of="jwt")
    # Sidecars fetch again at half a token's life.
    time.sleep(TOKEN_TTL // 2 + 5)
    identity.authority("revoke", old, of="jwt")
    time.sleep(6)
    print("key of tokens rotated:", load.finish(), "requests with tokens")


def compared(mesh, identity, orders, web):
    entries = mesh.directory / "entries.json"
    entries.write_text(identity.ctl("entry", "show", "-output", "json"))
    of_web = mesh.directory / "web.json"
    code, out, err = web.command("inventory", "--admin", web.admin, "--json")
    expect(f"inventory of web: {err}", code, 0)
    of_web.write_text(out)
    command = ["inventory", "--admin", orders.admin, "--against", entries, "--with", of_web]
    code, out, err = orders.command(*command)
    expect(f"all are registered: {out}{err}", code, 0)
    identity.delete_entry("batch")
    entries.write_text(identity.ctl("entry", "show", "-output", "json"))
    code, out, err = orders.command(*command)
    expect(f"batch is not: {out}{err}", (code, BATCH in out), (1, True))
    check("unknown" in json.loads(orders.command(*command, "--json")[1])["against"], "no findings as JSON")


if __name__ == "__main__":
    main(run, SpireMesh)
