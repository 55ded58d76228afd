//! Whether rules that should exempt us do not: then what we open comes back to us, and each round opens the next.

use crate::admin::own_uid;
use socket2::{Domain, Socket, Type};

/// Any number will do: nothing is sent.
const SOME_MARK: u32 = 1;

/// Our user, if it is all that the packet filter knows our connections by. Then a captured connection of this user is one of
/// ours, or of a process that should not run as it. `None`: we may mark our packets (CAP_NET_ADMIN), and the application may
/// be of the same user.
pub fn exempt_by_user() -> Option<u32> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).or_else(|_| Socket::new(Domain::IPV6, Type::DGRAM, None));
    let may_mark = socket.is_ok_and(|socket| socket.set_mark(SOME_MARK).is_ok());
    if may_mark { None } else { own_uid().ok() }
}
