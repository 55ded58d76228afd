"""Network namespaces and the cables between them: all that is ever done to a packet filter, a route or an address is done in one.

A namespace is held by a child process and has no name, so nothing can be left behind. Root is needed.
"""

import contextlib
import ctypes
import encodings.idna  # noqa: F401 - names are looked up as users who may not read our Python's files
import os
import shlex
import socket
import threading

from harness.processes import Skip, check, tool, wait_until

CLONE_NEWNET = 0x40000000
POD_V4, OUTSIDE_V4, ELSEWHERE_V4 = "10.77.0.2", "10.77.0.1", "198.51.100.1"
POD_V6, OUTSIDE_V6, ELSEWHERE_V6 = "fd77::2", "fd77::1", "2001:db8:77::1"

libc = ctypes.CDLL(None, use_errno=True)


def require(workspace):
    """Skips, saying why, where no namespace with a packet filter can be made."""
    if os.geteuid() != 0:
        raise Skip("network namespaces need root")
    for program in ("unshare", "nsenter", "setpriv", "ip", "nft"):
        tool(program)
    code, _, err = workspace.run([tool("unshare"), "--net", tool("nft"), "list", "ruleset"])
    if code != 0:
        raise Skip(f"no namespace with a packet filter can be made here: {err.strip()}")


class Namespace:
    """A network namespace, as long as the process that holds it."""

    def __init__(self, workspace, name):
        self.workspace, self.name = workspace, name
        # What commands in here find in the place of the machine's own files.
        self.files = {}
        self.holder = workspace.spawn(f"netns-{name}", [tool("unshare"), "--net", tool("sleep"), "100000"])
        self.path = f"/proc/{self.holder.pid}/ns/net"
        ours = os.readlink("/proc/self/ns/net")
        wait_until(lambda: os.readlink(self.path) != ours, f"the namespace {name}", 5)
        self.must("ip", "link", "set", "lo", "up")

    def command(self, *words, uid=None):
        """`words`, as to be run in here."""
        enter = [tool("nsenter"), f"--net={self.path}", "--", *self._with_files()]
        words = [tool(words[0]), *words[1:]] if words and "/" not in str(words[0]) else words
        return enter + ([] if uid is None else as_user(uid)) + list(words)

    def _with_files(self):
        if not self.files:
            return []
        mounts = [
            f"{tool('mount')} --bind {shlex.quote(str(ours))} {os.path.realpath(path)}" for path, ours in self.files.items()
        ]
        script = " && ".join([*mounts, 'exec "$@"'])
        return [tool("unshare"), "--mount", "--propagation", "private", "--", "/bin/sh", "-c", script, "sh"]

    def run(self, *words, uid=None, seconds=60, stdin=None, environment=None):
        """(exit code, stdout, stderr) of a command within."""
        stdin = stdin.encode() if isinstance(stdin, str) else stdin
        return self.workspace.run(self.command(*words, uid=uid), seconds, environment, stdin)

    def must(self, *words, **options):
        """A command within that must succeed; its output."""
        code, out, err = self.run(*words, **options)
        check(code == 0, f"in {self.name}: {' '.join(map(str, words))} exited {code}: {out}{err}")
        return out

    def spawn(self, name, *words, uid=None, environment=None):
        return self.workspace.spawn(name, self.command(*words, uid=uid), environment)

    def sysctl(self, key, value):
        # /proc/sys/net shows the namespace of who opens it.
        with self.entered(), open(f"/proc/sys/{key}", "w") as file:
            file.write(value)

    def wait_reachable(self, address):
        """Whoever refuses a connection can be reached."""

        def refuses():
            try:
                with self.entered():
                    socket.create_connection((address, 9), timeout=2).close()
            except ConnectionRefusedError:
                return True
            return False

        wait_until(refuses, f"{address} to be reachable from {self.name}", 10, 0.05)

    @contextlib.contextmanager
    def entered(self):
        """This thread, and no other, is in here: sockets that it makes stay here."""
        with open("/proc/thread-self/ns/net") as back, open(self.path) as there:
            set_namespace(there)
            try:
                yield self
            finally:
                set_namespace(back)

    def inside(self, action, uid=0):
        """What `action()` returns in a thread of this namespace. Sockets made there belong to it, and to user `uid`,
        wherever they are used afterwards."""
        outcome = {}

        def work():
            try:
                with open(self.path) as there:
                    set_namespace(there)
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


def set_namespace(handle):
    if libc.setns(handle.fileno(), CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def as_user(uid):
    return [tool("setpriv"), "--reuid", str(uid), "--regid", str(uid), "--clear-groups"]


def connect(*ends):
    """A cable between two ends: namespace, device, addresses with their prefix lengths."""
    (one, device, _), (other, peer, _) = ends
    link = ("ip", "link", "add", device, "type", "veth", "peer", "name", peer, "netns", str(other.holder.pid))
    one.must(*link)
    for namespace, name, addresses in ends:
        namespace.must("ip", "link", "set", name, "up")
        for address in addresses:
            namespace.must("ip", "addr", "add", address, "dev", name, *(["nodad"] if ":" in address else []))


def default_routes(namespace, *gateways):
    for gateway in gateways:
        namespace.must("ip", "-6" if ":" in gateway else "-4", "route", "add", "default", "via", gateway)


class Cable:
    """`pod` and `outside`; the pod reaches everything through outside, which has the addresses of elsewhere too."""

    def __init__(self, workspace):
        require(workspace)
        self.pod, self.outside = Namespace(workspace, "pod"), Namespace(workspace, "outside")
        for namespace in (self.pod, self.outside):
            # A link-local address would come later, in the middle of a comparison of routes.
            namespace.sysctl("net/ipv6/conf/default/addr_gen_mode", "1")
        elsewhere = [f"{OUTSIDE_V4}/24", f"{ELSEWHERE_V4}/24", f"{OUTSIDE_V6}/64", f"{ELSEWHERE_V6}/64"]
        connect((self.pod, "eth0", [f"{POD_V4}/24", f"{POD_V6}/64"]), (self.outside, "peer0", elsewhere))
        default_routes(self.pod, OUTSIDE_V4, OUTSIDE_V6)
