//! The conformance cases of the SPIFFE checklist (C-2), each named by its row, run as client, as server and through
//! real handshakes; and what is not a chain: bundle changes, resumption, deadlines.

mod borders;
pub(crate) mod cases;
pub(crate) mod certificates;
mod crls;
mod extensions;
mod handshakes;
mod live;
mod parsers;
mod rows;
mod side;
mod verified;
mod web;
