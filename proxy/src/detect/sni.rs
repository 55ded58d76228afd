//! The server name in a ClientHello that is only passed on.

use bytes::{BufMut, BytesMut};
use rustls::server::Acceptor;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};

/// A ClientHello has less than 64 KiB in earnest: extensions of post-quantum groups make some thousand bytes.
const HELLO_BYTES_MAX: usize = 64 * 1024;

/// Why there is no ClientHello.
#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    #[error("the ClientHello did not arrive in time")]
    Deadline,
    #[error("the ClientHello is not well-formed")]
    Malformed(#[source] rustls::Error),
    #[error("the ClientHello has more than {HELLO_BYTES_MAX} bytes")]
    TooLong,
    #[error("the connection ended within the ClientHello")]
    Ended,
    #[error("the connection failed within the ClientHello")]
    Io(#[from] io::Error),
}

/// Reads on into `buffer` until the ClientHello is whole. `None`: it names no server. In lower case (RFC 6066 §3).
///
/// # Errors
/// [`HelloError`].
///
/// # Cancellation
/// Loses nothing: all bytes read are in `buffer`.
pub async fn server_name<IO: AsyncRead + Unpin>(
    io: &mut IO,
    buffer: &mut BytesMut,
    deadline: Duration,
) -> Result<Option<String>, HelloError> {
    let reading = async {
        loop {
            if let Some(name) = parse(buffer)? {
                return Ok(name);
            }
            let room = HELLO_BYTES_MAX.saturating_sub(buffer.len());
            if room == 0 {
                return Err(HelloError::TooLong);
            }
            buffer.reserve(room.min(4096));
            if io.read_buf(&mut (&mut *buffer).limit(room)).await? == 0 {
                return Err(HelloError::Ended);
            }
        }
    };
    tokio::time::timeout(deadline, reading).await.unwrap_or(Err(HelloError::Deadline))
}

/// `None`: it is not whole yet.
fn parse(bytes: &[u8]) -> Result<Option<Option<String>>, HelloError> {
    let mut acceptor = Acceptor::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        acceptor.read_tls(&mut rest)?;
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                return Ok(Some(accepted.client_hello().server_name().map(str::to_ascii_lowercase)));
            }
            Err((error, _alert)) => return Err(HelloError::Malformed(error)),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::{HelloError, parse, server_name};
    use crate::tls::provider;
    use bytes::BytesMut;
    use proptest::prelude::{any, proptest};
    use rustls::{ClientConfig, ClientConnection, RootCertStore};
    use std::sync::Arc;
    use std::time::Duration;

    /// As rustls itself sends it, for `name`.
    fn hello(name: &str) -> Vec<u8> {
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let mut client = ClientConnection::new(Arc::new(config), name.to_owned().try_into().unwrap()).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn finds_the_name_however_the_hello_is_cut() {
        for (name, expected) in [("Payments.shop.svc", Some("payments.shop.svc")), ("127.0.0.1", None)] {
            let bytes = hello(name);
            assert_eq!(parse(&bytes).unwrap().unwrap().as_deref(), expected, "{name}");
            for end in 0..bytes.len() {
                assert!(matches!(parse(&bytes[..end]), Ok(None)), "{name}, {end} bytes");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn waits_for_the_rest_and_not_for_ever() {
        let bytes = hello("a.example");
        let (first, second) = bytes.split_at(20);
        let mut buffer = BytesMut::from(first);
        let name = server_name(&mut &*second, &mut buffer, Duration::from_secs(1)).await.unwrap();
        assert_eq!((name.as_deref(), &buffer[..]), (Some("a.example"), &bytes[..]));
        let ended = server_name(&mut &second[..9], &mut BytesMut::from(first), Duration::from_secs(1)).await;
        assert!(matches!(ended, Err(HelloError::Ended)), "{ended:?}");
        let (mut silent, _other) = tokio::io::duplex(16);
        let late = server_name(&mut silent, &mut BytesMut::from(first), Duration::from_secs(1)).await;
        assert!(matches!(late, Err(HelloError::Deadline)), "{late:?}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..600), at in any::<usize>()) {
            let _ = parse(&bytes);
            let mut hello = hello("a.example");
            let at = at % hello.len();
            hello.splice(at..at, bytes);
            let _ = parse(&hello);
        }
    }
}
