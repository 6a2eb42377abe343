//! Tables for people: at most 110 columns.

use super::matrix::{Cell, Direction, Limiter};
use super::outcome::{Outcome, misses};
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

/// Columns whose values are words.
const WORDS: [&str; 5] = ["cc", "", "worst of", "best incumbent", "best policer"];

/// A table with a head; numbers to the right.
pub fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(head.to_vec());
    for row in rows {
        table.add_row(row);
    }
    for (index, name) in head.iter().enumerate() {
        if let Some(column) = table.column_mut(index) {
            let last = index + 1 == head.len();
            column.set_padding((0, u16::from(!last)));
            if !WORDS.contains(name) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    table
        .lines()
        .map(|line| format!("  {}\n", line.trim_end()))
        .collect()
}

/// What the columns of [`cells`] are.
pub const LEGEND: &str = "
goodput  payload in percent of what the rate allows after headers, warm-up left out
1st s    bytes above rate × 1 s in the first second; 1.00 is the policy's burst and one window
peak     the same at its highest in the whole run: the limiter's real burst
again    segments sent again from the first byte on, and their percentage
wasted   percentage of segments sent that brought nothing: again, or refused on the sender's host
drops    packets that the limiter dropped, before segmentation on the sender's host
Jain     evenness of the flows, 1 is best
";

const HEAD: [&str; 13] = [
    "rate", "rtt", "is", "cc", "flows", "goodput", "1st s", "peak", "again", "%", "wasted",
    "drops", "Jain",
];

/// Every cell of one limiter and direction.
pub fn cells(limiter: Limiter, direction: Direction, outcomes: &[&Outcome]) -> String {
    let rows = outcomes.iter().map(|outcome| row(outcome)).collect();
    let mut head = HEAD.to_vec();
    head.push("");
    format!("\n{limiter}, {direction}\n{}", table(&head, rows))
}

fn row(outcome: &Outcome) -> Vec<String> {
    let Cell { conditions, .. } = outcome.cell;
    let mut row = vec![conditions.rate.to_string(), conditions.rtt.to_string()];
    match &outcome.measured {
        Some(measured) => row.push(format!("{:.2}", measured.rtt_measured_ms)),
        None => row.push(String::new()),
    }
    row.push(conditions.congestion.to_string());
    row.push(conditions.flows.to_string());
    let verdict = match outcome.valid() {
        Some(measured) => {
            row.extend([
                format!("{:.1}", measured.goodput_percent),
                format!("{:.2}", measured.first_second()),
                format!("{:.2}", measured.peak()),
                measured.retransmitted.to_string(),
                format!("{:.3}", measured.retransmitted_percent()),
                format!("{:.3}", measured.wasted_percent()),
                measured.drops.to_string(),
                format!("{:.3}", measured.jain),
            ]);
            let mut verdict = misses(&conditions, measured);
            if measured.is_saturated() {
                verdict.push("(CPU)");
            }
            verdict.join(" ")
        }
        _ => {
            row.extend(vec!["-".to_owned(); 8]);
            "void".to_owned()
        }
    };
    row.push(verdict);
    row
}
