//! `postern schema`: the JSON schema of the configuration file or of another one that people write, or the reference page.

use super::output::print;
use clap::{Args, ValueEnum};
use postern_config::SchemaOf;
use std::process::ExitCode;

/// `postern schema …`
#[derive(Args, Debug)]
pub struct SchemaArgs {
    /// Of which file
    #[arg(long, value_name = "FILE", default_value = "configuration")]
    pub of: Of,
    /// Print the configuration's reference page (Markdown) instead
    #[arg(long, conflicts_with = "of")]
    pub reference: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Of {
    Configuration,
    /// What `revocation.deny_list` names
    DenyList,
    /// What `break_glass.file` names
    Override,
}

pub fn run(arguments: &SchemaArgs) -> anyhow::Result<ExitCode> {
    print(&match arguments.reference {
        true => postern_config::reference(),
        false => postern_config::json_schema(match arguments.of {
            Of::Configuration => SchemaOf::Configuration,
            Of::DenyList => SchemaOf::DenyList,
            Of::Override => SchemaOf::Override,
        }),
    });
    Ok(ExitCode::SUCCESS)
}
