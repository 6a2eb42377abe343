//! `limit`, `block`, `unblock` and `reload`.

use super::{output, parse};
use crate::control::client::Client;
use crate::protocol::Command;
use crate::render::wrapped;
use anyhow::Result;
use clap::ArgGroup;
use std::path::Path;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[command(
    group = ArgGroup::new("what").args(["upload", "download", "clear"]).required(true).multiple(true),
    after_help = "The limit holds over the policy's, and over a reload and a restart. A direction \
                  that is not named keeps its limit.\n\n\
                  Example: shaper limit 203.0.113.9 --upload 2mbit --for 10m"
)]
pub(super) struct LimitArgs {
    /// Address or prefix; each client of a prefix has the limit for itself
    #[arg(value_parser = parse::client)]
    client: String,
    /// Rate from the client to this host, such as 8mbit
    #[arg(long, value_name = "RATE", value_parser = parse::rate)]
    upload: Option<String>,
    /// Rate from this host to the client
    #[arg(long, value_name = "RATE", value_parser = parse::rate)]
    download: Option<String>,
    /// End by itself after this time, such as 90s or 1h 30m
    #[arg(long = "for", value_name = "DURATION", value_parser = parse::duration)]
    for_ms: Option<u64>,
    /// Go back to the policy's limits
    #[arg(long, conflicts_with_all = ["upload", "download", "for_ms"])]
    clear: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: shaper block 198.51.100.7 --for 1h")]
pub(super) struct BlockArgs {
    /// Address or prefix
    #[arg(value_parser = parse::client)]
    client: String,
    /// End by itself after this time, such as 90s or 1h 30m
    #[arg(long = "for", value_name = "DURATION", value_parser = parse::duration)]
    for_ms: Option<u64>,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "What the policy blocks stays blocked.\n\nExample: shaper unblock 198.51.100.7"
)]
pub(super) struct UnblockArgs {
    /// Address or prefix
    #[arg(value_parser = parse::client)]
    client: String,
}

pub(super) fn limit(socket: &Path, args: LimitArgs) -> Result<ExitCode> {
    let LimitArgs {
        client,
        upload,
        download,
        for_ms,
        clear,
    } = args;
    let command = if clear {
        Command::ClearLimit { client }
    } else {
        Command::Limit {
            client,
            upload,
            download,
            for_ms,
        }
    };
    change(socket, command)
}

pub(super) fn block(socket: &Path, args: BlockArgs) -> Result<ExitCode> {
    let BlockArgs { client, for_ms } = args;
    change(socket, Command::Block { client, for_ms })
}

pub(super) fn unblock(socket: &Path, args: UnblockArgs) -> Result<ExitCode> {
    let UnblockArgs { client } = args;
    change(socket, Command::Unblock { client })
}

pub(super) fn reload(socket: &Path) -> Result<ExitCode> {
    change(socket, Command::Reload)
}

pub(super) fn change(socket: &Path, command: Command) -> Result<ExitCode> {
    let done = output::runtime()?.block_on(async {
        let mut client = Client::connect(socket).await?;
        client.change(command).await
    })?;
    output::print(|out| {
        wrapped(&done.message, output::width(), 0)
            .iter()
            .try_for_each(|line| writeln!(out, "{line}"))
    })?;
    Ok(ExitCode::SUCCESS)
}
