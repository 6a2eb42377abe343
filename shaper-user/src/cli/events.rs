//! `events`.

use super::{output, parse};
use crate::control::client::Client;
use crate::events::Batch;
use crate::events::filter::EventFilter;
use crate::protocol::EventsQuery;
use crate::render;
use anyhow::Result;
use jiff::tz::TimeZone;
use serde_json::json;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "The daemon remembers the last 10,000. With --json each is an object on a line of its \
                  own; docs/events.md has their names and fields.\n\n\
                  Filter terms, all of which must match: event:NAME[,NAME], client:PREFIX, rule:NAME, \
                  or any text within the event.\n\n\
                  Example: shaper events --follow --json event:limited,released"
)]
pub(super) struct Args {
    /// Go on with those that come
    #[arg(short, long)]
    follow: bool,
    /// At most so many of the last; while following, so many before those that come
    #[arg(short, value_name = "N")]
    n: Option<usize>,
    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,
    /// Only events that match
    #[arg(value_name = "FILTER")]
    filter: Vec<String>,
}

pub(super) fn events(socket: &Path, args: &Args) -> Result<ExitCode> {
    let query = EventsQuery {
        follow: args.follow,
        last: args.n,
        filter: parse::filter(&args.filter, EventFilter::parse),
    };
    output::runtime()?.block_on(async {
        let mut client = Client::connect(socket).await?;
        let mut batch = client.events(query).await?;
        loop {
            print(&batch, args.json)?;
            if !args.follow {
                return Ok(ExitCode::SUCCESS);
            }
            batch = client.next().await?;
        }
    })
}

fn print(batch: &Batch, json: bool) -> Result<()> {
    if json {
        let mut out = io::BufWriter::new(io::stdout().lock());
        if batch.missed > 0 {
            let missed = json!({"event": "missed", "missed": batch.missed});
            writeln!(out, "{missed}")?;
        }
        for record in &batch.events {
            serde_json::to_writer(&mut out, record).map_err(io::Error::from)?;
            writeln!(out)?;
        }
        return Ok(out.flush()?);
    }
    let zone = TimeZone::system();
    output::print(|out| {
        if batch.missed > 0 {
            render::missed(out, batch.missed)?;
        }
        for record in &batch.events {
            render::event(out, record, &zone, output::width())?;
        }
        Ok(())
    })
}
