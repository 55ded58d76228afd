//! (in work)

pub mod dev_identity;
