//! What a policy means, as `shaper check` prints it.

mod places;
mod quotas;

use super::client::display;
use super::interface;
use super::units::Size;
use super::{Haproxy, History, Limits, Mode, OnExit, Policy, RateLimit, Rule};
use crate::render::units;
use comfy_table::{ColumnConstraint, ContentArrangement, Table, presets};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::Range;

/// Columns of a terminal.
const WIDTH: u16 = 80;
/// Spaces between columns.
const GAP: u16 = 2;
/// Clients of a rule that are listed; the others are counted.
const CLIENTS_SHOWN: usize = 8;
/// Between the rate and the burst.
const BETWEEN: char = '/';
/// Behind a value that a rule takes from `[default]`.
const INHERITED: char = '*';

/// The effective policy: a head, and the rules in the order in which they are
/// tried, each with every limit that holds. Lines of at most 80 columns, where
/// the names let them be. Ends with a newline.
#[must_use]
pub fn report(policy: &Policy) -> String {
    let mut text = head(policy);
    text.push('\n');
    let rows = rows(policy);
    let inherited = rows
        .iter()
        .any(|row| row.cells.iter().flatten().any(|c| c.ends_with(INHERITED)));
    let limited = rows
        .iter()
        .flat_map(|row| &row.cells[LIMIT_COLUMNS])
        .flatten()
        .any(|cell| cell.contains(BETWEEN));
    for line in table(rows) {
        // Infallible for a String, as below.
        let _ = writeln!(text, "{line}");
    }
    if limited {
        let _ = writeln!(text, "\nA limit is rate/burst.");
    }
    if inherited {
        let _ = writeln!(text, "{INHERITED} from [default]");
    }
    for rule in policy.rules.iter().filter(|rule| rule.group.is_set()) {
        let _ = writeln!(text, "\n{} for all its clients together:", rule.name);
        for (name, limit) in [
            ("upload", rule.group.upload),
            ("download", rule.group.download),
        ] {
            if let Some(limit) = limit {
                let _ = writeln!(
                    text,
                    "  {name:<9} {}{BETWEEN}{}",
                    limit.rate,
                    Size(limit.burst)
                );
            }
        }
    }
    text.push_str(&quotas::quotas(policy));
    text.push_str(&places::places(policy));
    text
}

fn head(policy: &Policy) -> String {
    let (patterns, names): (Vec<_>, Vec<_>) = policy
        .interfaces
        .iter()
        .cloned()
        .partition(|wanted| interface::is_pattern(wanted));
    let interfaces = match (names.join(", "), patterns.join(", ")) {
        (names, patterns) if names.is_empty() && patterns.is_empty() => {
            "the default route's".to_owned()
        }
        (names, patterns) if patterns.is_empty() => names,
        (names, patterns) if names.is_empty() => format!("all that match {patterns}"),
        (names, patterns) => format!("{names}, and all that match {patterns}"),
    };
    let mode = match policy.mode {
        Mode::Enforce => "enforce",
        Mode::Observe => "observe (counts, limits nothing)",
    };
    let on_exit = match policy.on_exit {
        OnExit::Keep => "keep (limits hold on)",
        OnExit::Detach => "detach (limits go)",
    };
    let mut lines = vec![
        ("mode", mode.to_owned()),
        ("interfaces", interfaces),
        ("ports", list(&policy.ports)),
        ("xdp", policy.xdp.to_string()),
        ("on exit", on_exit.to_owned()),
        ("tables", tables(policy)),
        (
            "a client is",
            format!("IPv4 /{}, IPv6 /{}", policy.ipv4_prefix, policy.ipv6_prefix),
        ),
    ];
    let uids = &policy.control_uids;
    if !uids.is_empty() {
        lines.push(("may change", format!("root, uid {}", list(uids))));
    }
    if let Some(group) = &policy.control_group {
        lines.push(("may read", format!("root, group {group}")));
    }
    lines.push(("haproxy", haproxy(&policy.haproxy)));
    if let Some(metrics) = policy.metrics {
        let clients = match metrics.top_clients {
            0 => "no client by itself".to_owned(),
            most => format!("the {most} busiest clients"),
        };
        lines.push(("metrics", format!("on {}, of {clients}", metrics.listen)));
    }
    lines.push(("history", history(&policy.history)));
    let mut text = String::new();
    for (name, value) in lines {
        let value = value.replace('\n', &format!("\n{:13}", ""));
        let _ = writeln!(text, "{name:<12} {value}");
    }
    text
}

fn tables(policy: &Policy) -> String {
    format!(
        "{} flows, {} clients; {} of kernel memory",
        policy.max_flows,
        policy.max_clients,
        units::bytes(policy.tables().bytes())
    )
}

fn history(history: &History) -> String {
    if !history.enabled {
        return "not kept".to_owned();
    }
    let path = match &history.path {
        Some(path) => path.display().to_string(),
        None => "the state directory, where there is one".to_owned(),
    };
    format!(
        "{} hours, at most {}, flows from {} on\nin {path}",
        history.hours,
        units::bytes(history.max_size),
        units::bytes(history.flow_min)
    )
}

fn haproxy(haproxy: &Haproxy) -> String {
    let mut text = match &haproxy.sockets {
        None => "the usual sockets, if there are any".to_owned(),
        Some(sockets) if sockets.is_empty() => return "not asked".to_owned(),
        Some(sockets) => list(sockets.iter().map(|path| path.display())),
    };
    let poll = humantime::format_duration(haproxy.poll);
    let _ = write!(text, ", every {poll}");
    if let Some(agent) = haproxy.agent {
        let _ = write!(text, "\nagent checks are answered on {agent}");
    }
    if !haproxy.actions.is_empty() {
        let _ = write!(text, "\nallowed: {}", list(&haproxy.actions));
    }
    text
}

fn list(values: impl IntoIterator<Item: ToString>) -> String {
    let values: Vec<_> = values.into_iter().map(|value| value.to_string()).collect();
    values.join(", ")
}

const COLUMNS: [&str; 8] = [
    "CLIENTS",
    "RULE",
    "UPLOAD",
    "DOWNLOAD",
    "FLOW UPLOAD",
    "FLOW DOWNLOAD",
    "MAX CONN",
    "CONN RATE",
];

/// Those of [`COLUMNS`] that hold limits.
const LIMIT_COLUMNS: Range<usize> = 2..6;

/// `None`: nothing holds.
struct Row {
    cells: [Option<String>; COLUMNS.len()],
}

/// One row for the clients of a rule that have one length, longest first, and
/// the default last.
fn rows(policy: &Policy) -> Vec<Row> {
    let mut groups: BTreeMap<_, Vec<IpNet>> = BTreeMap::new();
    for (index, rule) in policy.rules.iter().enumerate() {
        for net in &rule.clients {
            // IPv4 first. Between the families there is no order.
            let key = (net.addr().is_ipv6(), u8::MAX - net.prefix_len(), index);
            groups.entry(key).or_default().push(*net);
        }
    }
    let mut rows: Vec<_> = groups
        .into_iter()
        .filter_map(|((_, _, index), nets)| Some(row(policy, policy.rules.get(index)?, &nets)))
        .collect();
    let unnamed = policy.rules.iter().filter(|rule| rule.clients.is_empty());
    rows.extend(unnamed.map(|rule| row(policy, rule, &[])));
    let mut cells = limit_cells(&policy.default, &policy.default);
    cells[0] = Some("all others".to_owned());
    cells[1] = Some("default".to_owned());
    rows.push(Row { cells });
    rows
}

fn row(policy: &Policy, rule: &Rule, nets: &[IpNet]) -> Row {
    let mut names: Vec<_> = nets
        .iter()
        .take(CLIENTS_SHOWN)
        .map(|net| display(*net))
        .collect();
    if nets.len() > CLIENTS_SHOWN {
        names.push(format!("and {} more", nets.len() - CLIENTS_SHOWN));
    }
    let mut cells = limit_cells(&policy.effective(rule), &rule.limits);
    if names.is_empty() {
        names.push("over a quota".to_owned());
    }
    cells[0] = Some(names.join("\n"));
    cells[1] = Some(rule.name.clone());
    if rule.exempt {
        cells[2] = Some("exempt".to_owned());
    } else if rule.block {
        cells[2] = Some("blocked".to_owned());
    }
    Row { cells }
}

/// The cells from upload on; marked where `own` does not name the value.
fn limit_cells(limits: &Limits, own: &Limits) -> [Option<String>; COLUMNS.len()] {
    let mark = |value: Option<String>, own: bool| {
        value.map(|value| {
            if own {
                value
            } else {
                format!("{value}{INHERITED}")
            }
        })
    };
    let limit = |limit: Option<RateLimit>, own: Option<RateLimit>| {
        let text = limit.map(|l| format!("{}{BETWEEN}{}", l.rate, Size(l.burst)));
        mark(text, own.is_some())
    };
    [
        None,
        None,
        limit(limits.upload, own.upload),
        limit(limits.download, own.download),
        limit(limits.flow_upload, own.flow_upload),
        limit(limits.flow_download, own.flow_download),
        mark(
            limits.max_connections.map(|max| max.to_string()),
            own.max_connections.is_some(),
        ),
        mark(
            limits.connection_rate.map(|rate| rate.to_string()),
            own.connection_rate.is_some(),
        ),
    ]
}

/// Without the columns that nobody uses; clients, rule and upload always.
/// Where that is too wide, the burst goes below the rate.
fn table(rows: Vec<Row>) -> Vec<String> {
    let used: Vec<usize> = (0..COLUMNS.len())
        .filter(|i| *i < 3 || rows.iter().any(|row| row.cells[*i].is_some()))
        .collect();
    let cells: Vec<Vec<String>> = rows
        .into_iter()
        .map(|mut row| {
            let cells = used.iter().map(|i| row.cells[*i].take());
            cells.map(|cell| cell.unwrap_or("-".to_owned())).collect()
        })
        .collect();
    let mut table = new_table(&used);
    table.add_rows(cells.clone());
    let width: u16 = table.column_max_content_widths().iter().sum();
    let gaps = used.len().saturating_sub(1) * usize::from(GAP);
    if usize::from(width) + gaps > usize::from(WIDTH) {
        table = new_table(&used);
        table.set_width(WIDTH);
        table.add_rows(cells.into_iter().map(|mut row| {
            for (cell, column) in row.iter_mut().zip(&used) {
                if LIMIT_COLUMNS.contains(column) {
                    *cell = cell.replace(BETWEEN, &format!("\n{BETWEEN}"));
                }
            }
            row
        }));
    }
    for (shown, column) in table.column_iter_mut().enumerate() {
        let last = shown + 1 == used.len();
        column.set_padding((0, if last { 0 } else { GAP }));
        if shown == 0 {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect()
}

fn new_table(columns: &[usize]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(columns.iter().map(|i| COLUMNS[*i]));
    table
}
