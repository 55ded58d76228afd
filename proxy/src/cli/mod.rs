//! The commands: one file each. Only here is the environment read (DESIGN, invariant 4).

pub mod demo;
mod dev_identity;
mod environment;
mod run;
mod simple;
pub mod verify;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// A service-mesh mTLS sidecar proxy: SPIFFE identities, authorization, no credential in the application.
#[derive(Parser)]
#[command(name = "postern", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the proxy with a configuration file
    Run(run::RunArgs),
    /// A proxy without a file: a local address becomes an mTLS connection to a peer
    Client(simple::ClientArgs),
    /// A proxy without a file: mTLS connections of allowed peers reach a local application
    Server(simple::ServerArgs),
    /// Verify a credential as the data plane does
    #[command(subcommand)]
    Verify(Verify),
    /// A small SPIFFE identity provider for development and tests
    DevIdentity(dev_identity::DevIdentityArgs),
    /// Show it all on this machine: two sidecars, an application, rotations, refusals
    Demo(demo::DemoArgs),
}

#[derive(Subcommand)]
enum Verify {
    /// An X509-SVID against bundles
    Svid(verify::VerifyArgs),
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Client(args) => simple::client(&args),
        Command::Server(args) => simple::server(&args),
        Command::Verify(Verify::Svid(args)) => Ok(verify::run(args)),
        Command::DevIdentity(args) => environment::block_on(dev_identity::run(args)),
        Command::Demo(args) => environment::block_on(demo::run(args)),
    };
    result.unwrap_or_else(|error| {
        // The chain of causes, once, at the edge.
        eprintln!("postern: {error:#}");
        ExitCode::FAILURE
    })
}
