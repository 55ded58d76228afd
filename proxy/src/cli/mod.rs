//! The commands: one file each. Only here is the environment read (DESIGN, invariant 4).

mod admin_client;
pub mod audit;
mod check;
pub mod demo;
mod deny;
mod dev_identity;
mod doctor;
mod environment;
pub mod explain;
pub mod inventory;
mod output;
mod recorded;
mod redirect;
mod replay;
mod run;
mod schema;
mod simple;
mod status;
mod suggest;
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
    /// Check a configuration file and report every problem in it
    Check(check::CheckArgs),
    /// Print the JSON schema of the configuration file, of a deny list or of an override
    Schema(schema::SchemaArgs),
    /// Verify a credential as the data plane does
    Verify(verify::VerifyArgs),
    /// What would be decided about a request, by which rule, and what the nearest one lacks
    Explain(explain::ExplainArgs),
    /// What a candidate file would decide otherwise of what an audit log recorded
    Replay(replay::ReplayArgs),
    /// The least that has to be allowed for what an audit log recorded, and what of a file nothing used
    Suggest(suggest::SuggestArgs),
    /// Verify an audit log, offline
    Audit(audit::AuditArgs),
    /// Look for what keeps the proxy from working, each finding with its fix
    Doctor(doctor::DoctorArgs),
    /// Packet-filter rules that bring the application's connections to the proxy
    Redirect(redirect::RedirectArgs),
    /// A small SPIFFE identity provider for development and tests
    DevIdentity(dev_identity::DevIdentityArgs),
    /// Show it all on this machine: two sidecars, an application, rotations, refusals
    Demo(demo::DemoArgs),
    /// Take trust back in a running proxy, for some time
    Deny(deny::DenyArgs),
    /// Changes that the blast-radius guard of a running proxy holds
    Held(deny::HeldArgs),
    /// Every credential that a running proxy holds or has seen, and what of it nobody registered
    Inventory(inventory::InventoryArgs),
    /// Ask a running proxy how it is
    Status(status::StatusArgs),
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Client(args) => simple::client(&args),
        Command::Server(args) => simple::server(&args),
        Command::Check(args) => check::run(&args),
        Command::Schema(args) => schema::run(&args),
        Command::Verify(args) => Ok(verify::run(args)),
        Command::Explain(args) => environment::block_on(explain::run(args)),
        Command::Replay(args) => replay::run(&args),
        Command::Suggest(args) => suggest::run(&args),
        Command::Audit(args) => Ok(audit::run(args)),
        Command::Doctor(args) => environment::block_on(doctor::run(args)),
        Command::Redirect(args) => redirect::run(&args),
        Command::DevIdentity(args) => environment::block_on(dev_identity::run(args)),
        Command::Demo(args) => environment::block_on(demo::run(args)),
        Command::Deny(args) => environment::block_on(deny::run(args)),
        Command::Held(args) => environment::block_on(deny::held(args)),
        Command::Inventory(args) => environment::block_on(inventory::run(args)),
        Command::Status(args) => environment::block_on(status::run(args)),
    };
    result.unwrap_or_else(|error| {
        // The chain of causes, once, at the edge.
        eprintln!("postern: {error:#}");
        ExitCode::FAILURE
    })
}
