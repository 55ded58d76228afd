//! Tests of sources against what an agent or a directory may do. The fakes stand at the network.

mod bundle_endpoint;
mod c_05;
mod canary;
mod dev_provider;
mod e_06;
mod endpoint_scene;
mod fake_agent;
mod fixtures;
mod issuers;
mod mutation;
mod pem_files;
mod pings;
mod support;
mod token_keys;
