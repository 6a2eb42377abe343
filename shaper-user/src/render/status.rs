//! `status`.

use super::units;
use crate::model;
use anstyle::{AnsiColor, Style};
use std::io::{self, Write};

const LABEL: Style = Style::new().bold();
const WARNING: Style = AnsiColor::Yellow.on_default();

/// The answer to `status` for people.
///
/// # Errors
/// When `out` cannot be written to.
pub fn status(out: &mut dyn Write, status: &model::Status) -> io::Result<()> {
    let mut line = |label: &str, text: String| {
        let pad = 12_usize.saturating_sub(label.len());
        writeln!(out, "{LABEL}{label}{LABEL:#}{:pad$}  {text}", "")
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
        writeln!(out, "{WARNING}warning: {warning}{WARNING:#}")?;
    }
    Ok(())
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
