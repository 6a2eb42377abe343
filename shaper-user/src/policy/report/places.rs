//! The tables of limits by place.

use super::super::client::display;
use super::super::{Mode, PlaceRule, Policy, Rate, ServerLimit};
use super::{CLIENTS_SHOWN, GAP, WIDTH, list};
use comfy_table::{ColumnConstraint, ContentArrangement, Table, presets};
use shaper_common::flow::{DOWNLOAD, UPLOAD};
use std::fmt::Write;

const UP: usize = UPLOAD as usize;
const DOWN: usize = DOWNLOAD as usize;

/// Both tables, with what they mean; empty where the policy has none.
pub(super) fn places(policy: &Policy) -> String {
    let mut text = String::new();
    if !policy.places.is_empty() {
        let header = [
            "AT",
            "CLIENTS",
            "RULE",
            "UPLOAD",
            "DOWNLOAD",
            "FLOW UPLOAD",
            "FLOW DOWNLOAD",
        ];
        // Infallible for a String, as below.
        let _ = writeln!(text, "\nOf each client, where HAProxy sends it:\n");
        text.push_str(&table(&header, policy.places.iter().map(place).collect()));
        text.push_str(
            "\nThis comes on top of the limits above, and the tighter holds. Of several rules\n\
             one that names the server holds, then the longest prefix, then the first.\n",
        );
    }
    if !policy.server_limits.is_empty() {
        let header = ["SERVER", "UPLOAD", "DOWNLOAD", "SHARE OF ONE CLIENT"];
        let rows = policy.server_limits.iter().map(server).collect();
        let _ = writeln!(text, "\nOf all clients of a server together:\n");
        text.push_str(&table(&header, rows));
    }
    if !text.is_empty() && policy.rules.iter().any(|rule| rule.exempt) {
        text.push_str("\nWho is exempt is not held there; what they take counts.\n");
    }
    if !text.is_empty() && policy.mode == Mode::Observe {
        text.push_str("\nNone of it holds while the policy only observes.\n");
    }
    text
}

fn place(rule: &PlaceRule) -> Vec<String> {
    let servers = rule.servers.iter();
    let servers = servers.map(|(backend, server)| format!("{backend}/{server}"));
    let at = rule.backends.iter().cloned().chain(servers);
    let clients = rule.clients.iter().map(|net| display(*net));
    let clients = if rule.clients.is_empty() {
        "all".to_owned()
    } else {
        some(clients)
    };
    vec![
        some(at),
        clients,
        rule.name.clone(),
        rate(rule.client[UP]),
        rate(rule.client[DOWN]),
        rate(rule.flow[UP]),
        rate(rule.flow[DOWN]),
    ]
}

fn server(limit: &ServerLimit) -> Vec<String> {
    let (backend, server) = &limit.server;
    vec![
        format!("{backend}/{server}"),
        rate(limit.cap[UP]),
        rate(limit.cap[DOWN]),
        limit.share.map_or("-".to_owned(), |share| {
            format!(
                "{}% above {}",
                f64::from(share.millionths) / 10_000.0,
                share.above
            )
        }),
    ]
}

/// One a line; where there are many, the others are counted.
fn some(names: impl Iterator<Item = String>) -> String {
    let mut names: Vec<_> = names.collect();
    if names.len() > CLIENTS_SHOWN {
        let more = names.len() - CLIENTS_SHOWN;
        names.truncate(CLIENTS_SHOWN);
        names.push(format!("and {more} more"));
    }
    list(names).replace(", ", "\n")
}

fn rate(rate: Option<Rate>) -> String {
    rate.map_or("-".to_owned(), |rate| rate.to_string())
}

/// Without the columns that nobody uses.
pub(super) fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let used: Vec<usize> = (0..header.len())
        .filter(|column| rows.iter().any(|row| row[*column] != "-"))
        .collect();
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(used.iter().map(|column| header[*column]));
    for row in &rows {
        table.add_row(used.iter().map(|column| &row[*column]));
    }
    let width: u16 = table.column_max_content_widths().iter().sum();
    let gaps = used.len().saturating_sub(1) * usize::from(GAP);
    if usize::from(width) + gaps > usize::from(WIDTH) {
        table.set_width(WIDTH);
    }
    for (shown, column) in table.column_iter_mut().enumerate() {
        let last = shown + 1 == used.len();
        column.set_padding((0, if last { 0 } else { GAP }));
        // Names are not broken.
        if shown < 3 {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    let mut text = String::new();
    for line in table.lines() {
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}
