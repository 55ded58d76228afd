//! `tunnel:` the listener at which peers reach the declared ports by streams that share an mTLS connection.

use crate::identity::SvidSelector;
use crate::problem::Place;
use crate::read::{Field, Keys, Listener, Reader, Section};
use crate::values::{Address, At, OneOrMany};
use schemars::JsonSchema;
use std::net::SocketAddr;

/// HBONE's customary port.
pub const TUNNEL_PORT: u16 = 15008;

/// HTTP/2 CONNECT over mTLS (HBONE's wire form). Any declared port can be reached through it, and nothing else.
#[derive(Clone, Debug, PartialEq)]
pub struct Tunnel {
    pub listen: Vec<SocketAddr>,
    pub svid: SvidSelector,
    pub place: Place,
}

/// Where peers with `via: tunnel`, or other HBONE peers, reach the declared ports: many connections as streams of few mTLS
/// connections. The rules of the port that a stream is for decide.
#[derive(JsonSchema)]
#[schemars(rename = "Tunnel", deny_unknown_fields, extend("required" = ["listen"]))]
pub(crate) struct RawTunnel {
    /// Where to listen, such as `0.0.0.0:15008`, HBONE's customary port. One address or a list.
    listen: Field<OneOrMany<At<Address>>>,
    /// The SVID that peers are shown.
    #[schemars(extend("x-default" = "that of `identity`"))]
    svid: Field<SvidSelector>,
    #[schemars(skip)]
    place: Place,
}

impl Section for RawTunnel {
    const NAME: &'static str = "`tunnel`";

    fn read(keys: &mut Keys<'_>) -> Self {
        Self {
            listen: keys.required("listen", "write where peers come in, such as `listen: 0.0.0.0:15008`"),
            svid: keys.optional("svid"),
            place: keys.place(),
        }
    }
}

impl RawTunnel {
    /// `None`: its problems have been told.
    pub fn check(self, reader: &mut Reader) -> Option<Tunnel> {
        if let (Some(listen), Some(place)) = (self.listen.get(), self.listen.place())
            && listen.0.is_empty()
        {
            reader.problem(place, "`listen` names no address", "name one, such as `0.0.0.0:15008`");
        }
        let listen = self.listen.into_option()?.0;
        for address in &listen {
            let (address, place) = (address.value.0, Some(address.place.clone()));
            reader.listeners.push(Listener { address: address.into(), whose: "tunnel.listen".to_owned(), place });
        }
        let listen = listen.into_iter().map(|address| address.value.0).collect();
        Some(Tunnel { listen, svid: self.svid.or(reader.svid.clone()), place: self.place })
    }
}

#[cfg(test)]
mod tests;
