"""The rules and the requests of `scenarios/rbac_corpus`. A case's name is what it does, and no two have the same."""

import base64
import hashlib
import hmac
import json
import time
from dataclasses import dataclass

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from harness.mesh import BATCH, ORDERS, TRUST_DOMAIN, WEB
from spiffe import WorkloadApiClient

WORKLOADS = {
    "orders": ORDERS,
    "web": WEB,
    "web-2": f"{WEB}-2",
    "batch": BATCH,
    "batch-below": f"{BATCH}/nightly",
    "batch-x": f"spiffe://{TRUST_DOMAIN}/ns/batch-x/sa/report",
    "ops": f"spiffe://{TRUST_DOMAIN}/ns/ops/sa/admin",
    "retired": f"spiffe://{TRUST_DOMAIN}/ns/ops/sa/retired",
    "stranger": f"spiffe://{TRUST_DOMAIN}/ns/other/sa/stranger",
}
CALLERS = [name for name in WORKLOADS if name != "orders"]
ISSUER = "https://ci.example"
DEPLOY = "https://deploy.shop.example"

# What a condition says, by the name of the path below /when that it opens.
CONDITIONS = {
    "header": "request.headers['x-level'] == 'high'",
    "method": "request.method in ['GET', 'HEAD'] && 'x-level' in request.headers",
    "not": "!(request.headers['x-level'] == 'low')",
    "either": "request.headers['x-level'] == 'high' || request.method == 'PUT'",
    "start": "request.url_path.startsWith('/when/start/a')",
    "path": "request.path == '/when/path?a=1'",
    "query": "request.query == 'a=1'",
    "pattern": "request.url_path.matches('^/when/pattern/[a-z]+$')",
    "caller": f"connection.uri_san_peer_certificate == '{WEB}'",
    "ends": "connection.uri_san_peer_certificate.endsWith('/sa/report')",
    "principal": "source.principal.endsWith('/sa/report')",
    "us": f"connection.uri_san_local_certificate == '{ORDERS}' && connection.mtls",
    "tls": "connection.tls_version == 'TLSv1.3'",
    "sni": "connection.requested_server_name == ''",
    "host": "request.host == 'orders.shop.svc'",
    "scheme": "request.scheme == 'https'",
    "number": "int(request.headers['x-level']) > 3",
    "size": "size(request.headers['x-level']) == 4",
    "agent": "request.useragent.startsWith('e2e')",
    "referer": "request.referer.contains('shop')",
    "time": "request.time > timestamp('2020-01-01T00:00:00Z')",
    "source": "source.address.startsWith('127.0.0.2:')",
}


def port_rules(issuer_keys):
    """The keys of an inbound port that decide; `routes` without rules of their own have the port's."""
    mesh = {"trust_domain": TRUST_DOMAIN}
    allow = [
        {"name": "web-reads", "spiffe": WEB, "methods": ["GET", "HEAD"], "paths": ["/orders/**", "/health"]},
        {
            "name": "jobs",
            "spiffe": f"spiffe://{TRUST_DOMAIN}/ns/batch/**",
            "methods": ["POST"],
            "paths": "/jobs/{id}/run",
        },
        {"name": "operators", "spiffe": f"spiffe://{TRUST_DOMAIN}/ns/ops/sa/*", "paths": "/**"},
        {"name": "exact", **mesh, "paths": "/headers/exact", "headers": {"x-tenant": "acme"}},
        {"name": "begins", **mesh, "paths": "/headers/prefix", "headers": {"x-tenant": "acme-*"}},
        {"name": "present", **mesh, "paths": "/headers/present", "headers": {"x-tenant": "*"}},
        {"name": "kinds", **mesh, "paths": "/search", "query": {"kind": "orders"}},
        {"name": "near", **mesh, "paths": "/near", "source": "127.0.0.2/32"},
        {"name": "not-denied", **mesh, "paths": "/except/**"},
    ]
    for name, condition in CONDITIONS.items():
        allow.append({"name": f"when-{name}", **mesh, "paths": f"/when/{name}/**", "when": condition})
    deny = [
        {"name": "retired", "spiffe": WORKLOADS["retired"]},
        {"name": "no-debugging", "paths": "/debug/**"},
        {
            "name": "orders-stay",
            "spiffe": f"spiffe://{TRUST_DOMAIN}/ns/ops/**",
            "methods": ["DELETE"],
            "paths": "/orders/**",
        },
        {"name": "blocked", "paths": "/except/header", "headers": {"x-blocked": "yes"}},
        {"name": "debug-parameter", "paths": "/except/query", "query": {"debug": "1"}},
        {"name": "old", "paths": "/except/when", "when": "request.headers['x-age'] == 'old'"},
        {
            "name": "agents-only-read",
            "paths": "/except/agents",
            "when": "'x-agent' in request.headers && !(request.method in ['GET', 'HEAD'])",
        },
    ]
    tokens = {"name": "tokens", "match": {"path": "/tokens/**"}, "audience": ORDERS, "binding": "peer"}
    tokens["allow"] = [{"name": "who-has-one", "spiffe": [WEB, BATCH]}]
    jobs = {"name": "ci", "match": {"path": "/ci/**"}, "audience": DEPLOY, "binding": "bearer"}
    jobs["token"] = {"issuers": ["ci"]}
    jobs["allow"] = [{"name": "of-acme", **mesh, "token": {"claims": {"tenant": "acme"}}}]
    port = {
        "deny": deny,
        "require": [{"name": "this-host", "source": "127.0.0.0/30"}],
        "allow": allow,
        "routes": [tokens, jobs, {"name": "rest", "match": {"path": "/**"}}],
    }
    return port, [{"name": "ci", "issuer": ISSUER, "jwks_file": issuer_keys}]


@dataclass(frozen=True)
class Case:
    name: str
    caller: str
    method: str
    target: str
    headers: tuple = ()
    source: str = "127.0.0.1"


def case(caller, method, target, *headers, source="127.0.0.1", called=None):
    """`called` stands for headers that have no place in a name, such as tokens."""
    said = called or "; ".join(f"{name}: {value}" for name, value in headers)
    words = [caller, method, target, said and f"[{said}]", source != "127.0.0.1" and f"from {source}"]
    return Case(" ".join(filter(None, words)), caller, method, target, headers, source)


METHODS = ["GET", "HEAD", "POST", "DELETE", "get", "PROPFIND"]
PLAIN_PATHS = ["/orders/7", "/health", "/jobs/7/run", "/debug/pprof", "/nowhere"]
# Tried by `web`, who may read what is below /orders, and by `ops`, to whom only what is denied is closed.
ODD_PATHS = [
    "/", "/orders", "/orders/", "/ordersX", "/Orders/7", "//orders/7", "/orders//7", "/orders/7//", "/orders/./7",
    "/./orders/7", "/orders/.", "/orders/x/../7", "/orders/../debug/x", "/orders/..", "/../orders/7",
    "/orders/%2e%2e/debug/x", "/orders/..%2Fdebug/x", "/orders/..;/debug/x", "/orders/..;x=1/7", "/orders/7;v=1",
    "/orders;v=1/7", "/orders/7%3Bv=1", "/orders/a%2Fb", "/orders/a%2fb", "/orders/a%5Cb", "/orders/a\\b",
    "/orders/..\\debug", "/orders/a%252Fb", "/orders/%C3%A9", "/orders/%2e", "/%6frders/7", "/orders/%00",
    "/orders/%zz", "/orders/%", "/orders/7?a=/../debug", "/orders/7?", "/orders/7#part", "/health/", "/health;v=1",
    "/health?full=1", "/HEALTH", "/debug", "/debug/", "/debugX", "/DEBUG/x", "//debug/x", "/debug//x", "/./debug/x",
    "/%64ebug/x", "/debug;v=1/x", "/debug%2Fx", "/debug%252Fx", "/x/../debug/x", "/%2564ebug/x", "/debug%3B/x",
    "/debug\\x", "/orders/7/.;/x", "/...//debug/x", "/orders/+/x", "/orders/%20/x", "/orders/a%3Fb", "/orders/a%23b",
]  # fmt: skip
JOB_PATHS = [
    "/jobs/7/run", "/jobs/7/run/", "/jobs//run", "/jobs/run", "/jobs/7/8/run", "/jobs/7/RUN", "/jobs/a-b_c.d~e/run",
    "/jobs/a:b/run", "/jobs/%C3%A9/run", "/jobs/a%2Fb/run", "/jobs/a;b/run", "/jobs/a@b/run", "/jobs/./run",
    "/jobs/*/run", "/jobs/{id}/run", "/jobs/7/run?x=1",
]  # fmt: skip
TENANTS = [
    (), ("acme",), ("ACME",), ("acme-1",), ("acme-",), ("xacme-1",), ("",), ("acme,acme",), ("acme, evil",),
    ("acme", "acme"), ("acme", "evil"), ("evil", "acme"), ("acme-1", "acme-2"), ("acme-1", "evil"),
]  # fmt: skip
QUERIES = [
    "", "?", "?kind=orders", "?kind=Orders", "?Kind=orders", "?kind=ordersx", "?xkind=orders", "?kind=", "?kind",
    "?x=1&kind=orders", "?kind=orders&x=1", "?kind=orders&kind=orders", "?kind=orders&kind=all",
    "?kind=all&kind=orders", "?kind=%6Frders", "?k%69nd=orders", "?kind=orders%26x", "?a;kind=orders",
    "?kind=orders;x", "?x=?kind=orders", "?&kind=orders&", "?kind=orders#x", "?kind=+orders", "?kind=orders%20",
]  # fmt: skip
DEBUG_QUERIES = [
    "", "?debug=1", "?debug=0", "?x&debug=1", "?debug=0&debug=1", "?d%65bug=1", "?debug=%31", "?DEBUG=1", "?debug=1;x",
    "?debug=01",
]  # fmt: skip
LEVELS = [(), ("high",), ("low",), ("HIGH",), ("5",), ("-5",), ("five",), ("high", "low")]


def corpus(tokens):
    cases = [case(who, method, path) for who in CALLERS for method in METHODS for path in PLAIN_PATHS]
    for path in ODD_PATHS:
        cases += [case("web", "GET", path), case("ops", "GET", path)]
    cases += [case(who, "POST", path) for who in ("batch", "batch-below") for path in JOB_PATHS if path != "/jobs/7/run"]
    for kind in ("exact", "prefix", "present"):
        cases += [case("stranger", "GET", f"/headers/{kind}", *(("x-tenant", one) for one in values)) for values in TENANTS]
        cases.append(case("stranger", "GET", f"/headers/{kind}", ("X-Tenant", "acme"), called="X-TENANT"))
    cases += [case("stranger", "GET", f"/search{query}") for query in QUERIES]
    for source in ("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"):
        cases += [case("stranger", "GET", "/near", source=source), case("web", "GET", "/orders/8", source=source)]
    cases += denied_cases() + condition_cases()
    cases += [case(who, "GET", path, *headers, called=name) for who, path, name, headers in tokens]
    names = [each.name for each in cases]
    assert len(set(names)) == len(names), sorted(name for name in names if names.count(name) > 1)
    return cases


def denied_cases():
    cases = []
    for values in [(), ("yes",), ("YES",), ("no",), ("yes", "no"), ("no", "yes"), ("yes,no",), ("yes", "yes"), ("yes ",)]:
        cases.append(case("web", "GET", "/except/header", *(("x-blocked", one) for one in values)))
    cases += [case("web", "GET", f"/except/query{query}") for query in DEBUG_QUERIES]
    for values in [(), ("old",), ("new",), ("old", "new"), ("",)]:
        cases.append(case("web", "GET", "/except/when", *(("x-age", one) for one in values)))
    for method in ("GET", "HEAD", "POST", "OPTIONS"):
        cases += [case("web", method, "/except/agents"), case("web", method, "/except/agents", ("x-agent", "1"))]
    return cases


def condition_cases():
    cases = []
    for name in ("header", "method", "not", "either", "number", "size"):
        for method in ("GET", "PUT"):
            cases += [case("web", method, f"/when/{name}", *(("x-level", one) for one in values)) for values in LEVELS]
    paths = ["start/abc", "start/b", "start//abc", "start/x/../abc", "pattern/abc", "pattern/ABC", "pattern/a/b", "pattern/%61"]
    paths += ["path?a=1", "path?a=2", "path", "query?a=1", "query?a=1&b", "query", "query?", "query?%61=1"]
    paths += ["scheme", "tls", "sni", "us", "time"]
    cases += [case("stranger", "GET", f"/when/{path}") for path in paths]
    for name in ("caller", "ends", "principal", "host"):
        cases += [case(who, "GET", f"/when/{name}") for who in ("web", "web-2", "batch", "batch-below")]
    for header in ("user-agent", "referer"):
        name = {"user-agent": "agent"}.get(header, header)
        for given in ((), ((header, "e2e/1 shop"),), ((header, "https://shop.example/"),)):
            cases.append(case("web", "GET", f"/when/{name}", *given))
    cases += [case("web", "GET", "/when/source", source=f"127.0.0.{last}") for last in (1, 2)]
    return cases


class Tokens:
    """JWT-SVIDs as the provider makes them, and an issuer's made by PyJWT: good ones and all kinds of others."""

    def __init__(self, identity):
        self.identity = identity
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.rsa = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.other = ec.generate_private_key(ec.SECP256R1())

    def mesh_keys(self):
        with WorkloadApiClient(self.identity.socket("orders")) as client:
            bundles = client.fetch_jwt_bundles()
        authorities = next(iter(bundles.bundles)).jwt_authorities
        return {"keys": [self.public(key, kid) for kid, key in authorities.items()]}

    def issuer_keys(self):
        return {"keys": [self.public(self.key.public_key(), "one"), self.public(self.rsa.public_key(), "two")]}

    @staticmethod
    def public(key, kid):
        is_rsa = isinstance(key, rsa.RSAPublicKey)
        algorithm = "RS256" if is_rsa else {256: "ES256", 384: "ES384", 521: "ES512"}[key.curve.key_size]
        made = jwt.get_algorithm_by_name(algorithm).to_jwk(key, as_dict=True)
        made.pop("key_ops", None)
        return made | {"kid": kid}

    def fetch(self, workload, audience):
        with WorkloadApiClient(self.identity.socket(workload)) as client:
            return client.fetch_jwt_svid(audience={audience}).token

    def cases(self):
        """(caller, path, name, headers) of each."""
        own, others = self.fetch("web", ORDERS), self.fetch("batch", ORDERS)
        mesh = {
            "own": own,
            "of another workload": others,
            "for another audience": self.fetch("web", BATCH),
            "of the issuer": self.made(aud=ORDERS, sub=WEB),
            "cut": own.rsplit(".", 1)[0],
            "changed": changed(own),
        }
        made = [("web", "/tokens/x", name, bearer(token)) for name, token in mesh.items()]
        made += [("batch", "/tokens/x", "own", bearer(others)), ("batch", "/tokens/x", "of web", bearer(own))]
        made.append(("stranger", "/tokens/x", "own", bearer(self.fetch("stranger", ORDERS))))
        paths = ["/tokens", "/tokens/", "/tokensX", "//tokens/x", "/x/../tokens/x", "/Tokens/x"]
        made += [("web", path, "own", bearer(own)) for path in paths]
        made += [("web", "/orders/9", name, bearer(token)) for name, token in (("own", own), ("garbage", "abc"))]
        made += [("stranger", "/ci/x", name, bearer(token)) for name, token in self.issuers().items()]
        good = self.made()
        headers = {
            "no token": (),
            "lower-case scheme": (("authorization", f"bearer {good}"),),
            "no scheme": (("authorization", good),),
            "basic": (("authorization", "Basic YTpi"),),
            "empty": (("authorization", "Bearer "),),
            "two spaces": (("authorization", f"Bearer  {good}"),),
            "two fields, both good": (("authorization", f"Bearer {good}"), ("authorization", f"Bearer {good}")),
            "two fields, one good": (("authorization", f"Bearer {good}"), ("authorization", "Bearer abc")),
            "two in one": (("authorization", f"Bearer {good}, Bearer {good}"),),
        }
        made += [("stranger", "/ci/x", name, given) for name, given in headers.items()]
        made.append(("stranger", f"/ci/x?access_token={good}", "in the query", ()))
        return made

    def made(self, key=None, algorithm="ES256", kid="one", header=None, without=(), **claims):
        now = int(time.time())
        said = {"iss": ISSUER, "aud": DEPLOY, "sub": "job", "exp": now + 3600, "iat": now, "tenant": "acme"} | claims
        said = {name: value for name, value in said.items() if name not in without}
        headers = ({"kid": kid} if kid else {}) | (header or {})
        return jwt.encode(said, key or self.key, algorithm=algorithm, headers=headers)

    def issuers(self):
        now = int(time.time())
        spki = serialization.PublicFormat.SubjectPublicKeyInfo
        public = self.key.public_key().public_bytes(serialization.Encoding.DER, spki)
        good = self.made()
        return {
            "good": good,
            "RS256": self.made(self.rsa, "RS256", "two"),
            "PS256": self.made(self.rsa, "PS256", "two"),
            "RS512": self.made(self.rsa, "RS512", "two"),
            "no kid": self.made(kid=None),
            "unknown kid": self.made(kid="three"),
            "kid of the other key": self.made(kid="two"),
            "another key": self.made(self.other),
            "alg none": unsigned(good),
            "HS256 with the public key": hs256(good, public),
            "changed": changed(good),
            "cut": good.rsplit(".", 1)[0],
            "no signature": good.rsplit(".", 1)[0] + ".",
            "four parts": f"{good}.x",
            "garbage": "abc.def.ghi",
            "another issuer": self.made(iss="https://evil.example"),
            "a slash more in iss": self.made(iss=f"{ISSUER}/"),
            "no iss": self.made(without=["iss"]),
            "another audience": self.made(aud="https://other.example"),
            "part of the audience": self.made(aud=DEPLOY[:-1]),
            "a slash more in aud": self.made(aud=f"{DEPLOY}/"),
            "two audiences": self.made(aud=["https://other.example", DEPLOY]),
            "no audience": self.made(without=["aud"]),
            "empty audience": self.made(aud=[]),
            "expired": self.made(exp=now - 300),
            "expired within the leeway": self.made(exp=now - 5),
            "expired beyond the leeway": self.made(exp=now - 50),
            "no exp": self.made(without=["exp"]),
            "exp with a fraction": self.made(exp=now + 600.5),
            "not yet": self.made(nbf=now + 300),
            "not yet, within the leeway": self.made(nbf=now + 10),
            "issued in the future": self.made(iat=now + 300),
            "no iat": self.made(without=["iat"]),
            "no sub": self.made(without=["sub"]),
            "another tenant": self.made(tenant="umbrella"),
            "no tenant": self.made(without=["tenant"]),
            "tenant as a list": self.made(tenant=["acme"]),
            "tenant as an object": self.made(tenant={"acme": 1}),
            "crit": self.made(header={"crit": ["x"], "x": 1}),
            "typ of an ID token": self.made(header={"typ": "at+jwt"}),
            "keys of its own": self.made(self.other, header={"jwk": self.public(self.other.public_key(), "one")}),
            "cnf of another certificate": self.made(cnf={"x5t#S256": "A" * 43}),
        }


def bearer(token):
    return (("authorization", f"Bearer {token}"),)


def changed(token):
    header, payload, signature = token.split(".")
    return f"{header}.{payload[:8]}{'A' if payload[8] != 'A' else 'B'}{payload[9:]}.{signature}"


def unsigned(token):
    header = base64.urlsafe_b64encode(json.dumps({"alg": "none", "kid": "one", "typ": "JWT"}).encode()).rstrip(b"=")
    return f"{header.decode()}.{token.split('.')[1]}."


def hs256(token, key):
    """Signed with a public key as if it were a shared secret. PyJWT refuses to make one."""
    header = base64.urlsafe_b64encode(json.dumps({"alg": "HS256", "kid": "one", "typ": "JWT"}).encode()).rstrip(b"=")
    signed = header + b"." + token.split(".")[1].encode()
    return (signed + b"." + base64.urlsafe_b64encode(hmac.new(key, signed, hashlib.sha256).digest()).rstrip(b"=")).decode()
