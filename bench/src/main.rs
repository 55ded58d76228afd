//! Measurements: what parts cost, what a pair of sidecars costs beside other proxies, what capture adds.
//!
//! Read `compare/mod.rs` first, then `compare/scenario.rs` for what is measured and `compare/peers/` for how each product
//! is configured. `README.md` beside this says what each figure means.

mod app;
mod audit;
mod capture_cost;
mod compare;
mod decisions;
mod instructions;
mod load;
mod micro;
mod parts;
mod revoke;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Measurements of Postern; see bench/README.md")]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// What parts of the request path cost, each alone. The default.
    Micro,
    /// Pairs of sidecars, product by product, round by round.
    Compare(compare::CompareArguments),
    /// Instructions of requests, connections and parts, compared with `bench/budget.json`; needs valgrind.
    Instructions(instructions::InstructionsArguments),
    /// What capture adds to a request, in two network namespaces; needs root.
    CaptureCost(capture_cost::CaptureCostArguments),
    /// What a thousand rules, conditions, an audit log and tokens add to a request
    Decisions(decisions::DecisionsArguments),
    /// How long connections live on whose identity is denied
    Revoke(revoke::RevokeArguments),
    /// What a log of a million records takes to write, and to verify
    Audit(audit::AuditArguments),
    /// Calls each part of the request path; started by `instructions`.
    #[command(hide = true)]
    Parts,
    /// The application at the end of a measured path; started by the other commands.
    #[command(hide = true)]
    App(app::AppArguments),
    /// The load at its beginning; started by the other commands.
    #[command(hide = true)]
    Load(load::LoadArguments),
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command.unwrap_or(Command::Micro) {
        Command::Micro => micro::run(),
        Command::Compare(arguments) => compare::run(&arguments),
        Command::Instructions(arguments) => instructions::run(&arguments),
        Command::CaptureCost(arguments) => capture_cost::run(&arguments),
        Command::Decisions(arguments) => decisions::run(&arguments),
        Command::Revoke(arguments) => revoke::run(&arguments),
        Command::Audit(arguments) => audit::run(&arguments),
        Command::Parts => instructions::parts::run(),
        Command::App(arguments) => app::run(&arguments),
        Command::Load(arguments) => load::run(&arguments),
    }
}
