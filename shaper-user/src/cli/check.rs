//! `check`: needs no daemon and no right.

use super::output;
use crate::policy::{LoadError, Policy, report};
use anyhow::Result;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: shaper check /etc/shaper/policy.toml")]
pub(super) struct Args {
    /// The policy file
    file: PathBuf,
}

pub(super) fn check(args: &Args) -> Result<ExitCode> {
    let policy = match Policy::load(&args.file) {
        Ok(policy) => policy,
        // Each line begins with its place, as editors expect it.
        Err(LoadError::Invalid(mistakes)) => {
            writeln!(io::stderr(), "{mistakes}")?;
            return Ok(ExitCode::FAILURE);
        }
        Err(error) => return Err(error.into()),
    };
    // What the kernel has no room for is a mistake of the file too.
    policy.compile(&[])?;
    let text = report(&policy);
    output::print(|out| writeln!(out, "{}", text.trim_end()))?;
    Ok(ExitCode::SUCCESS)
}
