//! `history`.

use super::{output, parse};
use crate::model::History;
use crate::policy::units;
use crate::protocol::{Command, HistoryQuery};
use crate::render;
use anyhow::Result;
use jiff::civil::{DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, Zoned};
use std::path::Path;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "TIME is a duration before now (2h), a time of the last 24 hours (03:14), or a \
                  date\nand time (2026-03-01T03:14, or with Z in UTC).\n\n\
                  Example: shaper history --since 03:00 --until 04:00 --client 203.0.113.7"
)]
pub(super) struct Args {
    /// Only this client, or the clients of a prefix
    #[arg(long, value_parser = parse::client, value_name = "CLIENT")]
    client: Option<String>,
    /// Only this server of HAProxy
    #[arg(long, value_parser = parse::server, value_name = "BACKEND/SERVER")]
    server: Option<String>,
    /// From when on; without it from an hour before the end
    #[arg(long, value_parser = time, value_name = "TIME")]
    since: Option<Timestamp>,
    /// To when; without it to now
    #[arg(long, value_parser = time, value_name = "TIME")]
    until: Option<Timestamp>,
    /// At most so many clients, servers and flows each
    #[arg(short, value_name = "N", default_value_t = 20)]
    n: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn history(socket: &Path, args: Args) -> Result<ExitCode> {
    let query = HistoryQuery {
        client: args.client,
        server: args.server,
        since: args.since,
        until: args.until,
        limit: Some(args.n),
    };
    super::show::show(
        socket,
        Command::History(query),
        args.json,
        |out, answer: &History| render::history(out, answer, output::width(), &TimeZone::system()),
    )
}

fn time(text: &str) -> Result<Timestamp, String> {
    time_before(text, &Zoned::now())
}

/// A time as people say it, seen from `now`.
fn time_before(text: &str, now: &Zoned) -> Result<Timestamp, String> {
    if let Ok(duration) = units::duration(text) {
        return now
            .timestamp()
            .checked_sub(duration)
            .map_err(|_| format!("`{text}` is before all time"));
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at);
    }
    let zoned = |at: DateTime| at.to_zoned(now.time_zone().clone()).ok();
    // A date and time would pass as a time.
    let at = if let Ok(at) = text.parse::<DateTime>() {
        zoned(at)
    } else if let Ok(time) = text.parse::<Time>() {
        let today = zoned(now.date().to_datetime(time));
        let yesterday = now.date().checked_sub(1.day()).ok();
        today
            .filter(|at| at <= now)
            .or_else(|| zoned(yesterday?.to_datetime(time)))
    } else {
        None
    };
    at.map(|at| at.timestamp()).ok_or_else(|| {
        format!(
            "`{text}` is no time; allowed: a duration before now such as 2h, 03:14, or \
             2026-03-01T03:14"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_as_people_say_them() {
        let now: Zoned = "2026-03-01T10:30:00+01:00[Europe/Berlin]".parse().unwrap();
        for (text, at) in [
            ("2h", "2026-03-01T07:30:00Z"),
            ("03:14", "2026-03-01T02:14:00Z"),
            ("23:00", "2026-02-28T22:00:00Z"),
            ("2026-02-28T03:14", "2026-02-28T02:14:00Z"),
            ("2026-02-28T03:14:00Z", "2026-02-28T03:14:00Z"),
        ] {
            assert_eq!(time_before(text, &now), Ok(at.parse().unwrap()), "{text}");
        }
        for text in ["", "yesterday", "25:00", "2 fortnights"] {
            assert!(time_before(text, &now).is_err(), "{text}");
        }
    }
}
