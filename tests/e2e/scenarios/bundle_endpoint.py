"""Two trust domains that fetch each other's bundle themselves: one from nginx with an SVID (https_spiffe), one from nginx
with a Web PKI certificate (https_web)."""

import json

from harness.bundles import spiffe_bundle, web_certificate
from harness.mesh import DevIdentity, ORDERS, WEB, fetch_pems, inbound_port, outbound_service
from harness.processes import check, expect, free_port, tool, wait_until
from harness.scenario import main

PARTNER = "partner.example"
CALLER = f"spiffe://{PARTNER}/ns/web/sa/frontend"
ENDPOINT = f"spiffe://{PARTNER}/bundle-endpoint"


def run(mesh):
    curl = [tool("curl"), "-sS", "--max-time", "20", "-H", "host: orders.shop.svc", "-o", "/dev/null"]
    curl += ["-w", "%{http_code} %header{x-postern-decision}"]
    tool("nginx")
    ours = DevIdentity(mesh, {"orders": ORDERS, "web": WEB})
    theirs = DevIdentity(mesh, {"web": CALLER, "endpoint": ENDPOINT}, trust_domain=PARTNER)
    our_pems = fetch_pems(ours.socket("web"), mesh.directory / "ours")
    their_pems = fetch_pems(theirs.socket("endpoint"), mesh.directory / "theirs")
    web = web_certificate(mesh.directory / "web-pki", "127.0.0.1")
    spiffe_port, web_port = free_port(), free_port()
    app = mesh.nginx("location / { return 200 'hello $http_x_spiffe_id\\n'; }", name="app")
    mesh.nginx(https(spiffe_port, their_pems.certificate, their_pems.key), name="their-endpoint")
    mesh.nginx(https(web_port, web.certificate, web.key), name="our-endpoint")
    publish(mesh.directory / "their-endpoint", their_pems.bundle, {"spiffe_sequence": 1, "spiffe_refresh_hint": 60})
    publish(mesh.directory / "our-endpoint", our_pems.bundle, {})

    mesh_port, local_port = free_port(), free_port()
    server = mesh.workload(
        ours, "orders", inbound=[inbound_port(app, mesh_port, allow=[{"spiffe": f"spiffe://{PARTNER}/**"}])]
    ).start()
    federation = {
        "trust_domain": "shop.example",
        "url": f"https://127.0.0.1:{web_port}/bundle.json",
        "profile": "https_web",
        "roots": web.root,
    }
    client = mesh.workload(
        theirs, "web", outbound={"services": [outbound_service(local_port, mesh_port)]}, identity={"federation": [federation]}
    ).start()
    wait_until(lambda: client.metric("postern_bundle_fetches_total", result="success") == 1, "the first fetch")
    url = f"http://127.0.0.1:{local_port}/"

    # The server does not know the partner yet.
    code, out, err = mesh.workspace.run([*curl, url])
    check(out.startswith("502 ") or out.startswith("503 "), f"without a bundle: {code} {out} {err}")
    wait_until(lambda: "peer_not_verified" in json.dumps(server.records()), "the server's record of it")

    # A reload brings the relationship, by way of a redirect.
    server.config["identity"]["federation"] = [{
        "trust_domain": PARTNER,
        "url": f"https://127.0.0.1:{spiffe_port}/",
        "profile": "https_spiffe",
        "spiffe_id": ENDPOINT,
        "bootstrap": their_pems.bundle,
        "keep": str(mesh.directory / "orders" / "partner.json"),
    }]
    server.reload()
    wait_until(lambda: server.metric("postern_bundle_fetches_total", result="success", trust_domain=PARTNER) == 1, "a fetch")
    code, out, err = mesh.workspace.run([*curl, url])
    check(out.startswith("200 "), f"with both bundles: {code} {out} {err}\n{server.log_text()[-2000:]}")
    check((mesh.directory / "orders" / "partner.json").exists(), "the bundle was not kept")
    code, out, err = server.command("status", "--admin", server.admin)
    check("bundle endpoints:" in out and f"{PARTNER}  fetched" in out, f"status: {code} {out} {err}")
    code, out, err = server.command("doctor", "--config", server.config_path)
    check(f"{PARTNER} from https://127.0.0.1:{spiffe_port}/" in out, f"doctor: {code} {out} {err}")

    # The relationship ends: so does the trust, and the connections made with it.
    server.config["identity"]["federation"] = []
    server.reload()
    wait_until(lambda: "trust_domain_removed" in json.dumps(server.records()), "the live connection's end")
    code, out, err = mesh.workspace.run([*curl, url])
    check(not out.startswith("200 "), f"after the end: {code} {out} {err}")


def https(port, certificate, key):
    """Serves `bundle.json`, and redirects to it from `/`."""
    listen = f"listen 127.0.0.1:{port} ssl; ssl_certificate {certificate}; ssl_certificate_key {key};"
    return listen + " location = / { return 307 /bundle.json; }"


def publish(directory, bundle_pem, more):
    (directory / "files" / "bundle.json").write_text(spiffe_bundle(bundle_pem, more))


if __name__ == "__main__":
    main(run)
