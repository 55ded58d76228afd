"""Rules as Postern's file has them, said again for Envoy: RBAC filters (deny, then allow), jwt_authn, and CEL as a syntax tree.

Only what both can say is translated; anything else is a KeyError here and no silent difference there.
"""

import ast
import re

from harness.envoy import MANAGER, ROUTER, mesh_listener
from harness.mesh import TRUST_DOMAIN, WEB

FILTERS = "type.googleapis.com/envoy.extensions.filters.http"
RBAC = f"{FILTERS}.rbac.v3.RBAC"
TEMPLATE = "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig"
JWT = "envoy.filters.http.jwt_authn"
# The caller's certificate and the token name the same workload: what `binding: peer` says.
BINDING = f"metadata.filter_metadata['{JWT}']['mesh'].sub == connection.uri_san_peer_certificate"


def any_of(kind, each):
    return each[0] if len(each) == 1 else {f"or_{kind}": {"rules" if kind == "rules" else "ids": each}}


def as_list(value):
    return value if isinstance(value, list) else [value]


def permissions_of(rule):
    every = []
    if "methods" in rule:
        every.append([header(":method", method) for method in rule["methods"]])
    if "paths" in rule:
        every.append([one for pattern in as_list(rule["paths"]) for one in path(pattern)])
    for name, values in rule.get("headers", {}).items():
        every.append([header(name, value) for value in as_list(values)])
    for name, value in rule.get("query", {}).items():
        pattern = f"[^?]*[?](.*&)?{re.escape(name)}={re.escape(value)}(&.*)?"
        every.append([{"header": {"name": ":path", "string_match": {"safe_regex": {"regex": pattern}}}}])
    every = [any_of("rules", each) for each in every]
    return {"and_rules": {"rules": every}} if every else {"any": True}


def header(name, value):
    if value == "*":
        return {"header": {"name": name, "present_match": True}}
    how = {"prefix": value[:-1]} if value.endswith("*") else {"exact": value}
    return {"header": {"name": name, "string_match": how}}


def path(pattern):
    """`/a/**` is `/a` and what is below it; `{name}` is one segment."""
    if pattern == "/**":
        return [{"any": True}]
    if pattern.endswith("/**"):
        return [url_path("exact", pattern[:-3]), url_path("prefix", pattern[:-2])]
    if "{" in pattern:
        template = {"@type": TEMPLATE, "path_template": pattern}
        return [{"uri_template": {"name": "envoy.path.match.uri_template.uri_template_matcher", "typed_config": template}}]
    return [url_path("exact", pattern)]


def url_path(how, value):
    return {"url_path": {"path": {how: value}}}


def principals_of(rule):
    every = []
    if "spiffe" in rule:
        every.append([caller(pattern) for pattern in as_list(rule["spiffe"])])
    if "trust_domain" in rule:
        every.append([caller(f"spiffe://{rule['trust_domain']}/**")])
    if "source" in rule:
        address, bits = rule["source"].split("/")
        every.append([{"direct_remote_ip": {"address_prefix": address, "prefix_len": int(bits)}}])
    for name, value in rule.get("token", {}).get("claims", {}).items():
        key = [{"key": "issuer"}, {"key": name}]
        matcher = {"filter": JWT, "path": key, "value": {"string_match": {"exact": value}}}
        every.append([{"sourced_metadata": {"metadata_matcher": matcher, "metadata_source": "DYNAMIC"}}])
    every = [any_of("ids", each) for each in every]
    return {"and_ids": {"ids": every}} if every else {"any": True}


def caller(pattern):
    if pattern.endswith("/**"):
        how = {"prefix": pattern[:-2]}
    elif "*" in pattern:
        how = {"safe_regex": {"regex": re.escape(pattern).replace(r"\*", "[^/]+")}}
    else:
        how = {"exact": pattern}
    return {"authenticated": {"principal_name": how}}


def policy(rule, bound=False):
    said = {"permissions": [permissions_of(rule)], "principals": [principals_of(rule)]}
    condition = " && ".join([*([rule["when"]] if "when" in rule else []), *([BINDING] if bound else [])])
    return said | ({"condition": syntax_tree(condition)} if condition else {})


def rules(action, policies):
    return {"action": action, "policies": policies}


def allow(route_or_port):
    bound = route_or_port.get("binding") == "peer"
    return rules("ALLOW", {rule["name"]: policy(rule, bound) for rule in route_or_port["allow"]})


def deny(port):
    policies = {rule["name"]: policy(rule) for rule in port["deny"]}
    for rule in port["require"]:
        # Envoy has no list of what must hold: its opposite is denied.
        principals = [{"not_id": principals_of(rule)}]
        policies[rule["name"]] = {"permissions": [{"any": True}], "principals": principals}
    return rules("DENY", policies)


def syntax_tree(condition):
    """Envoy takes no text but the parsed expression (`google.api.expr.v1alpha1.Expr`). Conditions here keep to what is an
    expression of Python as well once its words stand for CEL's signs, so that Python's parser serves."""
    text = condition.replace("&&", " and ").replace("||", " or ").replace("!(", " not (")
    return node_of(ast.parse(text.strip(), mode="eval").body)


COMPARISONS = {ast.Eq: "_==_", ast.NotEq: "_!=_", ast.Lt: "_<_", ast.Gt: "_>_", ast.In: "@in"}


def node_of(node):
    match node:
        case ast.Constant(value=str(value)):
            return {"constExpr": {"stringValue": value}}
        case ast.Constant(value=int(value)):
            return {"constExpr": {"int64Value": str(value)}}
        case ast.Name(id=name):
            return {"identExpr": {"name": name}}
        case ast.Attribute(value=operand, attr=field):
            return {"selectExpr": {"operand": node_of(operand), "field": field}}
        case ast.Subscript(value=operand, slice=key):
            return call("_[_]", operand, key)
        case ast.List(elts=elements):
            return {"listExpr": {"elements": [node_of(each) for each in elements]}}
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return call("!_", operand)
        case ast.BoolOp(op=operator, values=[one, *others]):
            name = "_&&_" if isinstance(operator, ast.And) else "_||_"
            tree = node_of(one)
            for other in others:
                tree = {"callExpr": {"function": name, "args": [tree, node_of(other)]}}
            return tree
        case ast.Compare(left=left, ops=[operator], comparators=[right]):
            return call(COMPARISONS[type(operator)], left, right)
        case ast.Call(func=ast.Name(id="has"), args=[ast.Attribute() as field]):
            tree = node_of(field)
            tree["selectExpr"]["testOnly"] = True
            return tree
        case ast.Call(func=ast.Name(id=function), args=arguments):
            return call(function, *arguments)
        case ast.Call(func=ast.Attribute(value=target, attr=function), args=arguments):
            tree = call(function, *arguments)
            tree["callExpr"]["target"] = node_of(target)
            return tree
    raise KeyError(f"no CEL for {ast.dump(node)}")


def call(function, *arguments):
    return {"callExpr": {"function": function, "args": [node_of(each) for each in arguments]}}


def providers(port, jwks):
    """A provider for each key set: `mesh` (JWT-SVIDs, which need no `iss`) and `issuer`."""
    said, wanted = {}, []
    for route in port["routes"]:
        if "audience" not in route:
            continue
        issuers = route.get("token", {}).get("issuers")
        name = "issuer" if issuers else "mesh"
        said[name] = {
            "audiences": [route["audience"]],
            "local_jwks": {"filename": jwks[name]},
            "from_headers": [{"name": "authorization", "value_prefix": "Bearer "}],
            "payload_in_metadata": name,
            "clock_skew_seconds": 30,
        }
        if issuers:
            said[name]["issuer"] = jwks["iss"]
        wanted.append({"match": {"path_separated_prefix": prefix_of(route)}, "requires": {"provider_name": name}})
    return {"@type": f"{FILTERS}.jwt_authn.v3.JwtAuthentication", "providers": said, "rules": wanted}


def prefix_of(route):
    return route["match"]["path"].removesuffix("/**")


def chain(pems, port, jwks):
    """The filter chain of a listener that decides as `port` says. Paths as Envoy's "best practices for edge" have them."""
    allowed = "allow"
    routes = []
    for route in port["routes"]:
        own = {allowed: {"@type": f"{RBAC}PerRoute", "rbac": {"rules": allow(route)}}} if "allow" in route else {}
        match = {"path_separated_prefix": prefix_of(route)} if prefix_of(route) else {"prefix": "/"}
        routes.append({"match": match, "route": {"cluster": "upstream"}, "typed_per_filter_config": own})
    manager = {
        "@type": MANAGER,
        "stat_prefix": "entry",
        "codec_type": "AUTO",
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "UNESCAPE_AND_REDIRECT",
        "forward_client_cert_details": "SANITIZE",
        "http_filters": [
            {"name": JWT, "typed_config": providers(port, jwks)},
            {"name": "deny", "typed_config": {"@type": RBAC, "rules": deny(port)}},
            {"name": allowed, "typed_config": {"@type": RBAC, "rules": allow(port)}},
            ROUTER,
        ],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
    }
    tls = mesh_listener(pems, WEB)
    names = tls["transport_socket"]["typed_config"]["common_tls_context"]["validation_context"]
    names["match_typed_subject_alt_names"] = [{"san_type": "URI", "matcher": {"prefix": f"spiffe://{TRUST_DOMAIN}/"}}]
    return {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}], **tls}
