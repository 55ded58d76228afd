"""The identity provider refuses, hangs, closes, and answers with garbage under load (THREATS F-04, F-05, F-07)."""

import os
import random
import socket
import threading
import time

from harness.chaos import Scene, seconds
from harness.processes import check, wait_until
from harness.scenario import main

MODES = ("refuse", "close", "hang", "garbage", "settings", "cut frames", "flipped bits")
PREFACE_ANSWER = b"\0\0\0\x04\0\0\0\0\0"


class Relay:
    """Between a sidecar and its provider's socket; `mode` is what it does, `None`: passes everything on."""

    def __init__(self, path, target):
        self.mode, self.target, self.open, self.spoiled = None, target, [], 0
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(16)
        threading.Thread(target=self._accept, daemon=True).start()

    def switch(self, mode):
        """What is open ends, so that the next stream meets the mode; bits are flipped in what is open."""
        self.mode = mode
        if mode != "flipped bits":
            for connection in self.open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
            self.open.clear()

    def _accept(self):
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self._guard, args=(connection,), daemon=True).start()

    def _guard(self, connection):
        try:
            with connection:
                self._serve(connection)
        except OSError:
            pass

    def _serve(self, connection):
        mode = self.mode
        self.spoiled += mode is not None
        if mode == "refuse":
            return
        if mode == "close":
            connection.recv(100)
        elif mode == "hang":
            time.sleep(5)
        elif mode == "garbage":
            for _ in range(50):
                connection.sendall(os.urandom(4096))
        elif mode == "settings":
            # A frame of a megabyte that never comes.
            connection.sendall(PREFACE_ANSWER + b"\x0f\xff\xff\0\0\0\0\0\x01" + os.urandom(100))
            time.sleep(2)
        else:
            self._pass_on(connection)

    def _pass_on(self, connection):
        with socket.socket(socket.AF_UNIX) as provider:
            provider.connect(self.target)
            self.open += [connection, provider]
            threading.Thread(target=self._copy, args=(connection, provider, False), daemon=True).start()
            self._copy(provider, connection, True)

    def _copy(self, source, sink, is_answer):
        try:
            while data := source.recv(65536):
                if is_answer and self.mode == "cut frames":
                    sink.sendall(data[: len(data) // 2])
                    return
                if is_answer and self.mode == "flipped bits" and len(data) > 64:
                    data = bytearray(data)
                    for _ in range(8):
                        data[random.randrange(40, len(data))] ^= 1 << random.randrange(8)
                    self.spoiled += 1
                sink.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, sink):
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass


def run(mesh):
    identity = mesh.identity()
    relays, sockets = [], {}
    for name in ("web", "orders"):
        real = identity.socket(name)
        path = mesh.directory / f"relay-{name}.sock"
        relays.append(Relay(path, real.removeprefix("unix://")))
        sockets[name] = f"unix://{path}"
    original, identity.socket = identity.socket, lambda name: sockets.get(name) or original(name)
    scene = Scene(mesh, identity).load()
    sidecars = (scene.client, scene.server)
    each = max(seconds() / len(MODES), 0.8)
    for mode in MODES:
        with scene.fault():
            for relay in relays:
                relay.switch(mode)
            # What comes then is spoiled, if it comes at all.
            identity.ctl("rotate-svids")
            time.sleep(each)
            for relay in relays:
                relay.switch(None)
    generations = [sidecar.metric("postern_identity_generation") for sidecar in sidecars]
    identity.ctl("rotate-svids")
    wait_until(
        lambda: all(
            sidecar.metric("postern_identity_generation") > before for sidecar, before in zip(sidecars, generations)
        ),
        "both sidecars to follow the provider again",
        25,
    )
    spoiled = sum(relay.spoiled for relay in relays)
    check(spoiled >= len(MODES), f"only {spoiled} streams were spoiled")
    scene.verdict(
        "provider_garbage",
        "an identity provider that refuses, closes, hangs, and sends garbage, frames without an end, halves of them and flipped bits",
        "nothing: bad messages are discarded whole, what is at hand stays in use, and the next good message is taken",
        remarks=f"{spoiled} spoiled streams",
    )


if __name__ == "__main__":
    main(run)
