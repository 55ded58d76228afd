"""Envoy with RBAC and jwt_authn filters, and Postern, with the same rules, keys and certificates, are asked the same. Every request
on which they differ stands in DIFFERENCES with why; one that is missing there fails, and so does one that differs no longer."""

import http.client
import json
import socket

from h2.exceptions import ProtocolError
from harness.apps import Http1App
from harness.clients import Http1, Http2, http2_headers, mesh_tls
from harness.envoy import cluster_to, run_envoy
from harness.envoy_rbac import chain
from harness.mesh import DevIdentity, inbound_port
from harness.processes import check, expect, free_port, tool
from harness.rbac_cases import CALLERS, ISSUER, WORKLOADS, Tokens, corpus, port_rules
from harness.scenario import main

STRICTER, LOOSER = "Postern refuses", "Postern allows"
# Verdict, why, and names of cases. A name that ends with a version is of that one, others differ in both.
DIFFERENCES = [
    (
        STRICTER,
        "Envoy merges and normalizes before it decides, and passes the result on. Postern passes on what came, so that every reading has "
        "to be allowed, and here one is not",
        [
            "web GET //orders/7",
            "web GET /./orders/7",
            "web GET /%6frders/7",
            "stranger GET /when/start//abc",
            "stranger GET /when/start/x/../abc",
            "stranger GET /when/pattern/%61",
        ],
    ),
    (
        STRICTER,
        "the same; the readings belong to different routes, of which one wants a token",
        ["web GET //tokens/x [own]", "web GET /x/../tokens/x [own]"],
    ),
    (
        STRICTER,
        "no honest reading (`bad_path`): above the root, a backslash, `%` without two digits. Envoy repairs the first two, and passes on "
        "the third",
        [
            *(f"{who} GET {path}" for who in ("web", "ops") for path in ("/../orders/7", "/orders/a\\b", "/orders/%zz", "/orders/%")),
        ],
    ),
    (
        STRICTER,
        "what is below /debug is denied, and without its parameters the path is: Envoy does not know parameters",
        ["ops GET /debug;v=1/x", "ops GET /debug%3B/x"],
    ),
    (
        LOOSER,
        "both readings of `%2F` are below /orders. Envoy, told to decode slashes, redirects to one of them",
        [f"{who} GET /orders/a{slash}b" for who in ("web", "ops") for slash in ("%2F", "%2f")],
    ),
    (
        LOOSER,
        "the part behind `#` is no part of a request (RFC 9113 §8.3.1), and is gone before anybody decides or forwards",
        [
            "web GET /orders/7#part HTTP/2",
            "ops GET /orders/7#part HTTP/2",
            "stranger GET /search?kind=orders#x HTTP/2",
        ],
    ),
    (
        LOOSER,
        "methods are any token (RFC 9110 §9.1), and rules decide; Envoy's parser of HTTP/1 takes those alone that it knows",
        [f"ops get {path} HTTP/1" for path in ("/orders/7", "/health", "/jobs/7/run", "/nowhere")],
    ),
    (
        STRICTER,
        "where a header comes several times, all of its values have to fit a rule that allows; for Envoy one is enough",
        [
            "stranger GET /headers/exact [x-tenant: acme; x-tenant: evil]",
            "stranger GET /headers/exact [x-tenant: evil; x-tenant: acme]",
            "stranger GET /headers/prefix [x-tenant: acme-1; x-tenant: evil]",
        ],
    ),
    (
        STRICTER,
        "space around a value is malformed (RFC 9113 §8.2.1); for Envoy it is another value than the one that is denied",
        ["web GET /except/header [x-blocked: yes ] HTTP/2"],
    ),
    (
        STRICTER,
        "where a parameter comes several times, all of its values have to fit; Envoy knows no parameters, only a pattern over the path",
        ["stranger GET /search?kind=orders&kind=all", "stranger GET /search?kind=all&kind=orders"],
    ),
    (
        LOOSER,
        "parameters are compared decoded, as applications read them; Envoy's pattern sees the bytes",
        ["stranger GET /search?kind=%6Frders", "stranger GET /search?k%69nd=orders"],
    ),
    (
        STRICTER,
        "the same, of a parameter that is denied",
        ["web GET /except/query?d%65bug=1", "web GET /except/query?debug=%31"],
    ),
    (
        STRICTER,
        "the condition of a rule that denies asks for a header that is not there: what is not known counts against the request. In Envoy "
        "it is false, and nothing is denied",
        ["web GET /except/when"],
    ),
    (
        STRICTER,
        "no name was asked for in TLS: that is not known in Postern, and an empty text in Envoy",
        ["stranger GET /when/sni"],
    ),
    (
        LOOSER,
        "`source.principal` is no attribute of Envoy's; `connection.uri_san_peer_certificate` says the same in both (`ends`)",
        ["batch GET /when/principal"],
    ),
    (
        LOOSER,
        "Envoy removes a `Referer` that is no address before its filters see it",
        ["web GET /when/referer [referer: e2e/1 shop]"],
    ),
    (
        LOOSER,
        "`request.scheme` says in Postern how the connection is; in Envoy what the caller wrote as `:scheme`, here http",
        ["stranger GET /when/scheme HTTP/2"],
    ),
    (
        STRICTER,
        "audiences are compared byte by byte (RFC 7519 §4.1.3, a case-sensitive string); Envoy takes slashes at the end off",
        ["stranger GET /ci/x [a slash more in aud]"],
    ),
    (
        STRICTER,
        "an issuer's token has `exp` and `sub` (OpenID Connect Core §2), as JWT-SVIDs have (§3)",
        ["stranger GET /ci/x [no exp]", "stranger GET /ci/x [no sub]"],
    ),
    (
        STRICTER,
        "issued later than the clocks can be apart: one of them is wrong, and with it `exp` means nothing (JW-08)",
        ["stranger GET /ci/x [issued in the future]"],
    ),
    (
        STRICTER,
        "`crit` names what is not understood: to be refused (RFC 7515 §4.1.11)",
        ["stranger GET /ci/x [crit]"],
    ),
    (
        STRICTER,
        "`cnf` binds the token to a certificate that is not the caller's (RFC 8705 §3.1)",
        ["stranger GET /ci/x [cnf of another certificate]"],
    ),
    (
        STRICTER,
        "one space before the token: two parsers may split elsewhere (HD-17)",
        ["stranger GET /ci/x [two spaces]"],
    ),
    (
        LOOSER,
        "the scheme's case does not matter (RFC 9110 §11.1)",
        ["stranger GET /ci/x [lower-case scheme]"],
    ),
    (
        LOOSER,
        "of a claim that is a list one entry has to fit; Envoy compares texts alone",
        ["stranger GET /ci/x [tenant as a list]"],
    ),
]
# So that a corpus that lost its cases, or of which nothing is allowed, does not pass.
CASES_MIN, OF_EACH_VERDICT_MIN = 700, 250


class Asker:
    """A connection for each caller and place; made anew when an answer ended it."""

    def __init__(self, port, version, contexts, app):
        self.port, self.version, self.contexts, self.app = port, version, contexts, app
        self.clients = {}

    def connect(self, case):
        connection = socket.create_connection(("127.0.0.1", self.port), 10, (case.source, 0))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = self.contexts[case.caller].wrap_socket(connection, server_hostname=None)
        return (Http1 if self.version == 1 else Http2)(connection)

    def send(self, client, case):
        if self.version == 2:
            more = [(name.lower(), value) for name, value in case.headers]
            return client.request(http2_headers(case.method, case.target, more=more))
        lines = [f"{case.method} {case.target} HTTP/1.1", "host: orders.shop.svc"]
        lines += [f"{name}: {value}" for name, value in case.headers]
        return client.request("\r\n".join([*lines, "", ""]).encode(), case.method)

    def ask(self, case):
        """Was the application asked? And the status; None where stream or connection were ended instead."""
        place = (case.caller, case.source)
        before = len(self.app.heads)
        status = None
        # A kept connection may have ended since; a new one has no such excuse.
        for kept in ([self.clients.pop(place)] if place in self.clients else []) + [None]:
            try:
                client = kept or self.connect(case)
                answer = self.send(client, case)
            except (OSError, http.client.HTTPException):
                continue
            except ProtocolError as fault:
                # Python's h2 is strict about answers too, and so are we about ours.
                check(False, f"HTTP/2 {case.name}: {fault!r}")
            status = answer.status
            if status and answer.headers.get("connection", "").lower() != "close":
                self.clients[place] = client
            break
        asked = len(self.app.heads) - before
        check(asked <= 1 and (status == 200) == (asked == 1), f"{case.name}: {status}, and the application was asked {asked} times")
        return asked == 1, status


def run(mesh):
    tool("envoy")
    identity = DevIdentity(mesh, WORKLOADS)
    tokens = Tokens(identity)
    jwks = {"iss": ISSUER}
    for name, keys in (("mesh", tokens.mesh_keys()), ("issuer", tokens.issuer_keys())):
        path = mesh.directory / f"{name}.jwks"
        path.write_text(json.dumps(keys))
        jwks[name] = str(path)
    port, issuers = port_rules(jwks["issuer"])
    app, ports = Http1App(), {"postern": free_port(), "envoy": free_port()}
    inbound = inbound_port(app.port, ports["postern"], app_http=1, **port)
    mesh.workload(identity, "orders", inbound=[inbound], issuers=issuers).start()
    run_envoy(mesh, "envoy", ports["envoy"], chain(identity.fetch("orders"), port, jwks), cluster_to(app.port))

    pems = {caller: identity.fetch(caller) for caller in CALLERS}
    cases = corpus(tokens.cases())
    found, verdicts = {}, []
    for version, alpn in ((1, "http/1.1"), (2, "h2")):
        contexts = {caller: mesh_tls(pems[caller], [alpn]) for caller in CALLERS}
        askers = {name: Asker(port, version, contexts, app) for name, port in ports.items()}
        for case in cases:
            ours, theirs = askers["postern"].ask(case), askers["envoy"].ask(case)
            verdicts.append(ours[0])
            if ours[0] != theirs[0]:
                found[f"{case.name} HTTP/{version}"] = (LOOSER if ours[0] else STRICTER, theirs[1], ours[1])
    compare(found)
    check(len(cases) >= CASES_MIN, f"only {len(cases)} cases")
    for verdict in (True, False):
        check(verdicts.count(verdict) >= OF_EACH_VERDICT_MIN, f"{verdicts.count(verdict)} of {len(verdicts)} are {verdict}")
    stricter = sum(verdict == STRICTER for verdict, _, _ in found.values())
    print(
        f"{len(cases)} requests in two versions: {verdicts.count(True)} allowed, {verdicts.count(False)} refused; "
        f"Postern is stricter in {stricter} and looser in {len(found) - stricter}, {len(DIFFERENCES)} reasons"
    )


def compare(found):
    listed = {}
    for verdict, why, names in DIFFERENCES:
        for name in names:
            versions = [name] if name.endswith(("HTTP/1", "HTTP/2")) else [f"{name} HTTP/1", f"{name} HTTP/2"]
            for each in versions:
                expect(f"another reason for {each}", listed.get(each), None)
                listed[each] = (verdict, why)
    faults = []
    for name, (verdict, envoy, postern) in found.items():
        if listed.get(name, (None,))[0] != verdict:
            faults.append(f"{name}: Envoy {envoy}, Postern {postern}, and no reason is listed why {verdict}")
    for name, (verdict, why) in listed.items():
        if name not in found:
            faults.append(f"{name}: they agree, and a reason is listed why {verdict}: {why}")
    check(not faults, "\n" + "\n".join(faults))


if __name__ == "__main__":
    main(run)
