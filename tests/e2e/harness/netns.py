"""A pod and the world outside it: two network namespaces with a cable between them, gone when the scenario ends.

No rule of the packet filter, no route and no address is ever made in the machine's own namespace.
"""

import ctypes
import encodings.idna  # noqa: F401 - names are looked up as users who may not read our Python's files
import os
import threading

from harness.processes import Skip, check, tool

CLONE_NEWNET = 0x40000000
POD_V4, OUTSIDE_V4, ELSEWHERE_V4 = "10.77.0.2", "10.77.0.1", "198.51.100.1"
POD_V6, OUTSIDE_V6, ELSEWHERE_V6 = "fd77::2", "fd77::1", "2001:db8:77::1"

libc = ctypes.CDLL(None, use_errno=True)


class Namespace:
    def __init__(self, workspace, name):
        self.workspace = workspace
        self.name = f"pe2e-{os.getpid()}-{name}"
        must(workspace, ["ip", "netns", "add", self.name])
        workspace.at_end(lambda: workspace.run([tool("ip"), "netns", "del", self.name]))
        self("ip", "link", "set", "lo", "up")

    def command(self, *words):
        return [tool("ip"), "netns", "exec", self.name, *words]

    def run(self, *words, stdin=None, environment=None):
        """(exit code, stdout, stderr) of a command within."""
        stdin = stdin.encode() if stdin is not None else None
        return self.workspace.run(self.command(*words), stdin=stdin, environment=environment)

    def __call__(self, *words, stdin=None):
        """A command within that must succeed; its output."""
        code, out, err = self.run(*words, stdin=stdin)
        check(code == 0, f"{' '.join(map(str, words))} exited {code}: {out}{err}")
        return out

    def inside(self, action, uid=0):
        """What `action()` returns in a thread of this namespace. Sockets made there belong to it, and to user `uid`,
        wherever they are used afterwards."""
        outcome = {}

        def work():
            try:
                with open(f"/run/netns/{self.name}") as handle:
                    if libc.setns(handle.fileno(), CLONE_NEWNET) != 0:
                        raise OSError(ctypes.get_errno(), "setns")
                # Of this thread alone, unlike setuid; it is what the packet filter compares.
                libc.setfsuid(uid)
                outcome["value"] = action()
            except BaseException as error:  # noqa: BLE001 - raised again where it was asked for
                outcome["error"] = error

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join()
        if "error" in outcome:
            raise outcome["error"]
        return outcome["value"]


class Cable:
    """`pod` and `outside`; the pod reaches everything through outside, which has the addresses of elsewhere too."""

    def __init__(self, workspace):
        if os.geteuid() != 0:
            raise Skip("network namespaces need root")
        code, _, err = workspace.run([tool("ip"), "netns", "add", f"pe2e-{os.getpid()}-try"])
        if code != 0:
            raise Skip(f"no network namespace can be made here: {err.strip()}")
        workspace.run([tool("ip"), "netns", "del", f"pe2e-{os.getpid()}-try"])
        self.pod, self.outside = Namespace(workspace, "pod"), Namespace(workspace, "out")
        self.pod("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "peer0", "netns", self.outside.name)
        for namespace, device, v4, v6 in [
            (self.pod, "eth0", [POD_V4], [POD_V6]),
            (self.outside, "peer0", [OUTSIDE_V4, ELSEWHERE_V4], [OUTSIDE_V6, ELSEWHERE_V6]),
        ]:
            # A link-local address would come later, in the middle of a comparison of routes.
            namespace("ip", "link", "set", device, "addrgenmode", "none")
            namespace("ip", "link", "set", device, "up")
            for address in v4:
                namespace("ip", "addr", "add", f"{address}/24", "dev", device)
            for address in v6:
                namespace("ip", "-6", "addr", "add", f"{address}/64", "dev", device, "nodad")
        self.pod("ip", "route", "add", "default", "via", OUTSIDE_V4)
        self.pod("ip", "-6", "route", "add", "default", "via", OUTSIDE_V6)


def must(workspace, command):
    code, out, err = workspace.run([tool(command[0]), *command[1:]])
    check(code == 0, f"{' '.join(command)} exited {code}: {out}{err}")
