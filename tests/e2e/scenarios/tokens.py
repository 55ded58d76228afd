"""Tokens, with makers that we did not write: sidecars send and check JWT-SVIDs that neither app sees; those that the `spiffe`
library fetched are taken from their owner alone; `postern verify jwt` believes what PyJWT signed, in every algorithm."""

import json
import time

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from harness.apps import Http1App
from harness.clients import Http1, connect, connect_tls, mesh_tls
from harness.mesh import BATCH, ORDERS, WEB, inbound_port, outbound_service
from harness.processes import Failed, check, expect, free_port
from harness.scenario import main
from spiffe import WorkloadApiClient
from spiffe.workloadapi.errors import ValidateJwtSvidError


def fetch(identity, workload, audience):
    with WorkloadApiClient(identity.socket(workload)) as client:
        return client.fetch_jwt_svid(audience={audience}).token


def get(connection, path, token=None):
    authorization = f"authorization: Bearer {token}\r\n" if token else ""
    return connection.request(f"GET {path} HTTP/1.1\r\nhost: orders.shop.svc\r\n{authorization}\r\n".encode())


def run(mesh):
    identity = mesh.identity()
    app = Http1App()
    mesh_port, local, local_batch = free_port(), free_port(), free_port()
    route = {"match": {}, "audience": ORDERS, "binding": "peer", "token": {"headers": {"x-token-subject": "sub"}}}
    port = inbound_port(app.port, mesh_port, allow=[{"spiffe": WEB}, {"spiffe": BATCH}], routes=[route])
    orders = mesh.workload(identity, "orders", inbound=[port]).start()
    services = {"services": [outbound_service(local, mesh_port, credential="jwt_svid")]}
    web = mesh.workload(identity, "web", outbound=services).start()

    # App → sidecar, which attaches → sidecar, which checks → app.
    client = Http1(connect(local))
    for number in range(20):
        expect("through both sidecars", get(client, f"/{number}").status, 200)
    head = app.heads[-1].decode().lower()
    check("authorization" not in head, f"the app saw {head!r}")
    check(f"x-token-subject: {WEB}" in head, f"the app was not told whose token it was: {head!r}")
    expect("tokens fetched", web.metric("postern_token_fetches_total", result="success"), 1)
    expect("the record", orders.records()[-1]["token.subject"], WEB)

    # The library's token, over the library's certificate.
    token = fetch(identity, "web", ORDERS)
    own = Http1(connect_tls(mesh_port, mesh_tls(identity.fetch("web"), ["http/1.1"])))
    expect("a token of the spiffe library", get(own, "/own", token).status, 200)
    expect("no token", get(own, "/none").status, 401)
    expect("a token for others", get(own, "/others", fetch(identity, "web", BATCH)).status, 401)

    with WorkloadApiClient(identity.socket("orders")) as validator:
        expect("validated by the provider", str(validator.validate_jwt_svid(token, ORDERS).spiffe_id), WEB)
        try:
            validator.validate_jwt_svid(token, BATCH)
            raise Failed("the provider takes it for others")
        except ValidateJwtSvidError as refused:
            check("audience" in str(refused), f"it does not say why: {refused}")

    # Captured, and replayed by another workload that may call as well: by itself, and through its sidecar.
    thief = Http1(connect_tls(mesh_port, mesh_tls(identity.fetch("batch"), ["http/1.1"])))
    expect("its own", get(thief, "/its-own", fetch(identity, "batch", ORDERS)).status, 200)
    before = len(app.heads)
    expect("captured", get(thief, "/captured", token).status, 403)
    batch = mesh.workload(identity, "batch", outbound={"services": [outbound_service(local_batch, mesh_port)]}).start()
    expect("captured, by a sidecar", get(Http1(connect(local_batch)), "/captured", token).status, 403)
    expect("requests at the app", len(app.heads), before)
    expect("the refusal", orders.records()[-1]["refusal"], "token_not_bound")
    for sidecar in (orders, web, batch):
        said = sidecar.log_text() + sidecar.metrics() + sidecar.records_path.read_text()
        check(token.rsplit(".", 1)[1] not in said, f"{sidecar.name} says a token")

    by_pyjwt(mesh, web)


def by_pyjwt(mesh, sidecar):
    """Every algorithm of JWT-SVID §2.1, signed by PyJWT; and the same token with a changed claim."""
    curves = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
    of_rsa = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    keys = {name: ec.generate_private_key(curve) for name, curve in curves.items()}
    keys |= {name: of_rsa for name in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")}
    jwks = []
    for name, key in keys.items():
        public = jwt.get_algorithm_by_name(name).to_jwk(key.public_key(), as_dict=True)
        public.pop("key_ops", None)
        jwks.append(public | {"kid": name})
    bundle = mesh.directory / "keys.json"
    bundle.write_text(json.dumps({"keys": jwks}))
    file = mesh.directory / "token.jwt"
    claims = {"sub": WEB, "aud": [ORDERS], "exp": int(time.time()) + 300}
    for name, key in keys.items():
        token = jwt.encode(claims, key, algorithm=name, headers={"kid": name})
        header, payload, signature = token.split(".")
        changed = payload[:-4] + ("AAAA" if payload[-4:] != "AAAA" else "BBBB")
        for text, expected in ((token, 0), (f"{header}.{changed}.{signature}", 1)):
            file.write_text(text)
            arguments = ["verify", "jwt", "--token", str(file), "--audience", ORDERS]
            arguments += ["--trust-domain", "shop.example", "--bundle", str(bundle)]
            code, out, err = sidecar.command(*arguments)
            expect(f"{name}: {out}{err}", code, expected)


if __name__ == "__main__":
    main(run)
