"""An idle sidecar (one worker) uses under 3 MB of its own, and 18 MB with its program; 2,000 idle mTLS peers, after a
request each, under 20 KiB each.

All sidecars of a node share the pages of one program. The kernel counts to each what it maps: with the program wholly in
the page cache it maps 64 KiB around each page that is needed, so nearly all of it. What one more sidecar costs is its own.
"""

import re
import resource
import time
from pathlib import Path

from harness.clients import Http1, connect_tls, mesh_tls
from harness.mesh import inbound_port, is_debug_build
from harness.processes import Skip, check, expect, free_port
from harness.scenario import main

PEERS = 2000


def run(mesh):
    if is_debug_build():
        raise Skip("a debug build: its size says nothing")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 3 * PEERS:
        raise Skip(f"at most {hard} open files are allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 3 * PEERS), hard))
    identity = mesh.identity()
    app_port = mesh.nginx("location / { return 200 'hello'; }")
    port = free_port()
    sidecar = mesh.workload(identity, "orders", inbound=[inbound_port(app_port, port)]).start()
    time.sleep(2)
    idle, own = resident(sidecar), resident(sidecar, "RssAnon")
    context = mesh_tls(identity.fetch("web"), ["http/1.1"])
    peers = []
    for _ in range(PEERS):
        peer = Http1(connect_tls(port, context))
        expect("a request", peer.get().status, 200)
        peers.append(peer)
    # The pool towards the app empties after 3 s.
    time.sleep(5)
    each = (resident(sidecar) - idle) / PEERS
    print(f"idle {idle / 1e6:.1f} MB, of its own {own / 1e6:.2f} MB; each of {PEERS} peers {each / 1024:.1f} KiB")
    check(own < 3e6, f"an idle sidecar has {own / 1e6:.2f} MB of its own")
    check(idle < 18e6, f"an idle sidecar uses {idle / 1e6:.1f} MB with its program")
    check(each < 20 * 1024, f"an idle peer costs {each / 1024:.1f} KiB")
    for peer in peers[::100]:
        expect("a request after the pause", peer.get().status, 200)


def resident(sidecar, of="VmRSS"):
    status = Path(f"/proc/{sidecar.process.pid}/status").read_text()
    return int(re.search(rf"{of}:\s+(\d+) kB", status).group(1)) * 1024


if __name__ == "__main__":
    main(run)
