//! Tests of sources against what an agent or a directory may do. The fakes stand at the network.

mod dev_provider;
mod e_06;
mod fake_agent;
mod fixtures;
mod support;
