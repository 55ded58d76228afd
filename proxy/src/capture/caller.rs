//! The bytes of whoever connected to us, in the clear or through TLS: one type, so that what runs above exists once.

use crate::delegate::delegate_io;
use crate::detect::Rewind;
use crate::hbone::TunnelStream;
use crate::session::SessionIo;
use tokio_rustls::server::TlsStream;

/// The socket, with the bytes in front that were read to see whether it speaks TLS.
pub type Wire = Rewind<SessionIo>;

pub enum CallerIo {
    Plain(Wire),
    Tls(Box<TlsStream<Wire>>),
    Tunnelled(Box<TunnelStream>),
}

delegate_io!(CallerIo { Plain, Tls, Tunnelled });
