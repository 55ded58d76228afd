"""On real SPIRE: curl → client sidecar → mTLS → server sidecar → nginx."""

from harness.scenario import main
from harness.spire import SpireMesh
from scenarios.curl_nginx import run

if __name__ == "__main__":
    main(run, SpireMesh)
