"""Planted faults: `redirect check` and `doctor` name each one with its fix, and say nothing of it when it is mended."""

import json

from harness.capture import APP_UID, PROXY_UID, Answering, ask, stand_in
from harness.netns import ELSEWHERE_V4, POD_V4, Cable
from harness.processes import check, expect, tool
from harness.scenario import main

CAPTURE = {"inbound": 15006, "outbound": 15001, "redirect": {"exempt_users": PROXY_UID}}
TPROXY = {**CAPTURE, "mode": "tproxy"}
CAPTURE_SUBJECTS = {"programs", "capability", "rules", "arrival", "others", "capture", "own", "IPv6", "routes", "settings"}


def run(mesh):
    for name in ("nft", "iptables-nft", "iptables-legacy", "setpriv"):
        tool(name)
    faults = Faults(mesh)
    faults.nothing_is_installed()
    faults.programs_are_absent()
    faults.a_module_is_absent()
    faults.the_capability_is_absent()
    faults.the_table_was_changed_by_hand()
    faults.another_table_redirects_first()
    faults.another_table_drops()
    faults.a_firewall_closes_input()
    faults.the_user_is_unknown()
    faults.the_port_is_held_by_somebody_else()
    faults.nobody_listens()
    faults.the_application_is_exempt_itself()
    faults.name_queries_are_not_captured()
    faults.ipv6_is_off()
    faults.one_family_only()
    faults.loopback_has_no_ipv6()
    faults.the_rules_are_there_twice()
    faults.a_port_of_our_own_is_captured()
    faults.routes_are_missing()
    faults.marked_packets_are_martians()
    faults.an_ssh_session_would_be_cut_off()
    faults.enough_were_named()


class Faults:
    def __init__(self, mesh):
        self.mesh = mesh
        self.cable = Cable(mesh.workspace)
        self.pod = self.cable.pod
        self.config = mesh.directory / "postern.yaml"
        self.empty = mesh.directory / "no-programs"
        self.empty.mkdir()
        self.proxy = stand_in(self.pod, "redirect")
        # By which command, the faults that it named with their fix.
        self.named = {"redirect": set(), "doctor": set()}

    def write(self, capture, **sections):
        self.config.write_text(json.dumps({"capture": capture, **sections}))

    def postern(self, *words, path=None, prefix=()):
        return self.pod.run(*prefix, self.mesh.postern, *map(str, words), environment={"PATH": path} if path else None)

    def install(self, capture, *flags, **sections):
        self.write(capture, **sections)
        code, out, err = self.postern("redirect", "install", "--config", self.config, *flags)
        expect(f"installation ({out}{err})", code, 0)

    def told(self, verdict, subject, words, fix, doctor=True, flags=(), **how):
        """Both commands say it, and how it is mended."""
        commands = [["redirect", "check", *flags]] + ([["doctor"]] if doctor else [])
        for command in commands:
            code, out, err = self.postern(*command, "--config", self.config, **how)
            lines = out.splitlines()
            found = [at for at, line in enumerate(lines) if line.split()[:2] == [verdict, *subject.split()][:2] and words in line]
            check(found, f"{command} does not tell {verdict} {subject}: {words}\n{out}{err}")
            check(fix in lines[found[0] + 1], f"{command}: {lines[found[0] + 1]!r} has no {fix!r}")
            check("FAIL" not in out or code == 1, f"{command} exited {code}, and something fails:\n{out}")
            self.named[command[0]].add((subject, words))
            if command[0] == "redirect":
                expect(f"exit code of {command}", code, 1 if "FAIL" in out else 0)

    def enough_were_named(self):
        for command, named in self.named.items():
            check(len(named) >= 10, f"{command} names {len(named)} faults: {sorted(named)}")
        shared = self.named["redirect"] & self.named["doctor"]
        check(len(shared) >= 10, f"both name {len(shared)} faults: {sorted(shared)}")

    def mended(self):
        code, out, _ = self.postern("redirect", "check", "--config", self.config)
        check(code == 0 and "FAIL" not in out, f"check still finds a fault:\n{out}")
        # What is no matter of capture may fail here: there is no agent.
        _, out, _ = self.postern("doctor", "--config", self.config)
        failures = [line for line in out.splitlines() if line.startswith("FAIL") and line.split()[1] in CAPTURE_SUBJECTS]
        check(not failures, f"doctor still finds {failures}:\n{out}")

    def nothing_is_installed(self):
        self.write(CAPTURE)
        self.told("FAIL", "rules", "none of ours are installed", "postern redirect install")
        self.told("FAIL", "arrival", "does not arrive", "postern redirect install")
        self.install(CAPTURE)
        self.mended()

    def programs_are_absent(self):
        self.told("FAIL", "programs", "neither `nft` nor `iptables`", "install nftables", path=str(self.empty))

    def a_module_is_absent(self):
        """The kernel's words, from a program that stands in for nft: the machine's own kernel has the module."""
        folder = self.mesh.directory / "nft-without-tproxy"
        folder.mkdir()
        script = folder / "nft"
        script.write_text(
            "#!/bin/sh\n[ \"$1\" = -f ] || exit 0\ncat > /dev/null\n"
            "echo '/dev/stdin:9:3-40: Error: Could not process rule: No such file or directory' >&2\n"
            "echo 'meta nfproto ipv4 meta l4proto tcp tproxy ip to :15006' >&2\nexit 1\n"
        )
        script.chmod(0o755)
        path = f"{folder}:/bin"
        if self.pod.run("/bin/sh", "-c", f"PATH={path} command -v iptables")[0] == 0:
            path = f"{folder}:{self.links('ip', 'cat')}"
        code, _, err = self.postern("redirect", "install", "--exempt-user", PROXY_UID, path=path)
        check(code == 1 and "modprobe nft_tproxy" in err, f"install with a module absent: {code} {err}")

    def links(self, *names):
        folder = self.mesh.directory / "some-programs"
        folder.mkdir(exist_ok=True)
        for name in names:
            if not (folder / name).exists():
                (folder / name).symlink_to(tool(name))
        return folder

    def the_capability_is_absent(self):
        without = [tool("setpriv"), "--bounding-set=-net_admin", "--inh-caps=-net_admin"]
        self.told("FAIL", "capability", "CAP_NET_ADMIN", "--cap-add NET_ADMIN", doctor=False, prefix=without)
        code, out, _ = self.postern("doctor", "--config", self.config, prefix=without)
        check("warn  capability" in out, f"doctor without the capability: {out}")
        for backend in ("auto", "nft", "iptables-nft", "iptables-legacy"):
            code, _, err = self.postern("redirect", "install", "--exempt-user", 7, "--backend", backend, prefix=without)
            check(code == 1 and "CAP_NET_ADMIN" in err, f"install by {backend} without the capability: {code} {err}")

    def the_table_was_changed_by_hand(self):
        self.pod.must("nft", "add rule inet postern outbound tcp dport 25 accept")
        self.told("FAIL", "rules", "not ours: `outbound: tcp dport 25 accept`", "postern redirect install")
        self.pod.must("nft", "flush chain inet postern outbound")
        self.told("FAIL", "rules", "missing: ", "postern redirect install")
        self.install(CAPTURE)
        self.mended()
        for flavour in ("iptables-nft", "iptables-legacy"):
            self.install(CAPTURE, "--backend", flavour)
            self.mended()
            self.pod.must(flavour, "-t", "nat", "-D", "OUTPUT", "-p", "tcp", "-j", "POSTERN_OUTBOUND")
            self.told("FAIL", "rules", "missing: `nat -A OUTPUT -p tcp -j POSTERN_OUTBOUND`", "postern redirect install")
        self.install(CAPTURE)
        self.mended()

    def another_table_redirects_first(self):
        self.pod.must("nft", "add table ip mesh; add chain ip mesh out { type nat hook output priority -110; }; "
                 "add rule ip mesh out tcp dport != 22 redirect to :15101")
        self.told("FAIL", "others", "table ip mesh, chain out", "remove it")
        self.told("FAIL", "arrival", "IPv4: a connection of another user to elsewhere does not arrive", "says whose rules")
        self.pod.must("nft", "delete table ip mesh")
        self.mended()

    def another_table_drops(self):
        self.pod.must("nft", "add table inet firewall; add chain inet firewall out { type filter hook output priority 10; }; "
                 "add rule inet firewall out tcp dport 15001 drop")
        self.told("FAIL", "others", "table inet firewall, chain out", "let it accept our ports")
        self.pod.must("nft", "delete table inet firewall")
        self.mended()

    def a_firewall_closes_input(self):
        self.pod.must("nft", "add table inet firewall; add chain inet firewall in { type filter hook input priority 0; policy drop; }; "
                 "add rule inet firewall in iifname lo accept; add rule inet firewall in tcp dport 8080 accept")
        self.told("warn", "others", "policy drop", "accept port 15006")
        self.pod.must("nft", "delete table inet firewall")

    def the_user_is_unknown(self):
        self.write({**CAPTURE, "redirect": {"exempt_users": "postren"}})
        self.told("FAIL", "capture", "no user postren", "correct `capture:`")
        self.write({**CAPTURE, "redirect": {}})
        self.told("FAIL", "capture", "nobody is exempt", "correct `capture:`")
        service = {"name": "ledger", "addresses": ["10.0.0.7:1"], "identity": "spiffe://td/ledger", "users": ["shpo"]}
        self.write(CAPTURE, outbound={"services": [service]})
        _, out, _ = self.postern("doctor", "--config", self.config)
        check("`users` of service `ledger` names `shpo`" in out, out)
        code, out, err = self.postern("check", self.config)
        check(code == 0 and "note: `users` of service `ledger` names `shpo`" in err, f"{code} {out}{err}")
        self.write(CAPTURE)
        self.mended()

    def the_port_is_held_by_somebody_else(self):
        self.proxy.close()
        stranger = Answering(self.pod, [("127.0.0.1", 15001), ("::1", 15001)], lambda *_: "hello", APP_UID)
        self.told("FAIL", "ports", f"uid {APP_UID}, and that user is not exempt", "stop it if it is not Postern")
        stranger.close()

    def nobody_listens(self):
        self.told("warn", "ports", "nobody listens at 127.0.0.1:15001", "postern run")
        expect("a captured connection without a proxy", ask(self.pod, ELSEWHERE_V4, 80, APP_UID), "ConnectionRefusedError")
        self.proxy = stand_in(self.pod, "redirect")
        self.mended()

    def the_application_is_exempt_itself(self):
        inbound = [{"port": 8080, "allow": [{"anonymous": True}], "tls": "permissive"}]
        self.install(CAPTURE, inbound=inbound)
        where = [("127.0.0.1", 8080)]
        application = Answering(self.pod, where, lambda *_: "hello", PROXY_UID)
        self.told("FAIL", "application", "127.0.0.1:8080 is held by", "run it as another user")
        application.close()
        application = Answering(self.pod, where, lambda *_: "hello", APP_UID)
        self.mended()
        application.close()

    def name_queries_are_not_captured(self):
        """Rules of before `dns` was written into the file."""
        self.install(CAPTURE)
        self.write({**CAPTURE, "dns": {"listen": 15053, "upstreams": "192.0.2.53", "loopback_nameservers": []}})
        self.told("FAIL", "arrival", "a name query of another user, over TCP does not arrive", "postern redirect install")
        self.postern("redirect", "install", "--config", self.config)
        code, out, _ = self.postern("redirect", "check", "--config", self.config)
        check("a name query of another user, over TCP arrives" in out, out)
        self.install(CAPTURE)
        self.mended()

    def ipv6_is_off(self):
        self.pod.must("sysctl", "-qw", "net.ipv6.conf.lo.disable_ipv6=1", "net.ipv6.conf.all.disable_ipv6=1")
        self.told("FAIL", "IPv6", "is off here", "disable_ipv6=0", doctor=False, flags=["--family", "both"])
        code, out, _ = self.postern("redirect", "check", "--config", self.config)
        check(code == 0 and "is off here" in out, f"IPv6 that is off is no error: {out}")
        self.pod.must("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=0", "net.ipv6.conf.lo.disable_ipv6=0")
        self.pod.run("ip", "-6", "addr", "add", "::1/128", "dev", "lo")
        self.pod.run("ip", "-6", "addr", "add", "fd77::2/64", "dev", "eth0", "nodad")
        self.pod.run("ip", "-6", "route", "add", "default", "via", "fd77::1")
        self.proxy.close()
        self.proxy = stand_in(self.pod, "redirect")
        self.mended()

    def one_family_only(self):
        self.install(CAPTURE, "--family", "v4")
        self.told("FAIL", "rules", "there are none for IPv6", "postern redirect install")
        self.told("FAIL", "IPv6", "for IPv4 only", "--family auto", doctor=False, flags=["--family", "v4"])
        self.install(CAPTURE)
        self.mended()

    def loopback_has_no_ipv6(self):
        self.pod.must("ip", "-6", "addr", "del", "::1/128", "dev", "lo")
        self.told("FAIL", "IPv6", "`lo` has no ::1", "ip -6 addr add ::1/128 dev lo")
        self.pod.must("ip", "-6", "addr", "add", "::1/128", "dev", "lo")
        self.mended()

    def the_rules_are_there_twice(self):
        printed = self.pod.must(self.mesh.postern, "redirect", "print", "--config", self.config, "--backend", "iptables")
        v4 = printed.split("# ip6tables-restore")[0]
        self.pod.must("iptables-legacy-restore", "--noflush", stdin=v4)
        self.told("FAIL", "rules", "ours are there twice: by iptables-legacy and nftables", "postern redirect install")
        self.install(CAPTURE)
        self.mended()

    def a_port_of_our_own_is_captured(self):
        self.write(CAPTURE, telemetry={"metrics": "0.0.0.0:9464"})
        self.told("FAIL", "own ports", "9464 is Postern's own", "postern redirect install")
        self.write({**CAPTURE, "redirect": {"exempt_users": PROXY_UID, "inbound_ports": [8080, 15020]}})
        self.told("FAIL", "capture", "port 15020 is listed", "correct `capture:`")
        self.write(CAPTURE)
        self.mended()

    def routes_are_missing(self):
        self.proxy.close()
        self.proxy = stand_in(self.pod, "tproxy")
        self.install(TPROXY)
        self.mended()
        self.pod.must("ip", "rule", "del", "pref", "20560")
        self.told("FAIL", "routes", "IPv4", "postern redirect install")
        self.install(TPROXY)
        self.pod.must("ip", "-6", "route", "flush", "table", "20560")
        self.told("FAIL", "routes", "IPv6", "postern redirect install")
        self.install(TPROXY)
        self.mended()

    def marked_packets_are_martians(self):
        settings = ["net.ipv4.conf.eth0.rp_filter", "net.ipv4.conf.eth0.src_valid_mark"]
        self.pod.must("sysctl", "-qw", *[f"{name}=1" for name in settings])
        self.told("FAIL", "settings", "src_valid_mark", "sysctl -w")
        found = ask(self.cable.outside, POD_V4, 8080, seconds=1)
        check(found.startswith("Timeout") or found == "timeout", f"that setting breaks nothing: {found}")
        self.pod.must("sysctl", "-qw", *[f"{name}=0" for name in settings])
        self.mended()

    def an_ssh_session_would_be_cut_off(self):
        environment = {"SSH_CONNECTION": "192.0.2.7 50000 192.0.2.8 22"}
        words = [self.mesh.postern, "redirect", "install", "--exempt-user", str(PROXY_UID)]
        code, _, err = self.pod.run(*words, environment=environment)
        check(code == 1 and "--exclude-inbound-port 22" in err, f"{code} {err}")
        for more in (["--yes"], ["--exclude-inbound-port", "22"], ["--outbound-port", "15001"]):
            code, _, err = self.pod.run(*words, *more, environment=environment)
            expect(f"installation with {more} ({err})", code, 0)


if __name__ == "__main__":
    main(run)
