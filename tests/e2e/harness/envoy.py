"""Envoy with static certificates, as client or server of mTLS with SPIFFE IDs."""

import json

from harness.mesh import ORDERS
from harness.processes import accepts, free_port, tool, wait_until

TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"
MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER = {
    "name": "envoy.filters.http.router",
    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
}


def start_envoy_client(mesh, name, pems, mesh_port, version):
    """Plaintext in, mTLS to `mesh_port` where ORDERS must answer; returns the port of the plaintext listener."""
    port = free_port()
    start(mesh, name, port, {}, mesh_cluster(pems, mesh_port, version))
    return port


def mesh_cluster(pems, mesh_port, version):
    protocol = "http2_protocol_options" if version == 2 else "http_protocol_options"
    return {
        **cluster_to(mesh_port),
        "transport_socket": {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": f"{TLS}.UpstreamTlsContext",
                "common_tls_context": tls_context(pems, ORDERS, ["h2"] if version == 2 else ["http/1.1"]),
            },
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {protocol: {}},
            }
        },
    }


def start_envoy_server(mesh, name, pems, app_port, allowed):
    """mTLS in, from `allowed` only; plaintext HTTP/1.1 to the app, with the mesh hop's version in a header."""
    port = free_port()
    start(mesh, name, port, mesh_listener(pems, allowed), cluster_to(app_port))
    return port


def mesh_listener(pems, allowed):
    return {
        "transport_socket": {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": f"{TLS}.DownstreamTlsContext",
                "require_client_certificate": True,
                "common_tls_context": tls_context(pems, allowed, ["h2", "http/1.1"]),
            },
        }
    }


def start_envoy_tunnel_client(mesh, name, pems, tunnel_port, target):
    """Each connection to the returned port is a CONNECT to `target` on one mTLS connection to ORDERS at `tunnel_port`."""
    port = free_port()
    proxy = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "entry",
        "cluster": "upstream",
        "tunneling_config": {"hostname": target},
    }
    filters = [{"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy}]
    run_envoy(mesh, name, port, {"filters": filters}, mesh_cluster(pems, tunnel_port, 2))
    return port


def start_envoy_tunnel_server(mesh, name, pems, app_port, allowed):
    """Takes CONNECT streams from `allowed` on mTLS connections; all of them lead to the app."""
    port = free_port()
    route = {
        "match": {"connect_matcher": {}},
        "route": {"cluster": "upstream", "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}]},
    }
    manager = {
        "@type": MANAGER,
        "stat_prefix": "entry",
        "codec_type": "HTTP2",
        "http2_protocol_options": {"allow_connect": True},
        "upgrade_configs": [{"upgrade_type": "CONNECT"}],
        "http_filters": [ROUTER],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    run_envoy(mesh, name, port, {"filters": filters, **mesh_listener(pems, allowed)}, cluster_to(app_port))
    return port


def tls_context(pems, peer, alpn):
    return {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [
            {"certificate_chain": {"filename": pems.certificate}, "private_key": {"filename": pems.key}}
        ],
        "validation_context": {
            "trusted_ca": {"filename": pems.bundle},
            "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": peer}}],
        },
        "alpn_protocols": alpn,
    }


def cluster_to(port):
    endpoint = {"address": address(port)}
    return {
        "name": "upstream",
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": "upstream",
            "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}],
        },
    }


def address(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def start(mesh, name, port, filter_chain, cluster):
    route = {"match": {"prefix": "/"}, "route": {"cluster": "upstream"}}
    manager = {
        "@type": MANAGER,
        "stat_prefix": "entry",
        "codec_type": "AUTO",
        "http_filters": [ROUTER],
        "route_config": {
            "request_headers_to_add": [{"header": {"key": "x-envoy-protocol", "value": "%PROTOCOL%"}}],
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}],
        },
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    run_envoy(mesh, name, port, {"filters": filters, **filter_chain}, cluster)


def run_envoy(mesh, name, port, filter_chain, cluster):
    config = {
        "static_resources": {
            "listeners": [{"name": "entry", "address": address(port), "filter_chains": [filter_chain]}],
            "clusters": [cluster],
        }
    }
    path = mesh.directory / f"{name}.json"
    path.write_text(json.dumps(config, indent=2))
    command = [tool("envoy"), "-c", path, "--disable-hot-restart", "--concurrency", "1", "-l", "warning"]
    mesh.workspace.spawn(name, command)
    wait_until(lambda: accepts(port), name)
