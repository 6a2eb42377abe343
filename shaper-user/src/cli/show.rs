//! `flows`, `clients`, `servers`, `status` and `top`.

use super::{output, parse};
use crate::control::client::Client;
use crate::filter::Filter;
use crate::model;
use crate::protocol::{Command, Query, SortKey};
use crate::render;
use crate::top::Tab;
use anyhow::Result;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What a filter may be, for the help of each list.
macro_rules! filter_help {
    ($example:literal) => {
        concat!(
            "Filter terms, all of which must match: client:PREFIX, rule:NAME, \
             state:limited|blocked|exempt|idle|active, port:N, protocol:tcp|udp, backend:NAME, \
             server:NAME or server:BACKEND/NAME, or any text within client, rule, backend or \
             server.\n\n",
            $example
        )
    };
}

pub(super) const FLOWS_HELP: &str =
    filter_help!("Example: shaper flows --sort upload -n 10 client:203.0.113.0/24");
pub(super) const CLIENTS_HELP: &str =
    filter_help!("Example: shaper clients --sort limited state:limited");
pub(super) const SERVERS_HELP: &str =
    filter_help!("Example: shaper servers --sort upload backend:be_ws");

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What to order by
    #[arg(long, value_enum, default_value_t, value_name = "KEY")]
    sort: SortKey,
    /// Turn the order round
    #[arg(long)]
    reverse: bool,
    /// At most so many rows
    #[arg(short, value_name = "N")]
    n: Option<usize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Only rows that match
    #[arg(value_name = "FILTER")]
    filter: Vec<String>,
}

impl Args {
    fn query(&self) -> Query {
        Query {
            sort: self.sort,
            reverse: self.reverse,
            limit: self.n,
            filter: parse::filter(&self.filter, Filter::parse),
        }
    }
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: shaper status --json | jq .counters")]
pub(super) struct StatusArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn flows(socket: &Path, args: Args) -> Result<ExitCode> {
    show(
        socket,
        Command::Flows(args.query()),
        args.json,
        |out, answer| render::flows(out, answer, output::width()),
    )
}

pub(super) fn clients(socket: &Path, args: Args) -> Result<ExitCode> {
    show(
        socket,
        Command::Clients(args.query()),
        args.json,
        |out, answer| render::clients(out, answer, output::width()),
    )
}

pub(super) fn servers(socket: &Path, args: Args) -> Result<ExitCode> {
    let query = args.query();
    let filter = query.filter.clone();
    let (answer, status) = output::runtime()?.block_on(async {
        let mut client = Client::connect(socket).await?;
        let answer: model::Servers = client.request(Command::Servers(query)).await?;
        let status: Option<model::Status> = match answer.matched {
            0 => Some(client.request(Command::Status).await?),
            _ => None,
        };
        Ok::<_, anyhow::Error>((answer, status))
    })?;
    print(&answer, args.json, |out, answer| {
        render::servers(out, answer, output::width())
    })?;
    if let Some(status) = status {
        let why = render::why_none(&status.haproxy, &filter);
        output::say(&why);
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn status(socket: &Path, args: &StatusArgs) -> Result<ExitCode> {
    show(socket, Command::Status, args.json, |out, answer| {
        render::status(out, answer, output::width())
    })
}

#[derive(Debug, clap::Args)]
pub(super) struct TopArgs {
    #[arg(
        long,
        value_enum,
        default_value_t,
        hide_possible_values = true,
        help = "The tab to begin with: clients, flows, servers or history"
    )]
    tab: Tab,
    /// Draw into a file in the place of the terminal, until ended
    #[arg(long, hide = true, value_name = "FILE")]
    svg: Option<PathBuf>,
}

pub(super) fn top(socket: &Path, args: &TopArgs) -> Result<ExitCode> {
    let runtime = output::runtime()?;
    match &args.svg {
        Some(file) => runtime.block_on(crate::top::picture(socket, file, args.tab))?,
        None => runtime.block_on(crate::top::run(socket, args.tab))?,
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn show<T: DeserializeOwned + Serialize>(
    socket: &Path,
    command: Command,
    json: bool,
    render: impl FnOnce(&mut dyn Write, &T) -> io::Result<()>,
) -> Result<ExitCode> {
    let answer: T = output::runtime()?.block_on(async {
        let mut client = Client::connect(socket).await?;
        client.request(command).await
    })?;
    print(&answer, json, render)?;
    Ok(ExitCode::SUCCESS)
}

fn print<T: Serialize>(
    answer: &T,
    json: bool,
    render: impl FnOnce(&mut dyn Write, &T) -> io::Result<()>,
) -> Result<()> {
    if json {
        output::json(answer)
    } else {
        output::print(|out| render(out, answer))
    }
}
