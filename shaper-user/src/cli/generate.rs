//! `generate`, hidden: man pages and completions of this very binary, for packages.

use anyhow::{Context, Result};
use clap::Command;
use clap_complete::{Shell, generate_to};
use clap_mangen::Man;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// System administration commands, as with tc(8) and ss(8).
const SECTION: &str = "8";
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: shaper generate target/dist")]
pub(super) struct Args {
    /// Where `man` and `completions` are made
    directory: PathBuf,
}

pub(super) fn generate(args: &Args) -> Result<ExitCode> {
    let directory = |name: &str| -> Result<PathBuf> {
        let path = args.directory.join(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    };
    let (pages, completions) = (directory("man")?, directory("completions")?);
    for shell in SHELLS {
        generate_to(shell, &mut super::command(), "shaper", &completions)?;
    }
    // The pages of `help` and its subcommands would say nothing.
    let mut command = super::command().disable_help_subcommand(true);
    command.build();
    page(&command, &pages)?;
    Ok(ExitCode::SUCCESS)
}

/// The page of a command and of those below it.
fn page(command: &Command, directory: &Path) -> Result<()> {
    for below in command
        .get_subcommands()
        .filter(|below| !below.is_hide_set())
    {
        page(below, directory)?;
    }
    // A subcommand has no version of its own.
    Man::new(command.clone())
        .section(SECTION)
        .source(concat!("shaper ", env!("CARGO_PKG_VERSION")))
        .manual("System Administration")
        .generate_to(directory)?;
    Ok(())
}
