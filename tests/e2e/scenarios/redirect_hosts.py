"""`postern redirect` on hosts that lack something: nftables alone, one iptables alone, a kernel without NAT in `inet`, IPv6 alone;
and name queries, which are captured over UDP and TCP on request."""

import socket
import threading

from harness.capture import APP, APP_UID, POD, PROXY_UID, Answering, app, ask, same, snapshot, stand_in
from harness.netns import ELSEWHERE_V4, ELSEWHERE_V6, Cable
from harness.processes import check, expect, tool
from harness.scenario import main

ELSEWHERE = {"v4": ELSEWHERE_V4, "v6": ELSEWHERE_V6}
DNS = 15053
FLAVOURS = ("iptables-nft", "iptables-legacy")


def run(mesh):
    for name in ("nft", *FLAVOURS):
        tool(name)
    cable = Cable(mesh.workspace)
    app(cable.pod)
    stand_in(cable.pod, "redirect")
    with_these_programs_alone(mesh, cable)
    without_nat_in_inet(mesh, cable)
    name_queries(mesh, cable)
    ipv6_alone(mesh, cable)


class Programs:
    """A folder that is all of $PATH."""

    def __init__(self, mesh, name):
        self.folder = mesh.directory / name
        self.folder.mkdir()

    def link(self, *names):
        for name in names:
            (self.folder / name).symlink_to(tool(name))
        return self

    def flavour(self, flavour, plain):
        """One flavour, under its own name or only as the plain one."""
        for base in (flavour, flavour.replace("ip", "ip6", 1)):
            shown = base.rsplit("-", 1)[0] if plain else base
            for suffix in ("", "-save", "-restore"):
                # What the program does depends on the name that it is called by.
                script = self.folder / f"{shown}{suffix}"
                script.write_text(f'#!/bin/sh\nexec {tool(base + suffix)} "$@"\n')
                script.chmod(0o755)
        return self


def installed(mesh, cable, what, programs, backend, families=("v4", "v6"), flags=()):
    pod = cable.pod
    before = snapshot(pod)
    environment = {"PATH": str(programs.folder)} if programs else None
    words = ["--exempt-user", str(PROXY_UID), *flags]
    code, out, err = pod.run(mesh.postern, "redirect", "install", *words, environment=environment)
    expect(f"{what}: installation ({out}{err})", code, 0)
    check(f"installed by {backend}: " in out, f"{what}: {out}")
    for family in families:
        expect(f"{what}: {family} outbound", ask(pod, ELSEWHERE[family], 80, APP_UID), f"outbound {ELSEWHERE[family]}:80")
        expect(f"{what}: {family} inbound", ask(cable.outside, POD[family], APP), f"inbound {POD[family]}:{APP}")
    code, out, err = pod.run(mesh.postern, "redirect", "check", *words, environment=environment)
    expect(f"{what}: check ({out}{err})", code, 0)
    yield
    code, out, err = pod.run(mesh.postern, "redirect", "remove", environment=environment)
    expect(f"{what}: removal ({out}{err})", code, 0)
    same(f"{what}: after removal", snapshot(pod), before)


def with_these_programs_alone(mesh, cable):
    for _ in installed(mesh, cable, "nftables alone", Programs(mesh, "nft").link("nft"), "nftables"):
        pass
    for flavour in FLAVOURS:
        for plain in (False, True):
            what = f"{flavour} alone" + (", by its plain name" if plain else "")
            programs = Programs(mesh, what.replace(" ", "-")).flavour(flavour, plain)
            for _ in installed(mesh, cable, what, programs, "iptables" if plain else flavour):
                pass


def without_nat_in_inet(mesh, cable):
    """As a kernel before 5.2 refuses it."""
    programs = Programs(mesh, "old-kernel")
    script = programs.folder / "nft"
    script.write_text(
        f'#!/bin/sh\n[ "$1" = -f ] || exec {tool("nft")} "$@"\n'
        f"text=$({tool('cat')})\n"
        'case "$text" in *"table inet postern {"*)\n'
        '  echo "Error: Could not process rule: Operation not supported" >&2\n  exit 1 ;;\nesac\n'
        f'printf "%s\\n" "$text" | {tool("nft")} -f -\n'
    )
    script.chmod(0o755)
    for _ in installed(mesh, cable, "no NAT in inet", programs, "nftables (a table for each family)"):
        listed = cable.pod.must("nft", "list", "tables")
        check("table ip postern" in listed and "table ip6 postern" in listed and "inet" not in listed, listed)


def name_queries(mesh, cable):
    """Answered here, whoever was asked; the proxy's own get out."""
    for address in ("127.0.0.1", "::1"):
        serve_datagrams(cable.pod, address, DNS, b"here")
    Answering(cable.pod, [("127.0.0.1", DNS), ("::1", DNS)], lambda *_: "here", PROXY_UID)
    for address in ELSEWHERE.values():
        serve_datagrams(cable.outside, address, 53, b"elsewhere")
    Answering(cable.outside, [("0.0.0.0", 53), ("::", 53)], lambda *_: "elsewhere")
    for backend, flags in [(name, flags) for name in ("nft", *FLAVOURS) for flags in ([], ["--closed-egress"])]:
        what = f"{backend} {' '.join(flags)}"
        chosen = ["--dns-port", str(DNS), *flags]
        cable.pod.must(mesh.postern, "redirect", "install", "--exempt-user", str(PROXY_UID), "--backend", backend, *chosen)
        code, out, _ = cable.pod.run(mesh.postern, "redirect", "check", "--exempt-user", str(PROXY_UID), *chosen)
        expect(f"{what}: check ({out})", code, 0)
        for family, to in ELSEWHERE.items():
            expect(f"{what}: {family}, UDP", query(cable.pod, to, APP_UID), b"here")
            expect(f"{what}: {family}, TCP", ask(cable.pod, to, 53, APP_UID), "here")
            expect(f"{what}: {family}, UDP of the proxy", query(cable.pod, to, PROXY_UID), b"elsewhere")
            expect(f"{what}: {family}, TCP of the proxy", ask(cable.pod, to, 53, PROXY_UID), "elsewhere")
        cable.pod.must(mesh.postern, "redirect", "remove")
    expect("without rules", query(cable.pod, ELSEWHERE_V4, APP_UID), b"elsewhere")


def serve_datagrams(namespace, address, port, answer):
    def bound():
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address, port))
        return sock

    def work():
        while True:
            _, peer = sock.recvfrom(512)
            sock.sendto(answer, peer)

    sock = namespace.inside(bound, PROXY_UID)
    threading.Thread(target=work, daemon=True).start()


def query(namespace, to, uid):
    """What a connected socket receives: only an answer that comes from the one who was asked."""

    def work():
        with socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(2)
            sock.connect((to, 53))
            sock.send(b"who")
            return sock.recv(512)

    try:
        return namespace.inside(work, uid)
    except OSError as error:
        return type(error).__name__


def ipv6_alone(mesh, cable):
    cable.pod.must("ip", "-4", "addr", "flush", "dev", "eth0")
    for flags in ([], ["--mode", "tproxy"]):
        if flags:
            # The stand-in of this scenario takes no TPROXY: that the rules are made, and outbound arrives, is enough.
            cable.pod.must(mesh.postern, "redirect", "install", "--exempt-user", str(PROXY_UID), *flags)
            expect("outbound", ask(cable.pod, ELSEWHERE_V6, 80, APP_UID), f"outbound {ELSEWHERE_V6}:80")
            cable.pod.must(mesh.postern, "redirect", "remove")
        else:
            for _ in installed(mesh, cable, "IPv6 alone", None, "nftables", families=("v6",)):
                pass


if __name__ == "__main__":
    main(run)
