"""A forged identity header never reaches an app: any spelling, header or trailer, HTTP/1 and 2, in and out."""

from harness.apps import Http1App, Http2App, fields_of
from harness.clients import Http1, Http2, connect, connect_tls, http2_headers, mesh_tls
from harness.mesh import WEB, inbound_port, outbound_service
from harness.processes import check, expect, free_port
from harness.scenario import main

NAMES = ("x-forwarded-client-cert", "x-spiffe-id", "client-cert", "client-cert-chain")
MARK = "FORGED"


def spellings(name):
    """What an app's framework may fold into the same variable: case, `_`, `.`, and mixtures of them."""
    kinds = [name, name.upper(), name.title(), name.replace("-", "_"), name.replace("-", ".")]
    kinds.append(name.replace("-", "_", 1))
    kinds.append(name.replace("-", ".", 1).upper())
    kinds.append("".join(letter.upper() if index % 2 else letter for index, letter in enumerate(name)))
    return list(dict.fromkeys(kinds))


class Doors:
    """Every way in: (name, the app's version, connection maker, the identity that the app must see or None)."""

    def __init__(self, mesh, app, app_http):
        identity = mesh.identity()
        self.pems = identity.fetch("web")
        strict, permissive, plain = free_port(), free_port(), free_port()
        out_mesh, out_plain = free_port(), free_port()
        anyone = [{"spiffe": WEB}, {"anonymous": True}]
        headers = {"xfcc": True, "spiffe_id": True, "client_cert": False}
        ports = [
            inbound_port(app.port, strict, app_http=app_http, identity_headers=headers),
            inbound_port(app.port + 1, permissive, name="b", tls="permissive", allow=anyone),
            inbound_port(app.port + 2, plain, name="c", tls="off", allow=[{"anonymous": True}]),
        ]
        for port in ports:
            port.update(app=f"127.0.0.1:{app.port}", app_http=app_http)
        services = [
            outbound_service(out_mesh, strict),
            outbound_service(out_plain, app.port, name="plain", hosts=["plain.shop.svc"], tls="off", identity=None),
        ]
        mesh.sidecar(f"orders-{app_http}", identity.socket("orders"), inbound=ports).start()
        mesh.sidecar(f"web-{app_http}", identity.socket("web"), outbound={"services": services}).start()
        # The plain service keeps the caller's version, so it only carries the one that the app speaks.
        self.doors = [
            ("an mTLS peer on the strict port", strict, True, WEB, True),
            ("an mTLS peer on the permissive port", permissive, True, WEB, True),
            ("plaintext on the permissive port", permissive, False, None, True),
            ("plaintext on the plaintext port", plain, False, None, True),
            ("outbound through the mesh", out_mesh, False, WEB, True),
            ("outbound in plaintext", out_plain, False, None, False),
        ]

    def connect(self, port, tls, alpn):
        return connect_tls(port, mesh_tls(self.pems, [alpn])) if tls else connect(port)


def run(mesh):
    app = Http1App()
    doors = Doors(mesh, app, "1")
    for name, port, tls, caller, any_version in doors.doors:
        http1(doors, app, name, port, tls, caller)
        if any_version:
            http2(doors, app, name, port, tls)
    check(MARK.encode() not in app.everything, "a forged value reached the HTTP/1 app")

    app = Http2App()
    doors = Doors(mesh, app, "2")
    for name, port, tls, *_ in doors.doors:
        http2(doors, app, name, port, tls)
        check(app.requests, f"{name}: nothing reached the HTTP/2 app")
    for fields in app.requests + app.trailers:
        check(all(MARK.encode() not in value for _, value in fields), f"a forged value reached the app: {fields}")
    for fields in app.requests:
        for header in ("x-spiffe-id", "x-forwarded-client-cert"):
            values = [value for key, value in fields if key == header.encode()]
            check(len(values) <= 1, f"{header} more than once: {fields}")


def http1(doors, app, door, port, tls, caller):
    host = "plain.shop.svc" if door == "outbound in plaintext" else "orders.shop.svc"
    reached = 0
    for name in NAMES:
        for spelling in spellings(name):
            forged = f"{spelling}: {MARK};URI=spiffe://shop.example/admin\r\n"
            plain = f"GET /h HTTP/1.1\r\nhost: {host}\r\n{forged}{forged}\r\n"
            trailer = (
                f"POST /t HTTP/1.1\r\nhost: {host}\r\nte: trailers\r\ntrailer: {spelling}\r\n"
                f"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n{forged}x-harmless: yes\r\n\r\n"
            )
            hop = f"GET /c HTTP/1.1\r\nhost: {host}\r\nconnection: {', '.join(NAMES)}\r\n{forged}\r\n"
            for request in (plain, trailer, hop):
                before = len(app.heads)
                answer = one(doors, port, tls, request)
                # A refusal is as good as stripping; what got through must carry the true identity once.
                check(answer in (200, 400), f"{door}: {request!r} was answered {answer}")
                if len(app.heads) > before:
                    reached += 1
                    identity_once(door, app.heads[-1], caller)
                check(MARK.encode() not in app.everything, f"{door}: {spelling!r} reached the app: {request!r}")
    check(reached > len(NAMES), f"{door}: next to nothing reached the app, so nothing was shown")


def one(doors, port, tls, request):
    client = Http1(doors.connect(port, tls, "http/1.1"))
    try:
        return client.request(request.encode()).status
    finally:
        client.close()


def identity_once(door, head, caller):
    fields = fields_of(head)
    expected = [caller.encode()] if caller else []
    expect(f"{door}: x-spiffe-id", fields.get(b"x-spiffe-id", []), expected)
    certificates = fields.get(b"x-forwarded-client-cert", [])
    expect(f"{door}: number of x-forwarded-client-cert", len(certificates), len(expected))
    if caller:
        check(f"URI={caller}".encode() in certificates[0], f"{door}: {certificates[0]!r}")


def http2(doors, app, door, port, tls):
    authority = "plain.shop.svc" if door == "outbound in plaintext" else "orders.shop.svc"
    for name in NAMES:
        for spelling in spellings(name):
            forged = (spelling, f"{MARK};URI=spiffe://shop.example/admin")
            for headers, trailers in (([forged, forged], None), ([], [forged, ("x-harmless", "yes")])):
                client = Http2(doors.connect(port, tls, "h2"))
                try:
                    answer = client.request(http2_headers("POST", "/", authority, headers), b"abc", trailers)
                except ConnectionError:
                    continue
                finally:
                    client.close()
                # Upper-case names are malformed in HTTP/2: the stream may be reset (None).
                check(answer.status in (200, 400, None), f"{door}: {spelling!r} over HTTP/2: {answer.status}")


if __name__ == "__main__":
    main(run)
