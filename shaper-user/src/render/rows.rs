//! `flows` and `clients`.

use super::table::{Align, Row, write};
use super::units;
use crate::model;
use anstyle::{AnsiColor, Style};
use jiff::Timestamp;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};

const LIMITED: Style = AnsiColor::Yellow.on_default();
const BLOCKED: Style = AnsiColor::Red.on_default();
const EXEMPT: Style = AnsiColor::Cyan.on_default();
pub(super) const PLAIN: Style = Style::new();
pub(super) const DIM: Style = Style::new().dimmed();

/// The answer to `flows` as a table, for a terminal of `width` cells; `None`: whatever
/// it needs.
///
/// # Errors
/// When `out` cannot be written to.
pub fn flows(out: &mut dyn Write, flows: &model::Flows, width: Option<u16>) -> io::Result<()> {
    let columns = [
        ("CLIENT", Align::Left),
        ("PORT", Align::Left),
        ("RULE", Align::Left),
        ("SERVER", Align::Left),
        ("UPLOAD", Align::Right),
        ("DOWNLOAD", Align::Right),
        ("TOTAL", Align::Right),
        ("DROPPED", Align::Right),
        ("AGE", Align::Right),
    ];
    let rows: Vec<Row> = flows
        .flows
        .iter()
        .map(|flow| {
            let dropped = flow.upload.dropped_bytes + flow.download.dropped_bytes;
            Row {
                cells: vec![
                    peer(flow.client, flow.client_port),
                    format!(
                        "{}/{}{}",
                        flow.local_port,
                        flow.protocol,
                        some(flow.is_only_dropped(), || "*".to_owned())
                    ),
                    flow.rule.clone(),
                    flow.haproxy.as_ref().map_or_else(String::new, place),
                    units::rate(flow.upload.rate_bps),
                    units::rate(flow.download.rate_bps),
                    units::bytes(flow.upload.bytes + flow.download.bytes),
                    some(dropped > 0, || units::bytes(dropped)),
                    units::duration(flow.age_ms),
                ],
                style: PLAIN,
            }
        })
        .collect();
    write(
        out,
        &columns,
        &rows,
        width,
        &["AGE", "SERVER", "TOTAL", "RULE", "DROPPED"],
    )?;
    rest(out, rows.len(), flows.matched, "flows")?;
    if flows.flows.iter().any(is_stale) {
        writeln!(
            out,
            "{DIM}~ from an older answer: HAProxy is silent since; `shaper status` says why{DIM:#}"
        )?;
    }
    if flows.flows.iter().any(model::Flow::is_only_dropped) {
        writeln!(
            out,
            "{DIM}* no backpressure: what is over its limit is dropped; `shaper status` says why{DIM:#}"
        )?;
    }
    Ok(())
}

/// The answer to `clients` as a table, for a terminal of `width` cells; `None`: whatever
/// it needs.
///
/// # Errors
/// When `out` cannot be written to.
pub fn clients(
    out: &mut dyn Write,
    clients: &model::Clients,
    width: Option<u16>,
) -> io::Result<()> {
    let with_quota = clients.clients.iter().any(|client| client.quota.is_some());
    let mut columns = vec![
        ("CLIENT", Align::Left),
        ("RULE", Align::Left),
        ("CONN", Align::Right),
        ("UPLOAD", Align::Right),
        ("OF", Align::Right),
        ("DOWNLOAD", Align::Right),
        ("OF", Align::Right),
        ("TOTAL", Align::Right),
        ("HELD", Align::Right),
        ("STATE", Align::Left),
        ("SERVERS", Align::Left),
    ];
    // Before the state; only where quotas are in use.
    let at = columns.len() - 2;
    if with_quota {
        columns.insert(at, ("QUOTA", Align::Right));
    }
    let rows: Vec<Row> = clients
        .clients
        .iter()
        .map(|client| {
            let (up, down) = (&client.upload, &client.download);
            let held = up.limited_ms + down.limited_ms;
            let style = if client.blocked {
                BLOCKED
            } else if up.limited || down.limited {
                LIMITED
            } else if client.exempt {
                EXEMPT
            } else {
                PLAIN
            };
            let mut row = Row {
                cells: vec![
                    client.client.clone(),
                    client.rule.clone(),
                    client.connections.to_string(),
                    units::rate(up.traffic.rate_bps),
                    of_limit(up),
                    units::rate(down.traffic.rate_bps),
                    of_limit(down),
                    units::bytes(up.traffic.bytes + down.traffic.bytes),
                    match held {
                        0 => String::new(),
                        1..1000 => format!("{held}ms"),
                        _ => units::duration(held),
                    },
                    state(client, clients.at),
                    client.servers.join(", "),
                ],
                style,
            };
            if with_quota {
                let quota = client.quota.as_ref();
                let cell = quota.map(|quota| super::quota::cell(quota, clients.at));
                row.cells.insert(at, cell.unwrap_or_default());
            }
            row
        })
        .collect();
    write(
        out,
        &columns,
        &rows,
        width,
        &["SERVERS", "TOTAL", "RULE", "HELD", "OF"],
    )?;
    rest(out, rows.len(), clients.matched, "clients")
}

fn peer(ip: IpAddr, port: u16) -> String {
    SocketAddr::new(ip, port).to_string()
}

/// `backend/server`, marked when HAProxy has not confirmed it lately.
fn place(haproxy: &model::Haproxy) -> String {
    let mark = if haproxy.stale { "~" } else { "" };
    format!("{mark}{}/{}", haproxy.backend, haproxy.server)
}

fn is_stale(flow: &model::Flow) -> bool {
    flow.haproxy.as_ref().is_some_and(|haproxy| haproxy.stale)
}

fn some(is: bool, text: impl FnOnce() -> String) -> String {
    if is { text() } else { String::new() }
}

/// The limit, and how much of it is used.
fn of_limit(direction: &model::Limited) -> String {
    direction.limit_bps.map_or_else(String::new, |limit| {
        let percent = u128::from(direction.traffic.rate_bps) * 100 / u128::from(limit.max(1));
        format!("{percent}%")
    })
}

fn state(client: &model::Client, now: Timestamp) -> String {
    let mut words = Vec::new();
    if client.blocked {
        words.push("blocked".to_owned());
    }
    if client.exempt {
        words.push("exempt".to_owned());
    }
    match (client.upload.limited, client.download.limited) {
        (true, true) => words.push("limited".to_owned()),
        (true, false) => words.push("limited up".to_owned()),
        (false, true) => words.push("limited down".to_owned()),
        (false, false) => {}
    }
    if client.quota.as_ref().is_some_and(|q| q.state == "reached") {
        words.push("over quota".to_owned());
    }
    // What was set by hand, and for how long it holds on.
    if let Some(set) = &client.runtime {
        let ends = match (set.limit_expires, set.block_expires) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        words.push(ends.map_or_else(
            || "set".to_owned(),
            |ends| {
                let left = ends.duration_since(now).as_millis().max(0);
                format!(
                    "set for {}",
                    units::duration(u64::try_from(left).unwrap_or(u64::MAX))
                )
            },
        ));
    }
    words.join(", ")
}

/// What `-n` cut off.
pub(super) fn rest(out: &mut dyn Write, shown: usize, matched: u64, what: &str) -> io::Result<()> {
    let more = matched.saturating_sub(shown as u64);
    if more > 0 {
        writeln!(out, "{DIM}… {more} more of {matched} {what}{DIM:#}")?;
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests;
