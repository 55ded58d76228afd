//! Command → function → exit code.

fn main() {}
