"""The official Python client `spiffe` against dev-identity: contexts, bundles, updates, withdrawal and restoring."""

import time

from spiffe import SpiffeId, TrustDomain, WorkloadApiClient, X509Source

from harness.mesh import BATCH, ORDERS, TRUST_DOMAIN, WEB
from harness.processes import check, expect, wait_until
from harness.scenario import main


def run(mesh):
    identity = mesh.identity()
    for name, spiffe_id in (("web", WEB), ("orders", ORDERS), ("batch", BATCH)):
        with WorkloadApiClient(identity.socket(name)) as client:
            context = client.fetch_x509_context(timeout=10)
            expect(f"the SVID of {name}", context.default_svid.spiffe_id, SpiffeId(spiffe_id))
            bundle = context.x509_bundle_set.get_bundle_for_trust_domain(TrustDomain(TRUST_DOMAIN))
            check(bundle and bundle.x509_authorities, "no bundle of the own trust domain")
            bundles = client.fetch_x509_bundles(timeout=10)
            expect("FetchX509Bundles", bundles.get_bundle_for_trust_domain(TrustDomain(TRUST_DOMAIN)), bundle)
    with X509Source(socket_path=identity.socket("web")) as source:
        updates(identity, source)
    denied(identity)


def updates(identity, source):
    def serial():
        return source.get_x509_context().default_svid.leaf.serial_number

    def authorities():
        return len(source.get_bundle_for_trust_domain(TrustDomain(TRUST_DOMAIN)).x509_authorities)

    for _ in range(5):
        before = serial()
        identity.ctl("rotate-svids")
        wait_until(lambda: serial() != before, "the rotated SVID", 5)
    expect("authorities at first", authorities(), 1)
    identity.ctl("publish-ca")
    wait_until(lambda: authorities() == 2, "the published authority", 5)
    before = serial()
    identity.ctl("reissue")
    wait_until(lambda: serial() != before, "the reissued SVID", 5)
    identity.ctl("remove-old-ca")
    wait_until(lambda: authorities() == 1, "the old authority to go", 5)
    expect("the SVID after it all", source.get_x509_context().default_svid.spiffe_id, SpiffeId(WEB))


def denied(identity):
    with WorkloadApiClient(identity.socket("web")) as client:
        errors = []
        handler = client.stream_x509_contexts(lambda context: None, errors.append, retry_connect=False)
        time.sleep(0.3)
        identity.ctl("withdraw", "web")
        wait_until(lambda: errors, "the stream to end with an error", 5)
        check("PERMISSION_DENIED" in str(errors[0]), f"the error of a withdrawn workload: {errors[0]}")
        handler.cancel()
    with WorkloadApiClient(identity.socket("orders")) as client:
        expect("another workload meanwhile", client.fetch_x509_svid(timeout=10).spiffe_id, SpiffeId(ORDERS))
    identity.ctl("restore", "web")
    with WorkloadApiClient(identity.socket("web")) as client:
        expect("the restored workload", client.fetch_x509_svid(timeout=10).spiffe_id, SpiffeId(WEB))


if __name__ == "__main__":
    main(run)
