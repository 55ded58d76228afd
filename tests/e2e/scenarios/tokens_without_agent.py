"""200 audiences under load while the agent is gone for a while, past the time at which every token is renewed: nothing is lost,
and no audience has more than one token fetched in half of a token's life. POSTERN_E2E_AGENT_AWAY: for how long, in seconds."""

import os
import threading
import time

from harness.apps import Http1App
from harness.clients import Http1, connect
from harness.mesh import inbound_port, outbound_service
from harness.processes import check, expect, free_port
from harness.scenario import main

AUDIENCES = 200
AWAY = int(os.environ.get("POSTERN_E2E_AGENT_AWAY", "20"))
THREADS = 4


def run(mesh):
    # Renewed at half of this (and a tenth more or less), which falls into the time without an agent.
    life = 2 * AWAY + 20
    identity = mesh.identity(ttl=f"{life}s")
    app = Http1App()
    mesh_port, local = free_port(), free_port()
    audiences = [f"https://audience-{number}.example" for number in range(AUDIENCES)]
    port = inbound_port(app.port, mesh_port, routes=[{"match": {}, "audience": audiences, "binding": "peer"}])
    orders = mesh.workload(identity, "orders", inbound=[port]).start()
    services = []
    for number, audience in enumerate(audiences):
        service = outbound_service(None, mesh_port, name=f"s{number}", hosts=[f"s{number}.shop.svc"])
        services.append(service | {"listen": None, "credential": {"jwt_svid": {"audience": audience}}})
    services = [{key: value for key, value in service.items() if value is not None} for service in services]
    web = mesh.workload(identity, "web", outbound={"listen": f"127.0.0.1:{local}", "services": services}).start()

    started = time.monotonic()
    ends = started + life / 2 + AWAY / 2 + 8
    counts, problems = [0] * THREADS, []

    def load(thread):
        client = Http1(connect(local))
        number = thread
        while time.monotonic() < ends:
            answer = client.get(f"/{thread}", host=f"s{number % AUDIENCES}.shop.svc")
            if answer.status != 200:
                problems.append((time.monotonic() - started, answer.status, number % AUDIENCES))
            counts[thread] += 1
            number += THREADS
            if answer.headers.get("connection") == "close":
                client = Http1(connect(local))

    threads = [threading.Thread(target=load, args=(thread,)) for thread in range(THREADS)]
    for thread in threads:
        thread.start()
    # Gone before the first token is renewed, back before the first one ends.
    time.sleep(life / 2 - AWAY / 2 - 2)
    fetched = web.metric("postern_token_fetches_total", result="success")
    expect("one fetch for each audience", fetched, AUDIENCES)
    identity.kill()
    time.sleep(AWAY)
    check(web.metric("postern_token_fetches_total", result="failure") > 0, "no renewal fell into the time without an agent")
    identity.start()
    for thread in threads:
        thread.join()
    expect("lost", problems[:5], [])
    renewed = web.metric("postern_token_fetches_total", result="success")
    check(renewed <= 2 * AUDIENCES, f"{renewed} tokens were fetched for {AUDIENCES} audiences in two halves of a life")
    expect("missed", web.metric("postern_tokens_missed_total"), 0)
    check(min(counts) > 1000, f"only {counts} requests")
    print(f"{sum(counts)} requests, {int(renewed)} tokens, {len(orders.records())} records")


if __name__ == "__main__":
    main(run)
