"""The application closes connections after the head, after the body, within the answer, or right after it (THREATS F-22)."""

import time

from harness.chaos import Scene, seconds
from harness.processes import check
from harness.scenario import main


def run(mesh):
    # HTTP/2 towards the application would end others' requests with each of its closes.
    scene = Scene(mesh, port={"app_http": 1})
    with scene.fault():
        scene.load(rude=True, grpc=False, http1=24, think=0.01, slow=0, streams=1, body=4000)
        time.sleep(seconds())
        scene.stop_load()
    books = scene.books()
    repeated = sum(count - 1 for count in books.seen.values() if count > 1)
    check(repeated <= 0.2 * len(books.requests), f"{repeated} repetitions of {len(books.requests)} requests")
    scene.verdict(
        "rude_app",
        "an application that closes at any point of a request",
        "a request that broke off fails by itself, and is sent again only if it is idempotent and nothing was answered",
        may=("refused", "broken"),
        remarks=f"{repeated} repetitions",
    )


if __name__ == "__main__":
    main(run)
