use super::{
    ANSWER_BYTES, CallerUids, CallerUnknown, NLMSG_ERROR, QUESTION_BYTES, SOCK_DIAG_BY_FAMILY, question, read_answer,
};
use proptest::prelude::{ProptestConfig, any};
use proptest::{prop_assert, proptest};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn own_uid() -> u32 {
    std::fs::metadata("/proc/self").expect("/proc").uid()
}

/// A listener, who called it, and the connection as it was accepted; `None`: no such family on this machine.
fn connected(listen: &str, call: &str) -> Option<(TcpListener, TcpStream, TcpStream)> {
    let listener = super::super::bind(address(listen)).ok()?;
    listener.set_nonblocking(false).expect("blocking");
    let mut to = address(call);
    to.set_port(listener.local_addr().expect("bound").port());
    let caller = TcpStream::connect(to).ok()?;
    let accepted = listener.accept().expect("accepted").0;
    Some((listener, caller, accepted))
}

#[test]
fn tells_whose_socket_is_on_the_other_end() {
    let callers = CallerUids::default();
    for (listen, call) in [
        ("127.0.0.1:0", "127.0.0.1:0"),
        ("0.0.0.0:0", "127.0.0.2:0"),
        ("[::1]:0", "[::1]:0"),
        // The listener sees a mapped address, and so does in the second case the caller.
        ("[::]:0", "127.0.0.1:0"),
        ("[::]:0", "[::ffff:127.0.0.1]:0"),
    ] {
        let Some((_listener, caller, accepted)) = connected(listen, call) else {
            eprintln!("SKIPPED {listen}: this machine has no such family");
            continue;
        };
        let (remote, local) = (accepted.peer_addr().expect("peer"), accepted.local_addr().expect("local"));
        for _ in 0..3 {
            assert_eq!(callers.ask(remote, local), Ok(own_uid()), "{listen} called as {call}");
        }
        // Half of it is closed, but the process holds it.
        caller.shutdown(std::net::Shutdown::Write).expect("half-close");
        assert_eq!(callers.ask(remote, local), Ok(own_uid()), "{listen} called as {call}, half-closed");
        drop(caller);
        let told = callers.ask(remote, local);
        assert!(matches!(told, Err(CallerUnknown::Closed | CallerUnknown::NoSocket)), "{listen}: {told:?}");
    }
}

/// The kernel finds the listener then, which is somebody else's socket.
#[test]
fn takes_no_listener_for_the_caller() {
    let (listener, _caller, accepted) = connected("127.0.0.1:0", "127.0.0.1:0").expect("IPv4");
    let nobody = address("127.0.0.1:1");
    let own = listener.local_addr().expect("bound");
    let callers = CallerUids::default();
    assert_eq!(callers.ask(own, nobody), Err(CallerUnknown::NoSocket));
    assert_eq!(callers.ask(nobody, own), Err(CallerUnknown::NoSocket));
    // And another question is answered as before.
    let told = callers.ask(accepted.peer_addr().expect("peer"), accepted.local_addr().expect("local"));
    assert_eq!(told, Ok(own_uid()));
}

/// `struct nlmsghdr` and `struct inet_diag_msg`.
fn answer(kind: u16, state: u8, from: SocketAddr, to: SocketAddr, uid: u32, inode: u32) -> Vec<u8> {
    let mut message = question(from, to, 7);
    message.resize(ANSWER_BYTES, 0);
    let question = message.clone();
    message[4..6].copy_from_slice(&kind.to_ne_bytes());
    message[17] = state;
    // The same `struct inet_diag_sockid`, four bytes further to the front.
    message[20..68].copy_from_slice(&question[24..72]);
    message[80..84].copy_from_slice(&uid.to_ne_bytes());
    message[84..88].copy_from_slice(&inode.to_ne_bytes());
    message
}

#[test]
fn believes_only_answers_about_the_socket_that_was_asked_for() {
    let (from, to) = (address("10.0.0.1:40000"), address("10.0.0.2:80"));
    let mapped = (address("[::ffff:10.0.0.1]:40000"), address("[::ffff:10.0.0.2]:80"));
    let other = address("10.0.0.3:80");
    const ESTABLISHED: u8 = 1;
    const LISTEN: u8 = 10;
    for (given, asked, expected) in [
        (answer(SOCK_DIAG_BY_FAMILY, ESTABLISHED, from, to, 1000, 5), (from, to), Ok(1000)),
        (answer(SOCK_DIAG_BY_FAMILY, ESTABLISHED, from, to, 1000, 5), mapped, Ok(1000)),
        (answer(SOCK_DIAG_BY_FAMILY, ESTABLISHED, mapped.0, mapped.1, 1000, 5), (from, to), Ok(1000)),
        (answer(SOCK_DIAG_BY_FAMILY, ESTABLISHED, from, other, 1000, 5), (from, to), Err(CallerUnknown::Unreadable)),
        (answer(SOCK_DIAG_BY_FAMILY, ESTABLISHED, other, to, 1000, 5), (from, to), Err(CallerUnknown::Unreadable)),
        (answer(SOCK_DIAG_BY_FAMILY, LISTEN, from, to, 1000, 5), (from, to), Err(CallerUnknown::NoSocket)),
        (answer(SOCK_DIAG_BY_FAMILY, ESTABLISHED, from, to, 0, 0), (from, to), Err(CallerUnknown::Closed)),
        (answer(3, ESTABLISHED, from, to, 1000, 5), (from, to), Err(CallerUnknown::Unreadable)),
    ] {
        assert_eq!(read_answer(&given, asked.0, asked.1), expected, "{given:?} for {asked:?}");
    }
    for (errno, expected) in [
        (-2_i32, CallerUnknown::NoSocket),
        (-13, CallerUnknown::Unavailable(13)),
        (i32::MIN, CallerUnknown::Unavailable(i32::MAX)),
    ] {
        let mut given = answer(NLMSG_ERROR, 0, from, to, 0, 0);
        given[16..20].copy_from_slice(&errno.to_ne_bytes());
        assert_eq!(read_answer(&given, from, to), Err(expected), "{errno}");
    }
}

#[test]
fn questions_have_the_kernels_size() {
    for (from, to) in [("10.0.0.1:1", "10.0.0.2:2"), ("[fe80::1%3]:1", "[fe80::2]:2"), ("[::1]:1", "10.0.0.2:2")] {
        let asked = question(address(from), address(to), 1);
        assert_eq!(asked.len(), QUESTION_BYTES, "{from} {to}");
    }
    let linked = question(address("[fe80::1%3]:1"), address("[fe80::2%3]:2"), 1);
    assert_eq!(linked[60..64], 3_u32.to_ne_bytes(), "an interface goes along");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Bytes of any kind: an answer or none, and never a panic.
    #[test]
    fn no_answer_panics(
        bytes in proptest::collection::vec(any::<u8>(), 0..120),
        length in 0..ANSWER_BYTES,
    ) {
        let (from, to) = (address("10.0.0.1:40000"), address("10.0.0.2:80"));
        let _ = read_answer(&bytes, from, to);
        let whole = answer(SOCK_DIAG_BY_FAMILY, 1, from, to, 1000, 5);
        prop_assert!(read_answer(&whole[..length], from, to).is_err());
    }
}
