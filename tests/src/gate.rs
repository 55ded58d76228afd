//! A door between two sidecars that a test closes at a chosen moment: what happens meanwhile happens in the middle of a
//! connect or a handshake, every time and not by luck.

use crate::wait::eventually;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// Where a connection is stopped until the gate is opened.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum HoldAt {
    /// Before it is made: the kernel does not answer.
    Connect,
    /// Before the server's first bytes.
    ServerFlight,
    /// Before what the client says once it has heard the server: in TLS 1.3 its certificate.
    ClientFlight,
}

pub struct Gate {
    pub address: SocketAddr,
    state: Arc<State>,
    at: HoldAt,
    task: AbortHandle,
}

struct State {
    open: watch::Sender<bool>,
    is_held: AtomicBool,
    connections: AtomicUsize,
}

impl Gate {
    /// Everything that connects to it goes to `target`, as far as it is let.
    ///
    /// # Panics
    /// No port is to be had.
    pub async fn to(target: SocketAddr, at: HoldAt) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        // Linux lets one more wait than it is told.
        let listener = socket.listen(if at == HoldAt::Connect { 0 } else { 64 }).unwrap();
        let address = listener.local_addr().unwrap();
        let mut stuffing = Vec::new();
        if at == HoldAt::Connect {
            stuffing.push(TcpStream::connect(address).await.unwrap());
        }
        let state = Arc::new(State {
            open: watch::Sender::new(false),
            is_held: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
        });
        let task = tokio::spawn(run(listener, stuffing, target, at, state.clone()));
        Self { address, state, at, task: task.abort_handle() }
    }

    /// Somebody waits here.
    pub async fn until_held(&self) {
        eventually("a connection waits at the gate", || match self.at {
            HoldAt::Connect => has_unanswered_connect(self.address).then_some(()),
            HoldAt::ServerFlight | HoldAt::ClientFlight => self.state.is_held.load(Relaxed).then_some(()),
        })
        .await;
    }

    pub fn open(&self) {
        self.state.open.send_replace(true);
    }

    /// Connections that came through.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Relaxed)
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The kernel's table says so; addresses are hexadecimal there, of this machine's byte order.
fn has_unanswered_connect(to: SocketAddr) -> bool {
    const SYN_SENT: &str = "02";
    let wanted = format!("0100007F:{:04X}", to.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    table.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(2);
        fields.next() == Some(&wanted) && fields.next() == Some(SYN_SENT)
    })
}

async fn run(listener: TcpListener, stuffing: Vec<TcpStream>, target: SocketAddr, at: HoldAt, state: Arc<State>) {
    let stuffed = stuffing.len();
    if at == HoldAt::Connect {
        until_open(&state).await;
    }
    for _ in 0..stuffed {
        drop(listener.accept().await);
    }
    drop(stuffing);
    while let Ok((client, _)) = listener.accept().await {
        state.connections.fetch_add(1, Relaxed);
        let state = state.clone();
        tokio::spawn(async move {
            if let Ok(server) = TcpStream::connect(target).await {
                pass(client, server, at, &state).await;
            }
        });
    }
}

async fn until_open(state: &State) {
    // The sender is in `state`.
    let _ = state.open.subscribe().wait_for(|open| *open).await;
}

async fn pass(client: TcpStream, server: TcpStream, at: HoldAt, state: &State) {
    let server_spoke = AtomicBool::new(false);
    let hold = async |here: bool| {
        if here && !*state.open.borrow() {
            state.is_held.store(true, Relaxed);
            until_open(state).await;
        }
    };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
            hold(at == HoldAt::ClientFlight && server_spoke.load(Relaxed)).await;
            if to_server.write_all(&buffer[..length]).await.is_err() {
                break;
            }
        }
        // The other side may have gone.
        let _ = to_server.shutdown().await;
    };
    let down = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
            hold(at == HoldAt::ServerFlight).await;
            server_spoke.store(true, Relaxed);
            if to_client.write_all(&buffer[..length]).await.is_err() {
                break;
            }
        }
        // As above.
        let _ = to_client.shutdown().await;
    };
    tokio::join!(up, down);
}
