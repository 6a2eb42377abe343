//! What benchmarks through HAProxy report in the same way.

use crate::haproxy::Installed;
use anyhow::{Context, Result};
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ContentArrangement, Table};
use serde_json::Value;
use std::path::Path;

/// The share of an IP packet that is payload: 1500 bytes, less 40 of headers
/// and 12 of timestamps.
pub const PAYLOAD: f64 = 1448.0 / 1500.0;

/// Why nothing was measured of HAProxy's own limit.
#[must_use]
pub fn no_bwlim(haproxy: &Installed) -> String {
    format!(
        "not measured: HAProxy {}.{} has no bwlim (2.7 and newer have; `cargo xtask setup --haproxy3`)",
        haproxy.branch.0, haproxy.branch.1
    )
}

/// A table whose columns are numbers, but for the first.
#[must_use]
pub fn table(header: &[&str], rows: Vec<Vec<String>>) -> Table {
    let mut table = Table::new();
    table
        .load_style(NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if index > 0 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// A line that says whether something that must be so is so.
#[must_use]
pub fn line(held: bool, text: &str) -> String {
    format!("{:<7} {text}", if held { "ok" } else { "MISSED" })
}

/// Writes the results, where a file was asked for.
///
/// # Errors
/// When it cannot be written.
pub fn write_json(file: Option<&Path>, value: &Value) -> Result<()> {
    let Some(file) = file else {
        return Ok(());
    };
    std::fs::write(file, format!("{value:#}\n"))
        .with_context(|| format!("cannot write {}", file.display()))
}
