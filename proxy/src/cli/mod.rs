//! Commands, one a file.

pub mod verify;
