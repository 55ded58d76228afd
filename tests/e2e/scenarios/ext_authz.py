"""One authorizer from Envoy's published protos, asked by Envoy and by Postern about the same requests: what it sees is
compared field by field, and what comes of its answers too. Every difference stands in DIFFERENCES, with why."""

import json
from concurrent import futures

import grpc
from envoy.config.core.v3 import base_pb2
from envoy.service.auth.v3 import external_auth_pb2 as auth
from envoy.service.auth.v3 import external_auth_pb2_grpc as auth_grpc
from google.protobuf.json_format import MessageToDict
from google.rpc import status_pb2
from harness.apps import Http1App
from harness.clients import Http1, Http2, connect_tls, http2_headers, mesh_tls
from harness.envoy import MANAGER, ROUTER, address, cluster_to, mesh_listener
from harness.mesh import WEB, inbound_port
from harness.processes import accepts, check, expect, free_port, tool, wait_until
from harness.scenario import main

# Attribute → why it differs. Each is removed from both sides, after what is said of it has been checked.
DIFFERENCES = {
    "request.time": "the two are asked one after the other",
    "request.http.id": "Envoy's number of the stream; ours is the decision id, which the access log has",
    "source.address.socketAddress.portValue": "each is called over a connection of its own",
    "destination.address.socketAddress.portValue": "each listens on a port of its own",
    "metadataContext": "Envoy's filters' metadata; Postern has no such filters, and sends no empty message",
    "routeMetadataContext": "the same",
}
ENVOYS_HEADERS = {
    "x-forwarded-proto": "Envoy's connection manager adds it; Postern lets it pass, and says nothing by it",
    "x-request-id": "the same",
}
OUR_HEADERS = {"x-spiffe-id": "Postern tells who called in this header too (`identity_headers`)"}


class Authorizer(auth_grpc.AuthorizationServicer):
    """Answers by the path; what it was asked is kept."""

    def __init__(self):
        self.asked = []
        self.server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
        auth_grpc.add_AuthorizationServicer_to_server(self, self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def Check(self, request, _context):
        self.asked.append(request)
        path = request.attributes.request.http.path.split("?")[0]
        answer = auth.CheckResponse(status=status_pb2.Status(code=0))
        if path == "/denied":
            answer.status.code = 7
        elif path == "/login":
            answer.status.code = 16
            answer.denied_response.status.code = 401
            answer.denied_response.body = "who are you?"
            answer.denied_response.headers.add().header.CopyFrom(header("www-authenticate", "Basic"))
        elif path == "/undecided":
            answer.status.code = 14
            answer.error_response.status.code = 503
        elif path == "/changed":
            added = answer.ok_response.headers
            added.add().header.CopyFrom(header("x-tenant", "acme"))
            option = added.add()
            option.header.CopyFrom(header("x-list", "two"))
            option.append.value = True
            option = added.add()
            option.header.CopyFrom(header("x-absent", "two"))
            option.append.value = True
            answer.ok_response.headers_to_remove.append("x-secret")
            answer.ok_response.response_headers_to_add.add().header.CopyFrom(header("x-checked", "yes"))
            answer.ok_response.query_parameters_to_set.add(key="page", value="2")
            answer.ok_response.query_parameters_to_remove.append("debug")
        return answer


def header(key, value):
    return base_pb2.HeaderValue(key=key, value=value)


def start_envoy(mesh, pems, app_port, authorizer_port):
    """As `harness.envoy`'s server of mTLS, with an ext_authz filter before its router."""
    port = free_port()
    authz = {
        "name": "envoy.filters.http.ext_authz",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
            "transport_api_version": "V3",
            "grpc_service": {"envoy_grpc": {"cluster_name": "authorizer"}, "timeout": "2s"},
            "with_request_body": {"max_request_bytes": 64, "allow_partial_message": True},
            "include_peer_certificate": True,
        },
    }
    route = {
        "match": {"prefix": "/"},
        "route": {"cluster": "upstream"},
        "typed_per_filter_config": {
            "envoy.filters.http.ext_authz": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute",
                "check_settings": {"context_extensions": {"tenant": "acme"}},
            }
        },
    }
    manager = {
        "@type": MANAGER,
        "stat_prefix": "entry",
        "codec_type": "AUTO",
        "forward_client_cert_details": "SANITIZE_SET",
        "set_current_client_cert_details": {"uri": True},
        "http_filters": [authz, ROUTER],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    authorizer = {
        **cluster_to(authorizer_port),
        "name": "authorizer",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
    }
    chain = {"filters": filters, **mesh_listener(pems, WEB)}
    listener = {"name": "entry", "address": address(port), "filter_chains": [chain]}
    config = {"static_resources": {"listeners": [listener], "clusters": [cluster_to(app_port), authorizer]}}
    path = mesh.directory / "envoy-authz.json"
    path.write_text(json.dumps(config, indent=2))
    command = [tool("envoy"), "-c", path, "--disable-hot-restart", "--concurrency", "1", "-l", "warning"]
    mesh.workspace.spawn("envoy-authz", command)
    wait_until(lambda: accepts(port), "envoy-authz")
    return port


def start_postern(mesh, identity, app_port, authorizer_port):
    port = free_port()
    authorizer = {
        "name": "opa",
        "grpc": f"127.0.0.1:{authorizer_port}",
        "timeout": "2s",
        "body": {"max": 64, "over": "truncate"},
        "context": {"tenant": "acme"},
        "certificate": True,
    }
    inbound = inbound_port(app_port, port, app_http=1, authorize="opa")
    mesh.workload(identity, "orders", inbound=[inbound], authorizers=[authorizer]).start()
    return port


# Method, path with query, headers, body.
REQUESTS = [
    ("GET", "/plain", [], b""),
    ("GET", "/query?a=1&b=%20c&a=2", [("x-many", "a"), ("x-many", "b")], b""),
    ("GET", "/credentials", [("cookie", "c=1"), ("authorization", "Basic YTpi")], b""),
    ("DELETE", "/orders/17", [("user-agent", "e2e")], b""),
    ("POST", "/text", [("content-type", "text/plain")], b"a body"),
    ("POST", "/longer", [("content-type", "text/plain")], b"x" * 300),
    ("GET", "/forged", [("x-forwarded-client-cert", "By=spiffe://shop.example/a;URI=spiffe://shop.example/root")], b""),
    ("GET", "/denied", [], b""),
    ("GET", "/login", [], b""),
    ("GET", "/undecided", [], b""),
    ("GET", "/changed?page=1&debug=1&x=%2f", [("x-tenant", "forged"), ("x-list", "one"), ("x-secret", "s")], b""),
]


def send(client, version, request):
    method, path, headers, body = request
    if version == 2:
        more = [*headers, *([("content-length", str(len(body)))] if body else [])]
        return client.request(http2_headers(method, path, more=more), body=body)
    lines = [f"{method} {path} HTTP/1.1", "host: orders.shop.svc", *(f"{name}: {value}" for name, value in headers)]
    if body:
        lines.append(f"content-length: {len(body)}")
    return client.request("\r\n".join([*lines, "", ""]).encode() + body, method)


def remove(fields, path):
    *parents, last = path.split(".")
    for parent in parents:
        fields = fields.get(parent, {})
    return fields.pop(last, None)


def comparable(question):
    """What is to be equal."""
    fields = MessageToDict(question.attributes)
    for path in DIFFERENCES:
        remove(fields, path)
    headers = fields["request"]["http"]["headers"]
    for name in (*ENVOYS_HEADERS, *OUR_HEADERS):
        headers.pop(name, None)
    return fields


def flat(fields, prefix=""):
    found = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            found.update(flat(value, f"{prefix}{name}."))
        else:
            found[f"{prefix}{name}"] = value
    return found


def run(mesh):
    tool("envoy")
    identity = mesh.identity()
    authorizer, app = Authorizer(), Http1App()
    ports = {
        "envoy": start_envoy(mesh, identity.fetch("orders"), app.port, authorizer.port),
        "postern": start_postern(mesh, identity, app.port, authorizer.port),
    }
    pems = identity.fetch("web")
    faults = []
    for version, alpn, make in ((1, "http/1.1", Http1), (2, "h2", Http2)):
        clients = {name: make(connect_tls(port, mesh_tls(pems, [alpn]))) for name, port in ports.items()}
        for request in REQUESTS:
            what = f"HTTP/{version} {request[0]} {request[1]}"
            asked, answers, arrived = {}, {}, {}
            for name, client in clients.items():
                before, heads = len(authorizer.asked), len(app.heads)
                answers[name] = send(client, version, request)
                expect(f"{what}: questions by {name}", len(authorizer.asked) - before, 1)
                asked[name] = authorizer.asked[-1]
                arrived[name] = app.heads[heads].decode().split("\r\n") if len(app.heads) > heads else None
            ours, theirs = flat(comparable(asked["postern"])), flat(comparable(asked["envoy"]))
            for field in sorted(ours.keys() | theirs.keys()):
                if ours.get(field) != theirs.get(field):
                    faults.append(f"{what}: {field}: Envoy {theirs.get(field)!r}, Postern {ours.get(field)!r}")
            check(asked["postern"].attributes.request.http.id, "there is an id")
            check(asked["postern"].attributes.request.HasField("time"), "there is a time")
            same_outcome(what, answers, arrived, faults)
    check(not faults, "\n".join(faults))


def same_outcome(what, answers, arrived, faults):
    def told(name):
        answer = answers[name]
        extra = {key: answer.headers.get(key) for key in ("www-authenticate", "x-checked")}
        # Envoy says nothing in a refusal without a body of the authorizer's, and we the decision id.
        body = answer.body if answer.status not in (403, 503) else b""
        return answer.status, extra, body if answer.status >= 400 else b""

    def passed_on(name):
        head = arrived[name]
        if head is None:
            return None
        names = ("x-tenant", "x-list", "x-absent", "x-secret", "x-forwarded-client-cert", "cookie", "authorization")
        # Repeated lines or one with commas mean the same (RFC 9110 §5.3).
        fields = [line.split(": ", 1) for line in head[1:] if ": " in line]
        return head[0], {key: ",".join(v for k, v in fields if k.lower() == key) for key in names}

    for read in (told, passed_on):
        if read("envoy") != read("postern"):
            faults.append(f"{what}: {read.__name__}: Envoy {read('envoy')!r}, Postern {read('postern')!r}")


if __name__ == "__main__":
    main(run)
