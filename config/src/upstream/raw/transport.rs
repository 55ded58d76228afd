//! Who has to answer, how we know, and by which connections: `tls`, `identity`, `svid`, `via`, `server_name`, `roots`.

use super::RawService;
use crate::pattern::SpiffePattern;
use crate::read::{FromNode, Reader};
use crate::tunnel::TUNNEL_PORT;
use crate::upstream::{Endpoints, Transport};
use crate::yaml::Node;
use schemars::JsonSchema;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
#[schemars(rename_all = "lowercase")]
pub(super) enum ServiceTls {
    #[default]
    Mesh,
    Web,
    Off,
}

impl FromNode for ServiceTls {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        reader.word(node, &[("mesh", Self::Mesh), ("web", Self::Web), ("off", Self::Off)])
    }
}

impl ServiceTls {
    fn word(self) -> &'static str {
        match self {
            Self::Mesh => "mesh",
            Self::Web => "web",
            Self::Off => "off",
        }
    }
}

/// Which connections carry the application's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
#[schemars(rename_all = "lowercase")]
pub(super) enum Via {
    #[default]
    Direct,
    Tunnel,
}

impl FromNode for Via {
    fn from_node(node: &Node, reader: &mut Reader) -> Option<Self> {
        reader.word(node, &[("direct", Self::Direct), ("tunnel", Self::Tunnel)])
    }
}

impl RawService {
    /// `None`: what stands there has been told to be wrong.
    pub(super) fn transport(&self, reader: &mut Reader) -> Option<Transport> {
        let tls = match self.tls.place() {
            None => ServiceTls::default(),
            // Whether the other keys fit cannot be said while this one is not known.
            Some(_) => *self.tls.get()?,
        };
        self.refuse_keys_of_other_transports(tls, reader);
        match tls {
            ServiceTls::Mesh => {
                let identity = self.mesh_identity(reader)?;
                let svid = self.svid.get().unwrap_or(&reader.svid).clone();
                Some(Transport::Mesh { identity, svid, tunnel: self.tunnel(reader) })
            }
            ServiceTls::Web => {
                self.require_server_name(reader);
                Some(Transport::WebTls {
                    server_name: self.server_name.get().map(|name| name.0.clone()),
                    roots: self.roots.get().map(|file| file.0.clone()),
                })
            }
            ServiceTls::Off => Some(Transport::Plaintext),
        }
    }

    fn refuse_keys_of_other_transports(&self, tls: ServiceTls, reader: &mut Reader) {
        for (key, place, wants) in [
            ("identity", self.identity.place(), ServiceTls::Mesh),
            ("svid", self.svid.place(), ServiceTls::Mesh),
            ("via", self.via.place(), ServiceTls::Mesh),
            ("tunnel_port", self.tunnel_port.place(), ServiceTls::Mesh),
            ("credential", self.credential.place(), ServiceTls::Mesh),
            ("server_name", self.server_name.place(), ServiceTls::Web),
            ("roots", self.roots.place(), ServiceTls::Web),
        ] {
            if let Some(place) = place
                && wants != tls
            {
                let what = format!("`{key}` has no effect with `tls: {}`", tls.word());
                reader.problem(place, what, format!("remove `{key}`, or write `tls: {}`", wants.word()));
            }
        }
    }

    fn tunnel(&self, reader: &mut Reader) -> Option<u16> {
        let wants_tunnel = self.via.get() == Some(&Via::Tunnel);
        let is_readable = !self.via.is_written() || self.via.get().is_some();
        if let Some(place) = self.tunnel_port.place()
            && !wants_tunnel
            && is_readable
        {
            let hint = "write `via: tunnel`, or remove `tunnel_port`";
            reader.problem(place, "`tunnel_port` has no effect without `via: tunnel`", hint);
        }
        wants_tunnel.then(|| self.tunnel_port.get().copied().unwrap_or(TUNNEL_PORT))
    }

    fn mesh_identity(&self, reader: &mut Reader) -> Option<Vec<SpiffePattern>> {
        let hint = "add `identity: spiffe://…` with the SPIFFE ID that has to answer, or `tls: web` for a server of the \
                    Web PKI";
        let Some(place) = self.identity.place() else {
            reader.problem(&self.place, "`identity` is missing: who must answer?", hint);
            return None;
        };
        let patterns = &self.identity.get()?.0;
        if patterns.is_empty() {
            reader.problem(place, "`identity` names nobody: who must answer?", hint);
            return None;
        }
        let hosts = self.hosts.get().map(|hosts| hosts.0.as_slice()).unwrap_or_default();
        let hosts_readable = self.hosts.get().is_some() || !self.hosts.is_written();
        for pattern in patterns {
            for capture in pattern.value.captures() {
                let without = hosts.iter().find(|host| !host.value.captures().contains(&capture));
                let what = match without {
                    Some(host) => format!("`{{{capture}}}` has no value where the host is `{}`", host.value),
                    None if hosts.is_empty() && hosts_readable => {
                        format!("`{{{capture}}}` has no value without `hosts`")
                    }
                    None => continue,
                };
                let hint = format!("write `{{{capture}}}` for a label of each host, or `*` in the identity");
                reader.problem(&pattern.place, what, hint);
            }
        }
        // On a listener of its own there may be no host that a capture could come from.
        if self.listen.is_written() && !hosts.is_empty() && patterns.iter().any(|one| !one.value.captures().is_empty())
        {
            let hint = "write the identity out, or leave `listen` to services that are not templates";
            let what = "`identity` has captures, and what arrives at the service's own listener may name no host";
            reader.problem(place, what, hint);
        }
        Some(patterns.iter().map(|pattern| pattern.value.clone()).collect())
    }

    /// A server of the Web PKI is known by its name, which has to come from somewhere.
    fn require_server_name(&self, reader: &mut Reader) {
        let by_address = self.endpoints.get().is_some_and(|written| matches!(written.0, Endpoints::Static(_)));
        if by_address && !self.hosts.is_written() && !self.server_name.is_written() {
            let hint = "add `server_name:` with the name that the server's certificate has";
            reader.problem(&self.place, "nothing says which name the server's certificate must have", hint);
        }
    }
}
