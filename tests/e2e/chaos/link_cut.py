"""The link between two hosts: packets are dropped at random, all are dropped for some seconds, connections are reset (F-25)."""

import time

from harness.chaos import Scene, seconds
from harness.netns import Cable, POD_V4
from harness.processes import accepts, tool, wait_until
from harness.scenario import main

TABLE = "table inet chaos"


def run(mesh):
    tool("nft")
    cable = Cable(mesh.workspace)
    # The client's side is a namespace of its own; its sidecar reaches the peer over the cable, and the ledger its sidecar.
    scene = Scene(mesh, start=False)
    for port in scene.server.config["inbound"]:
        port["listen"] = port["listen"].replace("127.0.0.1", POD_V4)
    services = scene.client.config["outbound"]["services"]
    for service in services:
        service["endpoints"] = [service["endpoints"][0].replace("127.0.0.1", POD_V4)]
    scene.app.kill()
    scene.start_app(cable.pod.command())
    scene.server.prefix, scene.client.prefix = cable.pod.command(), cable.outside.command()
    scene.server.start(ready=False)
    scene.client.start(ready=False)
    for sidecar, namespace in ((scene.server, cable.pod), (scene.client, cable.outside)):
        wait_until(lambda: namespace.inside(lambda: sidecar.readiness()[0] == 200), f"{sidecar.name} to be ready", 20)
    wait_until(lambda: cable.outside.inside(lambda: accepts(scene.http)), "the client's listener")
    scene.load(prefix=cable.outside.command(), deadline=40)
    time.sleep(1)

    def nft(text):
        cable.pod.must("nft", "-f", "-", stdin=text)

    ports = f"{{ {scene.mesh_http}, {scene.mesh_tcp} }}"
    for _ in range(max(1, int(seconds() / 20))):
        # Retransmissions take care of it: nobody may notice, but for the wait.
        nft(f"{TABLE} {{ chain input {{ type filter hook input priority 0; tcp dport {ports} numgen random mod 100 < 5 drop; }}\n}}\n")
        time.sleep(seconds() / 2)
        nft(f"delete {TABLE}\n")
        nft(f"{TABLE} {{ chain input {{ type filter hook input priority 0; tcp dport {ports} drop; }}\n}}\n")
        time.sleep(3)
        nft(f"delete {TABLE}\n")
        # Until the retransmissions, which come less and less often, have found that out.
        time.sleep(4)
        with scene.fault(recovery=3):
            nft(f"{TABLE} {{ chain input {{ type filter hook input priority 0; tcp dport {ports} reject with tcp reset; }}\n}}\n")
            time.sleep(1)
            nft(f"delete {TABLE}\n")
        time.sleep(2)
    scene.verdict(
        "link_cut",
        "packets dropped (one in twenty; then all, for seconds), and connections reset on their way",
        "drops: nothing but time. Resets: requests under way break off, others are refused with 502 or 503; streams end",
        may=("refused", "broken"),
        entitled_cuts=True,
    )


if __name__ == "__main__":
    main(run)
