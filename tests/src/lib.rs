//! The harness: a mesh in a process.
