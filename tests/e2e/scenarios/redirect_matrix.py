"""`postern redirect`: nftables, iptables-nft and iptables-legacy, each family and mode: connections arrive with their
original destination, twice is once, and `remove` leaves the rules of others exactly as they were."""

from harness.capture import (
    APP,
    APP_UID,
    FAMILIES,
    POD,
    PROXY_UID,
    Answering,
    app,
    ask,
    same,
    snapshot,
    stand_in,
)
from harness.netns import ELSEWHERE_V4, ELSEWHERE_V6, OUTSIDE_V4, OUTSIDE_V6, Cable
from harness.processes import check, expect, tool
from harness.scenario import main

ELSEWHERE = {"v4": ELSEWHERE_V4, "v6": ELSEWHERE_V6}
OUTSIDE = {"v4": OUTSIDE_V4, "v6": OUTSIDE_V6}
EXCLUDED = 5432
BACKENDS = ("nft", "iptables-nft", "iptables-legacy")


def run(mesh):
    for name in ("nft", "iptables-nft", "iptables-legacy"):
        tool(name)
    cable = Cable(mesh.workspace)
    rules_of_others(cable.pod)
    app(cable.pod)
    where = [(address, port) for address in ("0.0.0.0", "::") for port in (80, EXCLUDED)]
    Answering(cable.outside, where, lambda _, peer: f"elsewhere called by {peer[0]}")
    for mode in ("redirect", "tproxy"):
        proxy = stand_in(cable.pod, mode)
        for backend in BACKENDS:
            for families in (["v4"], ["v6"], ["v4", "v6"]):
                case(mesh, cable, backend, mode, families)
        proxy.close()
    replaces_another_backend(mesh, cable)
    check_says_ok_without_ipv6(mesh, cable)


def rules_of_others(pod):
    """Something in every table that we touch, in every backend, and a rule and a route."""
    for flavour in ("iptables-nft", "iptables-legacy"):
        for program in (flavour, flavour.replace("ip", "ip6", 1)):
            for table, chain in [("nat", "OUTPUT"), ("nat", "PREROUTING"), ("mangle", "OUTPUT"), ("filter", "OUTPUT")]:
                pod.must(program, "-t", table, "-A", chain, "-p", "tcp", "--dport", "9", "-j", "ACCEPT")
            pod.must(program, "-t", "mangle", "-A", "PREROUTING", "-p", "tcp", "--dport", "9", "-j", "ACCEPT")
    pod.must("nft", "add table inet firewall; add chain inet firewall input { type filter hook input priority 0; }; "
        "add rule inet firewall input tcp dport 9 drop")
    pod.must("ip", "rule", "add", "pref", "999", "fwmark", "0x77", "lookup", "77")
    pod.must("ip", "route", "add", "203.0.113.0/24", "via", OUTSIDE_V4, "table", "77")


def case(mesh, cable, backend, mode, families):
    what = f"{backend}, {mode}, {'+'.join(families)}"
    family = "both" if len(families) == 2 else families[0]
    flags = ["--exempt-user", PROXY_UID, "--mode", mode, "--family", family, "--exclude-outbound-port", EXCLUDED]
    pod = cable.pod
    before = snapshot(pod)
    postern(mesh, pod, "install", *flags, "--backend", backend)
    once = snapshot(pod)
    check(once != before, f"{what}: nothing was installed")
    postern(mesh, pod, "install", *flags, "--backend", backend)
    same(f"{what}: after a second installation", snapshot(pod), once)
    for one in FAMILIES:
        captured = one in families
        arrivals(cable, what, mode, one, captured)
    code, out, err = pod.run(mesh.postern, "redirect", "check", *map(str, flags))
    found = [line for line in out.splitlines() if line.startswith("FAIL")]
    # That the other family goes its own way is the one thing wrong.
    expected = [] if len(families) == 2 else ["IPv6" if families == ["v4"] else "IPv4"]
    expect(f"{what}: failures of check ({out}{err})", [line.split()[1] for line in found], expected)
    expect(f"{what}: exit code of check", code, 1 if expected else 0)
    postern(mesh, pod, "remove")
    same(f"{what}: after removal", snapshot(pod), before)
    postern(mesh, pod, "remove")


def arrivals(cable, what, mode, family, captured):
    pod, outside = cable.pod, cable.outside
    to_app, to_elsewhere, caller = POD[family], ELSEWHERE[family], OUTSIDE[family]
    went_by_itself = f"elsewhere called by {POD[family]}"
    inbound = f"inbound {to_app}:{APP}"
    if mode == "tproxy":
        inbound += f"; app called by {caller}"
    for description, namespace, address, port, uid, expected in [
        ("from outside", outside, to_app, APP, 0, inbound if captured else f"app called by {caller}"),
        ("to elsewhere", pod, to_elsewhere, 80, APP_UID, f"outbound {to_elsewhere}:80" if captured else went_by_itself),
        ("to an excluded port", pod, to_elsewhere, EXCLUDED, APP_UID, went_by_itself),
        ("of the proxy's user to elsewhere", pod, to_elsewhere, 80, PROXY_UID, went_by_itself),
        ("of the app to loopback", pod, "127.0.0.1" if family == "v4" else "::1", APP, APP_UID, "app called by "),
        ("of the app to its own address", pod, to_app, APP, APP_UID, f"outbound {to_app}:{APP}" if captured else "app "),
        ("of the proxy's user to its own address", pod, to_app, APP, PROXY_UID, f"inbound {to_app}:{APP}" if captured else "app "),
    ]:
        found = ask(namespace, address, port, uid)
        check(found.startswith(expected), f"{what}: a connection {description}: {found!r} instead of {expected!r}")


def replaces_another_backend(mesh, cable):
    before = snapshot(cable.pod)
    for backend in (*BACKENDS, "nft"):
        postern(mesh, cable.pod, "install", "--exempt-user", PROXY_UID, "--backend", backend)
        code, out, _ = cable.pod.run(mesh.postern, "redirect", "check", "--exempt-user", str(PROXY_UID))
        expect(f"check after one backend replaced another ({out})", code, 0)
    postern(mesh, cable.pod, "remove")
    same("after all backends", snapshot(cable.pod), before)


def check_says_ok_without_ipv6(mesh, cable):
    pod = cable.pod
    pod.must("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
    for mode in ("redirect", "tproxy"):
        out = postern(mesh, pod, "install", "--exempt-user", PROXY_UID, "--mode", mode)
        check("IPv4" in out and "FAIL" not in out, out)
        code, out, _ = pod.run(mesh.postern, "redirect", "check", "--exempt-user", str(PROXY_UID), "--mode", mode)
        check("is off here" in out, out)
        postern(mesh, pod, "remove")


def postern(mesh, pod, action, *flags):
    return pod.must(mesh.postern, "redirect", action, *map(str, flags))


if __name__ == "__main__":
    main(run)
