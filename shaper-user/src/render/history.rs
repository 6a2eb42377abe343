//! `history`.

use super::rows::{DIM, PLAIN};
use super::spark::sparkline;
use super::table::{Align, Row, write};
use super::units;
use crate::model::{History, HistoryDirection, HistoryFlow};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::io::{self, Write};
use std::net::SocketAddr;

/// Widest sparkline.
const CELLS: usize = 76;

/// The answer to `history`, for a terminal of `width` cells; `None`: whatever it
/// needs.
///
/// # Errors
/// When `out` cannot be written to.
pub fn history(
    out: &mut dyn Write,
    history: &History,
    width: Option<u16>,
    tz: &TimeZone,
) -> io::Result<()> {
    let day = |at: Timestamp| {
        at.to_zoned(tz.clone())
            .strftime("%Y-%m-%d %H:%M")
            .to_string()
    };
    let (since, until) = (history.since, history.until);
    writeln!(out, "{} to {}", day(since), day(until))?;
    if history.minutes.is_empty() {
        let begins = match history.oldest {
            Some(oldest) => format!("the first minute that is kept is {}", day(oldest)),
            None => "the first minute is kept when it is over".to_owned(),
        };
        return writeln!(out, "nothing is known of this time: {begins}");
    }
    let cells = width.map_or(CELLS, |width| {
        usize::from(width).saturating_sub(4).clamp(10, CELLS)
    });
    let up = |history: &History| {
        history
            .minutes
            .iter()
            .map(|m| (m.at, m.ms, m.upload))
            .collect()
    };
    let down = |history: &History| {
        let minutes = history.minutes.iter();
        minutes.map(|m| (m.at, m.ms, m.download)).collect()
    };
    line(out, "↑ upload", history, up(history), cells, tz)?;
    line(out, "↓ download", history, down(history), cells, tz)?;
    clients(out, history, width)?;
    servers(out, history, width)?;
    flows(out, history, width, tz)
}

type Step = (Timestamp, u64, HistoryDirection);

/// One direction: its sum and its peak, and how it went.
fn line(
    out: &mut dyn Write,
    label: &str,
    history: &History,
    steps: Vec<Step>,
    cells: usize,
    tz: &TimeZone,
) -> io::Result<()> {
    let sum: u64 = steps.iter().map(|(_, _, d)| d.bytes).sum();
    let dropped: u64 = steps.iter().map(|(_, _, d)| d.dropped_bytes).sum();
    let peak = steps.iter().max_by_key(|(_, _, d)| d.rate_bps.unwrap_or(0));
    write!(out, "{label:<11}{}", units::bytes(sum))?;
    if let Some((at, _, peak)) = peak.filter(|_| sum > 0) {
        let at = at.to_zoned(tz.clone()).strftime("%H:%M");
        let peak = units::rate(peak.rate_bps.unwrap_or(0));
        write!(out, ", at most {peak} at {at}")?;
    }
    if dropped > 0 {
        write!(out, ", {} dropped", units::bytes(dropped))?;
    }
    let rates = spread(history, &steps, cells);
    writeln!(out, "\n  {}", sparkline(&rates))
}

/// The mean rates of so many spans of the time that was asked for; `None` where
/// nothing is known.
fn spread(history: &History, steps: &[Step], cells: usize) -> Vec<Option<u64>> {
    let step = history.step_ms.max(1);
    let start = history.since.as_millisecond();
    let long = u64::try_from(history.until.as_millisecond() - start).unwrap_or(0);
    let count = long.div_ceil(step).max(1);
    // As many whole steps in each cell.
    let each = count.div_ceil(cells as u64).max(1) * step;
    let mut sums = vec![(0_u128, 0_u64); usize::try_from(long.div_ceil(each)).unwrap_or(0)];
    for (at, ms, passed) in steps {
        let from = u64::try_from(at.as_millisecond() - start).unwrap_or(0);
        let cell = usize::try_from(from / each).unwrap_or(usize::MAX);
        if let Some((bytes, time)) = sums.get_mut(cell) {
            *bytes += u128::from(passed.bytes);
            *time += ms;
        }
    }
    sums.into_iter()
        .map(|(bytes, ms)| {
            let rate = (bytes * 8_000).checked_div(u128::from(ms))?;
            u64::try_from(rate).ok()
        })
        .collect()
}

const TRAFFIC: [(&str, Align); 4] = [
    ("UPLOAD", Align::Right),
    ("DOWNLOAD", Align::Right),
    ("TOTAL", Align::Right),
    ("DROPPED", Align::Right),
];

fn traffic(up: &HistoryDirection, down: &HistoryDirection) -> [String; 4] {
    let dropped = up.dropped_bytes + down.dropped_bytes;
    [
        units::bytes(up.bytes),
        units::bytes(down.bytes),
        units::bytes(up.bytes + down.bytes),
        match dropped {
            0 => String::new(),
            dropped => units::bytes(dropped),
        },
    ]
}

fn clients(out: &mut dyn Write, history: &History, width: Option<u16>) -> io::Result<()> {
    if history.clients.is_empty() {
        return Ok(());
    }
    let [a, b, c, d] = TRAFFIC;
    let rows: Vec<_> = history
        .clients
        .iter()
        .map(|client| {
            let mut cells = vec![client.client.clone()];
            cells.extend(traffic(&client.upload, &client.download));
            Row {
                cells,
                style: PLAIN,
            }
        })
        .collect();
    writeln!(out)?;
    let columns = [("CLIENT", Align::Left), a, b, c, d];
    write(out, &columns, &rows, width, &["DROPPED"])?;
    if history.others_bytes > 0 {
        let others = units::bytes(history.others_bytes);
        writeln!(
            out,
            "{DIM}and {others} of clients that were small in their minute{DIM:#}"
        )?;
    }
    more(out, rows.len(), history.clients_matched, "clients")
}

fn servers(out: &mut dyn Write, history: &History, width: Option<u16>) -> io::Result<()> {
    if history.servers.is_empty() {
        return Ok(());
    }
    let [a, b, c, d] = TRAFFIC;
    let rows: Vec<_> = history
        .servers
        .iter()
        .map(|server| {
            let mut cells = vec![format!("{}/{}", server.backend, server.server)];
            cells.extend(traffic(&server.upload, &server.download));
            Row {
                cells,
                style: PLAIN,
            }
        })
        .collect();
    writeln!(out)?;
    let columns = [("SERVER", Align::Left), a, b, c, d];
    write(out, &columns, &rows, width, &["DROPPED"])?;
    more(out, rows.len(), history.servers_matched, "servers")
}

fn flows(
    out: &mut dyn Write,
    history: &History,
    width: Option<u16>,
    tz: &TimeZone,
) -> io::Result<()> {
    if history.flows.is_empty() {
        return Ok(());
    }
    let columns = [
        ("FLOW", Align::Left),
        ("PORT", Align::Left),
        ("SERVER", Align::Left),
        ("OPENED", Align::Right),
        ("CLOSED", Align::Right),
        TRAFFIC[0],
        TRAFFIC[1],
        TRAFFIC[3],
    ];
    let time = |at: Timestamp| at.to_zoned(tz.clone()).strftime("%H:%M").to_string();
    let row = |flow: &HistoryFlow| {
        let [up, down, _, dropped] = traffic(&flow.upload, &flow.download);
        let cells = vec![
            SocketAddr::new(flow.client, flow.client_port).to_string(),
            format!("{}/{}", flow.local_port, flow.protocol),
            place(flow),
            time(flow.opened),
            if flow.closed {
                time(flow.last)
            } else {
                String::new()
            },
            up,
            down,
            dropped,
        ];
        Row {
            cells,
            style: PLAIN,
        }
    };
    let rows: Vec<_> = history.flows.iter().map(row).collect();
    writeln!(out)?;
    write(out, &columns, &rows, width, &["DROPPED", "PORT", "OPENED"])?;
    more(out, rows.len(), history.flows_matched, "flows")?;
    match history.flows_cut {
        0 => Ok(()),
        cut => writeln!(out, "{DIM}{cut} more that closed found no room{DIM:#}"),
    }
}

/// `backend/server`; empty where HAProxy had none.
#[must_use]
pub fn place(flow: &HistoryFlow) -> String {
    match (&flow.backend, &flow.server) {
        (Some(backend), Some(server)) => format!("{backend}/{server}"),
        _ => String::new(),
    }
}

fn more(out: &mut dyn Write, shown: usize, matched: u64, what: &str) -> io::Result<()> {
    if matched <= shown as u64 {
        return Ok(());
    }
    let rest = matched - shown as u64;
    writeln!(out, "{DIM}{rest} more {what}; -n shows more{DIM:#}")
}

#[cfg(test)]
mod tests;
