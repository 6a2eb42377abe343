//! `status`.

use super::{units, wrapped};
use crate::model;
use anstyle::{AnsiColor, Style};
use std::io::{self, Write};

const LABEL: Style = Style::new().bold();
const WARNING: Style = AnsiColor::Yellow.on_default();

/// Cells of a label and the gap behind it.
const INDENT: usize = 14;

/// The answer to `status` for people, for a terminal of `width` cells; `None`: lines
/// as long as they are.
///
/// # Errors
/// When `out` cannot be written to.
pub fn status(out: &mut dyn Write, status: &model::Status, width: Option<u16>) -> io::Result<()> {
    let mut line = |label: &str, text: String| {
        let mut label = label;
        for text in wrapped(&text, width, INDENT) {
            let pad = INDENT.saturating_sub(label.len());
            writeln!(out, "{LABEL}{label}{LABEL:#}{:pad$}{text}", "")?;
            label = "";
        }
        Ok::<_, io::Error>(())
    };
    let up = status.at.duration_since(status.since).as_millis().max(0);
    line(
        "daemon",
        format!(
            "version {}, process {}, running for {}",
            status.version,
            status.pid,
            units::duration(u64::try_from(up).unwrap_or(0))
        ),
    )?;
    let policy = status.policy.as_deref().unwrap_or("none (observe only)");
    line("policy", policy.to_owned())?;
    let mode = match status.mode.as_str() {
        "observe" => "observe: counts, and limits nobody".to_owned(),
        mode => mode.to_owned(),
    };
    line("mode", mode)?;
    let ports: Vec<_> = status.ports.iter().map(u16::to_string).collect();
    line("ports", ports.join(", "))?;
    for interface in &status.interfaces {
        let hook = |hook: &Option<String>| hook.clone().unwrap_or_else(|| "none".to_owned());
        line(
            "interface",
            format!(
                "{}: {}, ingress {}, egress {}, xdp {}",
                interface.name,
                interface.state,
                hook(&interface.ingress),
                hook(&interface.egress),
                hook(&interface.xdp)
            ),
        )?;
    }
    let on = |on| if on { "on" } else { "off" };
    let adopted = status.backpressure.adopted.map_or("", |adopted| {
        match (adopted.upload, adopted.download) {
            (true, true) => ", connections opened before too",
            (true, false) => ", of connections opened before upload only",
            (false, true) => ", of connections opened before download only",
            (false, false) => ", of connections opened before none",
        }
    });
    let reason = status.backpressure.reason.as_deref();
    line(
        "backpressure",
        format!(
            "upload {}, download {}{adopted}{}",
            on(status.backpressure.upload),
            on(status.backpressure.download),
            reason.map_or_else(String::new, |reason| format!(" ({reason})"))
        ),
    )?;
    if let Some(text) = hard_limit_only(&status.hard_limit_only) {
        line("hard limit", text)?;
    }
    for (i, text) in tables(&status.tables).into_iter().enumerate() {
        line(if i == 0 { "tables" } else { "" }, text)?;
    }
    for (i, text) in overflow(&status.overflow).into_iter().enumerate() {
        line(if i == 0 { "no room" } else { "" }, text)?;
    }
    for group in &status.groups {
        line("group", group.rule.clone())?;
        for text in self::group(group) {
            line("", text)?;
        }
    }
    for socket in &status.haproxy {
        line("haproxy", socket.path.clone())?;
        for text in haproxy(socket) {
            line("", text)?;
        }
    }
    if let Some(quotas) = &status.quotas {
        line("quotas", super::quota::store(quotas, status.at))?;
    }
    for drain in &status.drains {
        line("drain", self::drain(drain))?;
    }
    line(
        "tracked",
        format!(
            "{} flows, {} clients, {} limited now",
            status.flows, status.clients, status.limited
        ),
    )?;
    for (label, traffic) in [("upload", &status.upload), ("download", &status.download)] {
        line(
            label,
            format!(
                "{}, {} passed, {} dropped",
                units::rate(traffic.rate_bps),
                units::bytes(traffic.bytes),
                units::bytes(traffic.dropped_bytes)
            ),
        )?;
    }
    // What never happened needs no line; --json has every counter.
    let counters = status.counters.iter().filter(|(_, value)| **value > 0);
    for (i, (name, value)) in counters.enumerate() {
        line(
            if i == 0 { "counters" } else { "" },
            format!("{name} {value}"),
        )?;
    }
    for warning in &status.warnings {
        for text in wrapped(&format!("warning: {warning}"), width, 0) {
            writeln!(out, "{WARNING}{text}{WARNING:#}")?;
        }
    }
    Ok(())
}

/// Those that grow with traffic, and all together.
fn tables(tables: &[model::Table]) -> Vec<String> {
    let memory =
        |bytes: Option<u64>| bytes.map_or_else(|| "memory not known".to_owned(), units::bytes);
    let mut lines: Vec<_> = tables
        .iter()
        .filter_map(|table| {
            let entries = table.entries?;
            let name = table.name.replace('_', " ").replace("udp", "UDP");
            Some(format!(
                "{entries} of {} {name}, {}",
                table.max,
                memory(table.bytes)
            ))
        })
        .collect();
    if !tables.is_empty() {
        let all = tables.iter().map(|table| table.bytes).sum();
        lines.push(format!("{} in all", memory(all)));
    }
    lines
}

/// What found no room; nothing where everything did.
fn overflow(overflow: &model::Overflow) -> Vec<String> {
    let mut lines = Vec::new();
    match overflow.connections {
        0 => {}
        1 => lines.push("1 connection, held with its client by dropping alone".to_owned()),
        more => lines.push(format!(
            "{more} connections, held with their clients by dropping alone"
        )),
    }
    for (name, traffic) in [
        ("upload", &overflow.upload),
        ("download", &overflow.download),
    ] {
        if traffic.packets > 0 || traffic.dropped_packets > 0 {
            lines.push(format!(
                "shared bucket, {name}: {}, {} passed, {} dropped",
                units::rate(traffic.rate_bps),
                units::bytes(traffic.bytes),
                units::bytes(traffic.dropped_bytes)
            ));
        }
    }
    lines
}

/// What the clients of a rule are held to together, and what they have of it.
fn group(group: &model::Group) -> Vec<String> {
    [("upload", &group.upload), ("download", &group.download)]
        .iter()
        .filter_map(|(name, direction)| {
            let limit = units::rate(direction.limit_bps?);
            let clients = match direction.active_clients {
                1 => "1 client".to_owned(),
                more => format!("{more} clients"),
            };
            Some(format!(
                "{name} {} of {limit}, {clients}, {} dropped",
                units::rate(direction.traffic.rate_bps),
                units::bytes(direction.traffic.dropped_bytes)
            ))
        })
        .collect()
}

fn drain(drain: &model::Drain) -> String {
    let gone = match drain.gone {
        0 => String::new(),
        gone => format!(", {gone} gone before"),
    };
    let reason = drain.reason.as_deref();
    format!(
        "{} {}: {} of {} sessions closed{gone}, {} now, {} at first, {} wanted{}",
        drain.server,
        drain.state,
        drain.closed,
        drain.planned,
        units::rate(drain.now_bps),
        units::rate(drain.rate_bps),
        units::rate(drain.target_bps),
        reason.map_or_else(String::new, |reason| format!(" ({reason})"))
    )
}

/// What only the hard limit holds; why is the reason of `backpressure`.
fn hard_limit_only(only: &model::HardLimitOnly) -> Option<String> {
    let counted = |count: u64, one: &str, more: &str| {
        (count > 0).then(|| format!("{count} {}", if count == 1 { one } else { more }))
    };
    let parts: Vec<_> = [
        counted(only.upload, "TCP upload", "TCP uploads"),
        counted(only.download, "TCP download", "TCP downloads"),
        counted(only.udp, "UDP flow", "UDP flows"),
    ]
    .into_iter()
    .flatten()
    .collect();
    (!parts.is_empty()).then(|| format!("{} held by dropping alone", parts.join(", ")))
}

/// What a socket of HAProxy said last; what is wrong with it is a warning.
fn haproxy(socket: &model::HaproxySocket) -> Vec<String> {
    let every = units::duration(socket.poll_ms);
    let retry = || format!("no answer, tried again in {every}");
    let (Some(kind), Some(version)) = (&socket.kind, &socket.version) else {
        return vec![if socket.error.is_some() {
            retry()
        } else {
            "not asked yet".to_owned()
        }];
    };
    let level = socket.level.as_deref().unwrap_or("unknown");
    let counted = |count: u64, one: &str| {
        let more = if count == 1 { "" } else { "s" };
        format!("{count} {one}{more}")
    };
    let name = if kind == "master" {
        "master CLI"
    } else {
        "stats socket"
    };
    let mut lines = vec![format!("{name} of HAProxy {version}, level {level}")];
    if let Some(age) = socket.age_ms {
        let took = match socket.cost_ms {
            Some(cost) if cost >= 100.0 => format!(", took {cost:.0} ms"),
            Some(cost) => format!(", took {cost:.1} ms"),
            None => String::new(),
        };
        let next = if socket.error.is_some() {
            String::new()
        } else {
            format!(", every {every}")
        };
        lines.push(format!(
            "{}, {}, {} ago{took}{next}",
            counted(socket.sessions, "session"),
            counted(socket.workers, "worker"),
            units::duration(age)
        ));
    }
    if socket.error.is_some() {
        lines.push(retry());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket() -> model::HaproxySocket {
        model::HaproxySocket {
            path: "/run/haproxy/admin.sock".to_owned(),
            kind: Some("stats".to_owned()),
            version: Some("3.0.11-1+deb13u4".to_owned()),
            level: Some("operator".to_owned()),
            sessions: 200_000,
            workers: 1,
            age_ms: Some(132_000),
            cost_ms: Some(1360.4),
            poll_ms: 136_040,
            error: None,
        }
    }

    #[test]
    fn a_socket_of_haproxy_fits_into_80_columns() {
        let mut master = socket();
        master.kind = Some("master".to_owned());
        master.workers = 12;
        let mut failing = socket();
        failing.cost_ms = Some(6.84);
        failing.sessions = 1;
        failing.poll_ms = 60_000;
        failing.error = Some("is a warning".to_owned());
        for (socket, expected) in [
            (
                socket(),
                vec![
                    "stats socket of HAProxy 3.0.11-1+deb13u4, level operator",
                    "200000 sessions, 1 worker, 2m12s ago, took 1360 ms, every 2m16s",
                ],
            ),
            (
                master,
                vec![
                    "master CLI of HAProxy 3.0.11-1+deb13u4, level operator",
                    "200000 sessions, 12 workers, 2m12s ago, took 1360 ms, every 2m16s",
                ],
            ),
            (
                failing,
                vec![
                    "stats socket of HAProxy 3.0.11-1+deb13u4, level operator",
                    "1 session, 1 worker, 2m12s ago, took 6.8 ms",
                    "no answer, tried again in 1m00s",
                ],
            ),
            (model::HaproxySocket::default(), vec!["not asked yet"]),
        ] {
            let lines = haproxy(&socket);
            assert_eq!(lines, expected);
            assert!(lines.iter().all(|line| line.len() + 14 <= 80));
        }
    }
}
