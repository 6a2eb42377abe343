//! `servers`, and why there are none.

use super::rows::{DIM, PLAIN, rest};
use super::table::{Align, Row, write};
use super::units;
use crate::model;
use std::io::{self, Write};

/// The answer to `servers` as a table, and the backends beneath it, for a terminal
/// of `width` cells; `None`: whatever it needs.
///
/// # Errors
/// When `out` cannot be written to.
pub fn servers(
    out: &mut dyn Write,
    servers: &model::Servers,
    width: Option<u16>,
) -> io::Result<()> {
    let columns = [
        ("BACKEND", Align::Left),
        ("SERVER", Align::Left),
        ("CONN", Align::Right),
        ("UPLOAD", Align::Right),
        ("DOWNLOAD", Align::Right),
        ("TOTAL", Align::Right),
        ("DROPPED", Align::Right),
        ("TOP CLIENT", Align::Left),
        ("SHARE", Align::Right),
    ];
    let rows: Vec<Row> = servers
        .servers
        .iter()
        .map(|server| {
            let (up, down) = (&server.upload, &server.download);
            let dropped = match up.dropped_bytes.saturating_add(down.dropped_bytes) {
                0 => String::new(),
                dropped => units::bytes(dropped),
            };
            Row {
                cells: vec![
                    server.backend.clone(),
                    server.server.clone(),
                    server.connections.to_string(),
                    units::rate(up.rate_bps),
                    units::rate(down.rate_bps),
                    units::bytes(up.bytes.saturating_add(down.bytes)),
                    dropped,
                    server.top_client.clone().unwrap_or_default(),
                    server
                        .top_client_share
                        .map_or_else(String::new, |share| format!("{:.0}%", share * 100.0)),
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
        &["TOTAL", "DROPPED", "CONN", "SHARE"],
    )?;
    rest(out, rows.len(), servers.matched, "servers")?;
    backends(out, &servers.backends, width)
}

fn backends(
    out: &mut dyn Write,
    backends: &[model::Backend],
    width: Option<u16>,
) -> io::Result<()> {
    if backends.is_empty() {
        return Ok(());
    }
    let columns = [
        ("BACKEND", Align::Left),
        ("SERVERS", Align::Right),
        ("RATE", Align::Right),
        ("IMBALANCE", Align::Right),
    ];
    let rows: Vec<Row> = backends
        .iter()
        .map(|backend| Row {
            cells: vec![
                backend.backend.clone(),
                backend.servers.to_string(),
                units::rate(backend.rate_bps),
                backend
                    .imbalance
                    .map_or_else(|| "-".to_owned(), |imbalance| format!("{imbalance:.2}")),
            ],
            style: PLAIN,
        })
        .collect();
    writeln!(out)?;
    write(out, &columns, &rows, width, &["SERVERS"])?;
    writeln!(
        out,
        "{DIM}imbalance: the rate of the busiest server over the mean of all; 1 is even{DIM:#}"
    )
}

/// Why there is no server to show, and what would help, in one sentence.
#[must_use]
pub fn why_none(sockets: &[model::HaproxySocket], filter: &str) -> String {
    if sockets.is_empty() {
        return "no socket of HAProxy was found; write `stats socket /run/haproxy/admin.sock mode \
                660 level operator` into the global section of haproxy.cfg, or name its socket in \
                `sockets` of [haproxy] in the policy"
            .to_owned();
    }
    if sockets.iter().any(|socket| socket.age_ms.is_some()) {
        return match filter {
            "" => "HAProxy has no session at a server".to_owned(),
            filter => format!("no server matches `{filter}`"),
        };
    }
    let silent: Vec<_> = sockets
        .iter()
        .map(|socket| {
            let why = socket.error.as_deref().unwrap_or("not asked yet");
            format!("{}: {why}", socket.path)
        })
        .collect();
    format!("HAProxy has not answered: {}", silent.join("; "))
}

#[cfg(test)]
mod tests;
