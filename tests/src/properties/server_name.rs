//! The server name of a ClientHello is the same however its bytes arrive, and no byte of it is lost.

use bytes::BytesMut;
use postern::detect::sni::server_name;
use std::time::Duration;
use tokio::io::AsyncReadExt;

pub(super) fn check(bytes: &[u8]) {
    let Some((split, hello)) = bytes.split_first() else { return };
    let split = usize::from(*split).min(hello.len());
    let whole = read(hello, hello.len());
    let pieces = read(hello, split);
    assert_eq!(whole, pieces, "the name depends on how the bytes arrive");
    if let Ok(Some(name)) = whole {
        let is_host =
            name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte));
        assert!(is_host && !name.is_empty() && name.len() <= 253, "{name:?} is no host in lower case");
        let stands_there = hello.windows(name.len()).any(|window| window.eq_ignore_ascii_case(name.as_bytes()));
        assert!(stands_there, "{name:?} is not in the ClientHello");
    }
}

/// `Err`: in kind, as the words differ with what was missing.
fn read(hello: &[u8], buffered: usize) -> Result<Option<String>, ()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let mut buffer = BytesMut::from(&hello[..buffered]);
        let mut rest = &hello[buffered..];
        let name = server_name(&mut rest, &mut buffer, Duration::from_secs(60)).await;
        rest.read_to_end(&mut buffer.to_vec()).await.expect("memory");
        assert!(hello.starts_with(&buffer), "bytes were changed");
        name.map_err(drop)
    })
}
