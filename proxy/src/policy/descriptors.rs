//! How many connections the system has room for.

/// 80 % of the descriptor limit (PEERS D2), two sockets a connection.
pub(super) fn connections_max() -> usize {
    const DESCRIPTORS_ASSUMED: usize = 1024;
    let descriptors = std::fs::read_to_string("/proc/self/limits")
        .ok()
        .and_then(|limits| {
            let line = limits.lines().find(|line| line.starts_with("Max open files"))?.to_owned();
            line.split_whitespace().nth(3)?.parse::<usize>().ok()
        })
        .unwrap_or(DESCRIPTORS_ASSUMED);
    descriptors * 8 / 10 / 2
}
