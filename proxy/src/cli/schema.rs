//! `postern schema`: the JSON schema of the configuration file, or its reference page.

use super::output::print;
use clap::Args;
use std::process::ExitCode;

/// `postern schema …`
#[derive(Args, Debug)]
pub struct SchemaArgs {
    /// Print the reference page (Markdown) instead
    #[arg(long)]
    pub reference: bool,
}

pub fn run(arguments: &SchemaArgs) -> anyhow::Result<ExitCode> {
    if arguments.reference {
        print(&postern_config::reference());
    } else {
        print(&postern_config::json_schema());
    }
    Ok(ExitCode::SUCCESS)
}
