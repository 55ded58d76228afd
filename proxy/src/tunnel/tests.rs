use super::{Counters, Ended, TunnelEnd, copy};
use proptest::prelude::*;
use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex};
use tokio::time::{Instant, sleep};

const IDLE: Duration = Duration::from_secs(3600);
const LINGER: Duration = Duration::from_secs(50);

/// The client's and the server's end of a running tunnel over pipes of `pipe_bytes`.
fn start(pipe_bytes: usize) -> (DuplexStream, DuplexStream, tokio::task::JoinHandle<Ended>) {
    let (client, mut client_side) = duplex(pipe_bytes);
    let (server, mut server_side) = duplex(pipe_bytes);
    let tunnel = tokio::spawn(async move {
        let counters = Counters::default();
        copy(&mut client_side, &mut server_side, &counters, IDLE, LINGER).await
    });
    (client, server, tunnel)
}

#[tokio::test]
async fn passes_bytes_and_both_ends_on() {
    let (mut client, mut server, tunnel) = start(64);
    client.write_all(b"ping").await.expect("open");
    let mut heard = [0; 4];
    server.read_exact(&mut heard).await.expect("open");
    assert_eq!(&heard, b"ping");
    server.write_all(b"pong!").await.expect("open");
    server.shutdown().await.expect("open");
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.expect("open");
    assert_eq!(answer, b"pong!");
    client.shutdown().await.expect("open");
    let ended = tunnel.await.expect("no panic");
    assert!(matches!(ended.end, TunnelEnd::BothClosed), "{:?}", ended.end);
    assert_eq!((ended.from_client, ended.from_server), (4, 5));
}

#[tokio::test(start_paused = true)]
async fn ds12_a_half_closed_request_gets_its_late_answer() {
    let (mut client, mut server, tunnel) = start(64);
    client.write_all(b"request").await.expect("open");
    client.shutdown().await.expect("open");
    let mut request = Vec::new();
    server.read_to_end(&mut request).await.expect("the end is passed on");
    assert_eq!(request, b"request");
    sleep(Duration::from_secs(5)).await;
    server.write_all(b"answer").await.expect("open");
    server.shutdown().await.expect("open");
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.expect("open");
    assert_eq!(answer, b"answer");
    assert!(matches!(tunnel.await.expect("no panic").end, TunnelEnd::BothClosed));
}

#[tokio::test(start_paused = true)]
async fn ends_when_idle_and_not_before() {
    let (mut client, mut server, tunnel) = start(64);
    let begin = Instant::now();
    // Three bytes, each just before the deadline.
    for _ in 0..3 {
        sleep(IDLE - Duration::from_secs(1)).await;
        client.write_all(b"x").await.expect("still open");
        server.read_exact(&mut [0]).await.expect("still open");
    }
    let last = Instant::now();
    let ended = tunnel.await.expect("no panic");
    assert!(matches!(ended.end, TunnelEnd::IdleTimeout), "{:?}", ended.end);
    assert!(last.elapsed() >= IDLE && last.elapsed() <= IDLE + Duration::from_secs(61), "{:?}", last.elapsed());
    assert!(begin.elapsed() > IDLE * 3);
    assert_eq!(ended.from_client, 3);
}

#[tokio::test(start_paused = true)]
async fn lingers_after_the_first_end_while_bytes_come() {
    let (mut client, mut server, tunnel) = start(64);
    client.shutdown().await.expect("open");
    // The answer takes longer than the linger deadline as a whole, and is not cut.
    for _ in 0..4 {
        sleep(LINGER - Duration::from_secs(10)).await;
        server.write_all(b"x").await.expect("still open");
        client.read_exact(&mut [0]).await.expect("still open");
    }
    let last = Instant::now();
    let ended = tunnel.await.expect("no panic");
    assert!(matches!(ended.end, TunnelEnd::LingerTimeout), "{:?}", ended.end);
    assert!(last.elapsed() >= LINGER && last.elapsed() <= LINGER + LINGER / 7, "{:?}", last.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_stopped_is_idle_too() {
    let (mut client, server, tunnel) = start(16);
    let sent = tokio::spawn(async move {
        let _ = client.write_all(&[7; 100_000]).await;
        client
    });
    let ended = tunnel.await.expect("no panic");
    assert!(matches!(ended.end, TunnelEnd::IdleTimeout), "{:?}", ended.end);
    assert_eq!(ended.from_client, 16, "what the other side accepted, not what was read");
    drop((server, sent));
}

#[tokio::test(start_paused = true)]
async fn counters_can_be_read_while_the_tunnel_lives() {
    let counters = Counters::default();
    let (mut client, mut client_side) = duplex(64);
    let (mut server, mut server_side) = duplex(64);
    let tunnel = copy(&mut client_side, &mut server_side, &counters, IDLE, LINGER);
    let talk = async {
        client.write_all(b"abc").await.expect("open");
        server.read_exact(&mut [0; 3]).await.expect("open");
        assert_eq!(counters.from_client.load(Ordering::Relaxed), 3);
    };
    tokio::select! {
        ended = tunnel => panic!("{ended:?}"),
        () = talk => {}
    }
}

#[tokio::test]
async fn bulk_goes_both_ways_at_once() {
    let (client, server, tunnel) = start(4096);
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|index| index as u8).collect();
    let talk = |io: DuplexStream, bytes: Vec<u8>| async move {
        let (mut read, mut write) = tokio::io::split(io);
        let expected = bytes.clone();
        let speak = async {
            write.write_all(&bytes).await.expect("open");
            write.shutdown().await.expect("open");
        };
        let mut heard = Vec::new();
        let (_, result) = tokio::join!(speak, read.read_to_end(&mut heard));
        result.expect("open");
        assert!(heard == expected, "{} of {} bytes, or others", heard.len(), expected.len());
    };
    tokio::join!(talk(client, bytes.clone()), talk(server, bytes));
    let ended = tunnel.await.expect("no panic");
    assert!(matches!(ended.end, TunnelEnd::BothClosed), "{:?}", ended.end);
    assert_eq!((ended.from_client, ended.from_server), (3_000_000, 3_000_000));
}

/// Takes no byte, and says its last words.
struct Closed(&'static [u8]);

impl AsyncRead for Closed {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        buffer.put_slice(std::mem::take(&mut self.0));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Closed {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn the_last_words_of_a_server_that_takes_no_more_are_delivered() {
    let (mut client, mut client_side) = duplex(64);
    client.write_all(b"a long upload").await.expect("room");
    let counters = Counters::default();
    let ended = copy(&mut client_side, &mut Closed(b"413"), &counters, IDLE, LINGER).await;
    assert!(
        matches!(&ended.end, TunnelEnd::ServerError(error) if error.kind() == io::ErrorKind::BrokenPipe),
        "{ended:?}"
    );
    assert_eq!((ended.from_client, ended.from_server), (0, 3));
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.expect("the end is passed on");
    assert_eq!(answer, b"413");
}

/// Fails when read, or collects what is written until it is flushed, as TLS does.
#[derive(Default)]
struct Odd {
    fails: bool,
    to_read: Vec<u8>,
    collected: Vec<u8>,
    flushed: Vec<u8>,
}

impl AsyncRead for Odd {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.fails {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if self.to_read.is_empty() {
            return Poll::Pending;
        }
        buffer.put_slice(&std::mem::take(&mut self.to_read));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Odd {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.collected.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let collected = std::mem::take(&mut self.collected);
        self.flushed.extend(collected);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(context)
    }
}

#[tokio::test]
async fn names_the_side_that_failed() {
    let counters = Counters::default();
    let broken = || Odd { fails: true, ..Odd::default() };
    let ended = copy(&mut broken(), &mut Odd::default(), &counters, IDLE, LINGER).await;
    assert!(matches!(ended.end, TunnelEnd::ClientError(error) if error.kind() == io::ErrorKind::ConnectionReset));
    let ended = copy(&mut Odd::default(), &mut broken(), &counters, IDLE, LINGER).await;
    assert!(matches!(ended.end, TunnelEnd::ServerError(error) if error.kind() == io::ErrorKind::ConnectionReset));
}

#[tokio::test(start_paused = true)]
async fn flushes_what_a_writer_keeps_back_when_the_reader_has_no_more() {
    let mut client = Odd { to_read: b"hello".to_vec(), ..Odd::default() };
    let mut server = Odd::default();
    let ended = copy(&mut client, &mut server, &Counters::default(), IDLE, LINGER).await;
    assert!(matches!(ended.end, TunnelEnd::IdleTimeout));
    assert_eq!(server.flushed, b"hello");
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_that_went_quiet_holds_no_buffer() {
    use super::{Tunnel, Watch};
    let (mut client, mut client_side) = duplex(256 * 1024);
    let (mut server, mut server_side) = duplex(16 * 1024);
    let counters = Counters::default();
    let mut tunnel =
        Tunnel::new(&mut client_side, &mut server_side, &counters, Watch::new(IDLE, LINGER, Instant::now()));
    let mut context = Context::from_waker(std::task::Waker::noop());
    assert!(tunnel.poll_both(&mut context).is_pending());
    assert!(!tunnel.upload.holds_memory(), "none before the first byte");
    client.write_all(&[1; 100]).await.expect("room");
    assert!(tunnel.poll_both(&mut context).is_pending());
    assert!(!tunnel.upload.holds_memory(), "none for a message that goes on at once");
    client.write_all(&[1; 100_000]).await.expect("room");
    assert!(tunnel.poll_both(&mut context).is_pending());
    assert!(tunnel.upload.holds_memory() && tunnel.watch.looks_soon);
    assert!(tunnel.look(Instant::now() + Duration::from_secs(1)).is_none());
    let mut heard = vec![0; 100_100];
    let mut filled = 0;
    while filled < heard.len() {
        filled += server.read(&mut heard[filled..]).await.expect("open");
        assert!(tunnel.poll_both(&mut context).is_pending());
    }
    assert!(tunnel.upload.holds_memory(), "it moved since the last look");
    assert!(tunnel.look(Instant::now() + Duration::from_secs(2)).is_none());
    assert!(tunnel.look(Instant::now() + Duration::from_secs(3)).is_none());
    assert!(!tunnel.upload.holds_memory() && !tunnel.watch.looks_soon);
}

#[test]
fn the_future_of_a_tunnel_is_small() {
    let (mut client, mut server) = (tokio::io::empty(), tokio::io::empty());
    let counters = Counters::default();
    let size = size_of_val(&copy(&mut client, &mut server, &counters, IDLE, LINGER));
    assert!(size <= 640, "{size} bytes for each of ten thousand idle tunnels");
}

#[test]
fn deadlines_for_ever_do_not_overflow() {
    let watch = super::Watch::new(Duration::MAX, Duration::MAX, Instant::now());
    assert!(watch.next_look > watch.quiet_since);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn bytes_arrive_exactly_whatever_the_chunks(
        pipe_bytes in 1..5000_usize,
        from_client in proptest::collection::vec(1..20_000_usize, 0..8),
        from_server in proptest::collection::vec(1..20_000_usize, 0..8),
        closes_first in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        runtime.block_on(async {
            let (client, server, tunnel) = start(pipe_bytes);
            let (upload, download): (usize, usize) = (from_client.iter().sum(), from_server.iter().sum());
            tokio::join!(talk(client, from_client, download, closes_first), talk(server, from_server, upload, !closes_first));
            let ended = tunnel.await.expect("no panic");
            assert!(matches!(ended.end, TunnelEnd::BothClosed), "{:?}", ended.end);
            assert_eq!((ended.from_client, ended.from_server), (upload as u64, download as u64));
        });
    }
}

/// Says `chunks` of a running sequence, hears `expected` bytes of the same sequence; closes at once or after it heard all.
async fn talk(io: DuplexStream, chunks: Vec<usize>, expected: usize, closes_first: bool) {
    let (mut read, mut write) = tokio::io::split(io);
    let (heard_all, wait) = tokio::sync::oneshot::channel::<()>();
    let speak = async {
        let mut said = 0_usize;
        for chunk in chunks {
            let bytes: Vec<u8> = (said..said + chunk).map(|index| (index % 251) as u8).collect();
            write.write_all(&bytes).await.expect("open");
            said += chunk;
        }
        if !closes_first {
            wait.await.expect("the other half lives");
        }
        write.shutdown().await.expect("open");
    };
    let hear = async {
        let mut heard = Vec::new();
        read.read_to_end(&mut heard).await.expect("open");
        assert_eq!(heard.len(), expected);
        assert!(heard.iter().enumerate().all(|(index, byte)| usize::from(*byte) == index % 251));
        let _ = heard_all.send(());
    };
    tokio::join!(speak, hear);
}
