//! Tests of sources against what an agent or a directory may do. The fakes stand at the network.

mod dev_provider;
mod support;
