//! Which local user's socket is on the other end of a connection: one question to the kernel's socket diagnostics
//! (`sock_diag(7)`), by the addresses of that socket.
//!
//! The kernel looks the socket up while the question is sent, and the answer waits when sending returns: some
//! microseconds, and nothing blocks. No privilege is needed. The user is the one who made the socket; who got it from
//! there, or runs as somebody else since, is not told.

use socket2::{Domain, Protocol, Socket, Type};
use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};

// linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h. Netlink's numbers are of the host's byte order, ports and
// addresses of the network's.
const AF_NETLINK: i32 = 16;
const NETLINK_SOCK_DIAG: i32 = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
const ALL_STATES: u32 = u32::MAX;
const INET_DIAG_NOCOOKIE: [u8; 8] = [0xff; 8];
const ENOENT: i32 = 2;
const TCP_LISTEN: u8 = 10;

const HEADER_BYTES: usize = 16;
const QUESTION_BYTES: usize = HEADER_BYTES + 56;
/// `struct nlmsghdr` and `struct inet_diag_msg`; attributes that we did not ask for may follow.
const ANSWER_BYTES: usize = HEADER_BYTES + 72;
const BUFFER_BYTES: usize = 1024;
/// Answers to questions that failed half-way, at most; more are nobody's.
const STALE_ANSWERS_MAX: usize = 4;

/// Why the user is not known. What wants to know it refuses then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallerUnknown {
    #[error(
        "the kernel's socket diagnostics cannot be used (error {0}); maybe a seccomp profile forbids netlink sockets"
    )]
    Unavailable(i32),
    #[error(
        "the kernel knows no such socket on this host; maybe the caller is elsewhere, or the module tcp_diag is absent"
    )]
    NoSocket,
    /// The kernel answers with user 0 for what no process holds any more: that is nobody's word.
    #[error("the caller has closed its socket already")]
    Closed,
    #[error("the kernel's answer is about another socket, or not one that can be read")]
    Unreadable,
    #[error("the kernel does not tell who is at the other end of the unix socket (error {0})")]
    NoCredentials(i32),
    #[error("it was not asked for when the connection was accepted")]
    NotAsked,
}

/// One worker's way to ask.
#[derive(Default)]
pub struct CallerUids {
    /// Made with the first question, and anew after a failure.
    socket: RefCell<Option<Socket>>,
    sequence: Cell<u32>,
}

impl CallerUids {
    /// The user of the socket that is bound to `caller` and connected to `called`: as that socket sees it, thus for a
    /// redirected connection its original destination.
    ///
    /// # Errors
    /// Nothing that may be taken for an answer came.
    pub fn ask(&self, caller: SocketAddr, called: SocketAddr) -> Result<u32, CallerUnknown> {
        let mut slot = self.socket.borrow_mut();
        let sequence = self.sequence.get().wrapping_add(1);
        self.sequence.set(sequence);
        let answer = self.exchange(&mut slot, &question(caller, called, sequence), sequence);
        match answer {
            Ok(answer) => read_answer(&answer, caller, called),
            Err(error) => {
                // What is in its queue belongs to nothing any more.
                *slot = None;
                Err(CallerUnknown::Unavailable(error.raw_os_error().unwrap_or_default()))
            }
        }
    }

    fn exchange(&self, slot: &mut Option<Socket>, question: &[u8], sequence: u32) -> std::io::Result<Vec<u8>> {
        if slot.is_none() {
            let socket = Socket::new(Domain::from(AF_NETLINK), Type::RAW, Some(Protocol::from(NETLINK_SOCK_DIAG)))?;
            socket.set_nonblocking(true)?;
            *slot = Some(socket);
        }
        let mut socket: &Socket = slot.as_ref().expect("made above");
        // Without an address it goes to the kernel, and only the kernel may write to us without privilege.
        socket.write_all(question)?;
        let mut buffer = [0; BUFFER_BYTES];
        for _ in 0..=STALE_ANSWERS_MAX {
            let length = socket.read(&mut buffer)?;
            if read_u32(&buffer[..length], 8) == Some(sequence) {
                return Ok(buffer[..length].to_vec());
            }
        }
        Err(std::io::Error::from(std::io::ErrorKind::InvalidData))
    }
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2`, for exactly one socket. An address of IPv4 that is written as IPv6's
/// is asked for as IPv4: a socket of either family is found so.
fn question(caller: SocketAddr, called: SocketAddr, sequence: u32) -> Vec<u8> {
    let (from, to) = (caller.ip().to_canonical(), called.ip().to_canonical());
    let family = if from.is_ipv4() && to.is_ipv4() { AF_INET } else { AF_INET6 };
    let mut message = Vec::with_capacity(QUESTION_BYTES);
    message.extend((QUESTION_BYTES as u32).to_ne_bytes());
    message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    message.extend(0_u32.to_ne_bytes());
    message.extend([family, IPPROTO_TCP, 0, 0]);
    message.extend(ALL_STATES.to_ne_bytes());
    message.extend(caller.port().to_be_bytes());
    message.extend(called.port().to_be_bytes());
    message.extend(address_bytes(from));
    message.extend(address_bytes(to));
    message.extend(scope(caller, called).to_ne_bytes());
    message.extend(INET_DIAG_NOCOOKIE);
    message
}

/// A socket with a link-local address belongs to an interface, and is found with it only (RFC 4007 §6).
fn scope(caller: SocketAddr, called: SocketAddr) -> u32 {
    [caller, called]
        .iter()
        .map(|address| if let SocketAddr::V6(v6) = address { v6.scope_id() } else { 0 })
        .max()
        .unwrap_or(0)
}

fn address_bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&address.octets());
            bytes
        }
        IpAddr::V6(address) => address.octets(),
    }
}

/// Where nobody is connected the kernel answers with a listener: an answer counts only when it is about the socket that
/// was asked for, and a process holds that.
fn read_answer(answer: &[u8], caller: SocketAddr, called: SocketAddr) -> Result<u32, CallerUnknown> {
    const UNREADABLE: CallerUnknown = CallerUnknown::Unreadable;
    match read_u16(answer, 4).ok_or(UNREADABLE)? {
        NLMSG_ERROR => match read_u32(answer, HEADER_BYTES).ok_or(UNREADABLE)?.cast_signed() {
            error if error == -ENOENT => return Err(CallerUnknown::NoSocket),
            error => return Err(CallerUnknown::Unavailable(error.saturating_neg())),
        },
        SOCK_DIAG_BY_FAMILY => {}
        _ => return Err(UNREADABLE),
    }
    let body = answer.get(HEADER_BYTES..ANSWER_BYTES).ok_or(UNREADABLE)?;
    let (family, state) = (body[0], body[1]);
    let from = SocketAddr::new(read_address(family, &body[8..24])?, u16::from_be_bytes([body[4], body[5]]));
    let to = SocketAddr::new(read_address(family, &body[24..40])?, u16::from_be_bytes([body[6], body[7]]));
    let (uid, inode) = (read_u32(body, 64).ok_or(UNREADABLE)?, read_u32(body, 68).ok_or(UNREADABLE)?);
    if state == TCP_LISTEN {
        return Err(CallerUnknown::NoSocket);
    }
    if !same_address(from, caller) || !same_address(to, called) {
        return Err(UNREADABLE);
    }
    // Closed by its process: orphaned, in TIME_WAIT, or not yet a whole socket.
    if inode == 0 {
        return Err(CallerUnknown::Closed);
    }
    Ok(uid)
}

/// Ports, and addresses whatever they are written as.
fn same_address(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() == other.port() && one.ip().to_canonical() == other.ip().to_canonical()
}

fn read_address(family: u8, bytes: &[u8]) -> Result<IpAddr, CallerUnknown> {
    let octets: [u8; 16] = bytes.try_into().map_err(|_| CallerUnknown::Unreadable)?;
    match family {
        AF_INET => Ok(IpAddr::from([octets[0], octets[1], octets[2], octets[3]])),
        AF_INET6 => Ok(IpAddr::from(octets)),
        _ => Err(CallerUnknown::Unreadable),
    }
}

fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests;
