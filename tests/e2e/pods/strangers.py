"""Who has no SVID gets nothing, whatever is tried; an application gets nowhere that no service names, alive or dead sidecar."""

import secrets
import signal
import socket
import ssl
import time

from harness import pod_scene
from harness.bundles import web_certificate
from harness.clients import mesh_tls
from harness.pods import APP_UID, PodMesh
from harness.processes import check, expect, tool, wait_until
from harness.scenario import main
from harness.wiretap import Wiretap

# As long as any server takes to speak first, and longer than detection waits.
SILENCE_SECONDS = 1.5
UNDECLARED = 7777


def run(mesh):
    scene = pod_scene.start(mesh)
    undeclared_server(mesh)
    nothing_for_plaintext(mesh, scene)
    nothing_for_foreign_certificates(mesh, scene)
    nothing_for_other_workloads(mesh, scene)
    nowhere_but_to_services(mesh, scene)
    users(mesh, scene)
    nothing_leaves_past_a_dead_sidecar(mesh, scene)


def undeclared_server(mesh):
    with mesh.orders.entered():
        server = socket.create_server(("0.0.0.0", UNDECLARED))
    mesh.workspace.at_end(server.close)


def open_to(mesh, address, port, seconds=SILENCE_SECONDS):
    with mesh.node.entered():
        return socket.create_connection((address, port), timeout=seconds)


def received(connection):
    """All that comes until the end, or until nothing has come for a while."""
    content = b""
    try:
        while data := connection.recv(65536):
            content += data
    except OSError:
        pass
    return content


def nothing_for_plaintext(mesh, scene):
    """From the node, where no sidecar is: in silence, and with what each server would answer."""
    marker = f"plain-{secrets.token_hex(8)}".encode()
    tap = Wiretap(mesh, mesh.node, "to-orders", "wire-plaintext")
    openings = {
        "http": b"GET /file HTTP/1.1\r\nhost: x\r\nx-marker: " + marker + b"\r\n\r\n",
        "http2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "redis": b"PING\r\n",
        "postgresql": bytes.fromhex("0000000804d2162f"),
        "smtp": b"EHLO there\r\n",
        "raw": b"hello\n",
    }
    for address in (mesh.orders.v4, mesh.orders.v6):
        for name, port in scene.orders.ports.items():
            for opening in {openings.get(name, b"\x00"), b""}:
                # Silence is told apart once; the deadlines are the same for all.
                if opening == b"" and name not in ("smtp", "mariadb"):
                    continue
                with open_to(mesh, address, port) as connection:
                    connection.sendall(opening)
                    nothing_of_the_server(received(connection), scene, f"{name} at {address} told {opening!r}")
    with open_to(mesh, mesh.orders.v4, UNDECLARED) as connection:
        expect("what a port that nobody declared says", received(connection), b"")
    wire = tap.stop()
    check(wire.plaintext() and wire.holds(marker), "the tap does not see plaintext when there is some")
    refusals = {record.get("refusal") for record in scene.server.records()}
    check("plaintext_refused" in refusals, f"plaintext was refused for other reasons: {refusals}")


def nothing_of_the_server(content, scene, what):
    """An HTTP refusal and a TLS alert are the sidecar's own words."""
    for word in (b"200 OK", b"+PONG", b"220", b"MariaDB", scene.orders.file[:64]):
        check(word not in content, f"{what}: {content[:200]!r}")
    own = content == b"" or content.startswith((b"HTTP/1.1 400 ", b"\x15\x03"))
    check(own, f"{what}: {content[:200]!r}")


def try_tls(mesh, context, address, port, request):
    try:
        with open_to(mesh, address, port, 5) as plain, context.wrap_socket(plain) as connection:
            connection.sendall(request)
            return received(connection)
    except (ssl.SSLError, OSError):
        return b""


REQUEST = b"GET /file HTTP/1.1\r\nhost: x\r\n\r\n"


def nothing_for_foreign_certificates(mesh, scene):
    """No certificate, and one of an authority that nobody knows."""
    certificates = web_certificate(mesh.directory / "foreign", "10.77.2.1")
    for own in (None, certificates):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if own:
            context.load_cert_chain(own.certificate, own.key)
        for address in (mesh.orders.v4, mesh.orders.v6):
            for name in ("http", "redis", "smtp"):
                content = try_tls(mesh, context, address, scene.orders.ports[name], REQUEST)
                expect(f"{name} at {address} without an SVID", content, b"")


def nothing_for_other_workloads(mesh, scene):
    """A valid SVID that no rule names: known, and refused."""
    context = mesh_tls(scene.identity.fetch("batch"), [])
    content = try_tls(mesh, context, mesh.orders.v4, scene.orders.ports["http"], REQUEST)
    check(content.startswith(b"HTTP/1.1 403 "), f"a workload without a rule got {content[:200]!r}")
    expect("L4 of a workload without a rule", try_tls(mesh, context, mesh.orders.v4, scene.orders.ports["redis"], b"PING\r\n"), b"")
    wait_until(lambda: scene.server.records_of(refusal="not_allowed", listener="redis"), "the refusal's record")


def get(mesh, url, uid=APP_UID):
    """The status that curl sees, 000 when it gets none."""
    command = (tool("curl"), "-s", "-o", "/dev/null", "-m", "5", "-w", "%{http_code}", "--noproxy", "*", url)
    return mesh.web.run(*command, uid=uid)[1]


def nowhere_but_to_services(mesh, scene):
    """To the node, to a port of the pod that no service names, and to ourselves: refused here, and not tried."""
    with mesh.node.entered():
        server = socket.create_server(("0.0.0.0", UNDECLARED))
    server.setblocking(False)
    mesh.workspace.at_end(server.close)
    tap = Wiretap(mesh, mesh.node, "to-web", "wire-undeclared")
    for host in ("10.77.1.1", mesh.orders.v4, f"[{mesh.orders.v6}]", "169.254.169.254"):
        expect(f"the status of {host}", get(mesh, f"http://{host}:{UNDECLARED}/"), "403")
    for port in (15001, 15006):
        check(get(mesh, f"http://{mesh.web.v4}:{port}/") in ("000", "403", "508"), f"port {port} of ours served a request")
    with mesh.web.entered(), socket.create_connection(("10.77.1.1", UNDECLARED), timeout=5) as connection:
        connection.sendall(b"\x01 not HTTP")
        expect("what a stream to nowhere gets", received(connection), b"")
    try:
        server.accept()
        check(False, "a connection that no service names left the pod")
    except BlockingIOError:
        pass
    expect("what left the pod", [stream for stream, _ in tap.stop().contents()], [])
    expect("the web pod's readiness", scene.client.readiness()[0], 200)


def users(mesh, scene):
    """A captured service for one local user."""
    for service in scene.client.config["outbound"]["services"]:
        if service["name"] in ("http", "redis"):
            service["users"] = [APP_UID]
    scene.client.reload()
    url = f"http://{mesh.orders.v4}/who"
    wait_until(lambda: get(mesh, url, uid=0) == "403", "the reload")
    expect("a request of the user who may", get(mesh, url), "200")
    redis = (tool("redis-cli"), "-h", mesh.orders.v4, "PING")
    expect("redis of the user who may", mesh.web.run(*redis, uid=APP_UID)[1].strip(), "PONG")
    check("PONG" not in mesh.web.run(*redis, uid=0)[1], "a user who may not use redis did")
    refused = {"refusal": "local_user_refused", "service": "redis"}
    wait_until(lambda: scene.client.records_of(**refused), "the record of the refused user")
    expect("the refused user", scene.client.records_of(**refused)[0]["process.user.id"], 0)


def nothing_leaves_past_a_dead_sidecar(mesh, scene):
    url = f"http://{mesh.orders.v4}/who"
    expect("before", get(mesh, url), "200")
    tap = Wiretap(mesh, mesh.node, "to-web", "wire-dead")
    scene.client.process.signal(signal.SIGKILL)
    scene.client.process.child.wait(10)
    time.sleep(0.1)
    before = len(scene.server.records())
    for uid in (0, APP_UID):
        expect("with the sidecar dead", get(mesh, url, uid), "000")
    expect("new records of the service pod", len(scene.server.records()), before)
    expect("who tried to leave", {stream[0] for stream, _ in tap.stop().contents() if stream[0] == mesh.web.v4}, set())


if __name__ == "__main__":
    main(run, PodMesh)
