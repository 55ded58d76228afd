"""A sidecar of another trust domain believes a real SPIRE server's workloads: it fetches the bundle from the server's own
endpoint, follows a rotation of its authorities, and goes on after a restart."""

import json
import time

from harness.bundles import spiffe_bundle, web_certificate
from harness.mesh import DevIdentity, TRUST_DOMAIN, WEB, fetch_pems, inbound_port, outbound_service
from harness.processes import check, expect, free_port, tool, wait_until
from harness.scenario import main
from harness.spire import SpireMesh

PARTNER = "partner.example"
ORDERS = f"spiffe://{PARTNER}/ns/shop/sa/orders"


def run(mesh):
    curl = [tool("curl"), "-sS", "--max-time", "20", "-H", "host: orders.shop.svc"]
    spire = mesh.identity()
    theirs = DevIdentity(mesh, {"orders": ORDERS}, trust_domain=PARTNER)
    app = mesh.nginx("location / { return 200 'hello $http_x_spiffe_id'; }", name="app")
    bootstrap = mesh.directory / "bootstrap.json"
    bootstrap.write_text(spire.ctl("bundle", "show", "-format", "spiffe"))
    mesh_port, local_port = free_port(), free_port()
    kept = mesh.directory / "kept.json"
    of_spire = {
        "trust_domain": TRUST_DOMAIN,
        "url": f"https://127.0.0.1:{spire.bundle_port}/",
        "profile": "https_spiffe",
        "spiffe_id": f"spiffe://{TRUST_DOMAIN}/spire/server",
        "bootstrap": str(bootstrap),
        "keep": str(kept),
    }
    server = mesh.sidecar(
        "orders",
        theirs.socket("orders"),
        inbound=[inbound_port(app, mesh_port, allow=[{"spiffe": WEB}])],
        identity={"federation": [of_spire]},
    ).start()
    # The other way round by Web PKI, from nginx: SPIRE's agent does not federate with the partner.
    web = web_certificate(mesh.directory / "web-pki", "127.0.0.1")
    web_port = free_port()
    listen = f"listen 127.0.0.1:{web_port} ssl; ssl_certificate {web.certificate}; ssl_certificate_key {web.key};"
    mesh.nginx(listen, name="their-endpoint")
    bundle = spiffe_bundle(fetch_pems(theirs.socket("orders"), mesh.directory / "pems").bundle, {})
    (mesh.directory / "their-endpoint" / "files" / "bundle.json").write_text(bundle)
    of_partner = {
        "trust_domain": PARTNER,
        "url": f"https://127.0.0.1:{web_port}/bundle.json",
        "profile": "https_web",
        "roots": web.root,
    }
    service = outbound_service(local_port, mesh_port, identity=ORDERS)
    client = mesh.workload(
        spire, "web", outbound={"services": [service]}, identity={"federation": [of_partner]}
    ).start()
    for sidecar in (server, client):
        wait_until(lambda: sidecar.metric("postern_bundle_fetches_total", result="success") == 1, f"{sidecar.name}'s fetch")
    url = f"http://127.0.0.1:{local_port}/"
    code, out, err = mesh.workspace.run([*curl, url])
    expect(f"across trust domains ({code} {err}; {server.log_text()[-2000:]})", out, f"hello {WEB}")

    old = spire.authorities()["active"]
    spire.authority("prepare")
    prepared = spire.authorities()["prepared"]
    wait_until(lambda: server.metric("postern_bundle_anchors", trust_domain=TRUST_DOMAIN) == 2, "the prepared one", 90, 1)
    spire.authority("activate", prepared)
    # Tainting makes agents renew every SVID of the old authority; without the time for that they never do.
    spire.authority("taint", old)
    time.sleep(12)
    spire.authority("revoke", old)
    wait_until(lambda: server.metric("postern_bundle_anchors", trust_domain=TRUST_DOMAIN) == 1, "the old one gone", 150, 1)
    expect("failed fetches", server.metric("postern_bundle_fetches_total", result="failure"), 0)
    wait_until(lambda: mesh.workspace.run([*curl, url])[1] == f"hello {WEB}", "an SVID of the new authority", 60, 1)

    # The bootstrap bundle vouches for nobody any more. What was kept does.
    server.process.terminate()
    server.start()
    code, out, err = mesh.workspace.run([*curl, url])
    expect(f"after a restart ({code} {err}; {server.log_text()[-2000:]})", out, f"hello {WEB}")
    wait_until(lambda: server.metric("postern_bundle_fetches_total", result="success") == 1, "a fetch after it", 30, 0.5)
    check(len(json.loads(json.loads(kept.read_text())["document"])["keys"]) >= 1, "nothing was kept")


if __name__ == "__main__":
    main(run, SpireMesh)
