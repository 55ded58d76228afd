//! What the two sides of a handshake agreed on.

/// What TLS agreed on, for records: whether a hop is post-quantum can be read off the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Negotiated {
    pub cipher: Option<&'static str>,
    pub group: Option<&'static str>,
}

impl Negotiated {
    pub fn of(connection: &rustls::CommonState) -> Self {
        Self {
            cipher: connection.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()),
            group: connection.negotiated_key_exchange_group().and_then(|group| group.name().as_str()),
        }
    }
}
