//! Columns of the width of their widest cell. A screen's worth and 100,000 rows
//! alike: the general table crates measure and wrap every cell several times.

use anstyle::Style;
use std::io::{self, Write};
use unicode_width::UnicodeWidthStr;

/// Where a column's text stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// A row, and how it is set off.
pub(super) struct Row {
    pub cells: Vec<String>,
    pub style: Style,
}

const HEADER: Style = Style::new().bold();
/// Wider than this with two spaces between columns, a table has one.
const NARROW: usize = 80;

/// Writes header and rows. A column without any text is left out.
///
/// Where the table is wider than `width`, one of the columns named `spare` goes:
/// the first without which it fits, else the last.
pub(super) fn write(
    out: &mut dyn Write,
    columns: &[(&str, Align)],
    rows: &[Row],
    width: Option<u16>,
    spare: &[&str],
) -> io::Result<()> {
    let mut widths = vec![0; columns.len()];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(&row.cells) {
            *width = (*width).max(cell.width());
        }
    }
    for (width, (title, _)) in widths.iter_mut().zip(columns) {
        // Without rows the header alone says what there would be.
        if *width > 0 || rows.is_empty() {
            *width = (*width).max(title.width());
        }
    }
    if let Some(room) = width.map(usize::from)
        && needed(&widths, 1) > room
    {
        let places = spare
            .iter()
            .filter_map(|spare| columns.iter().position(|(title, _)| title == spare));
        let without = |place: usize| {
            let mut widths = widths.clone();
            widths[place] = 0;
            widths
        };
        let mut left: Vec<_> = places.map(without).collect();
        if let Some(place) = left.iter().position(|widths| needed(widths, 1) <= room) {
            left.truncate(place + 1);
        }
        widths = left.pop().unwrap_or(widths);
    }
    let wide = needed(&widths, 2) > NARROW;
    let gap = if wide { 1 } else { 2 };
    let titles: Vec<String> = columns
        .iter()
        .map(|(title, _)| (*title).to_owned())
        .collect();
    line(out, columns, &widths, gap, &titles, HEADER)?;
    for row in rows {
        line(out, columns, &widths, gap, &row.cells, row.style)?;
    }
    Ok(())
}

/// Cells of a line with such gaps between its columns.
fn needed(widths: &[usize], gap: usize) -> usize {
    let shown = widths.iter().filter(|width| **width > 0).count();
    widths.iter().sum::<usize>() + gap * shown.saturating_sub(1)
}

fn line(
    out: &mut dyn Write,
    columns: &[(&str, Align)],
    widths: &[usize],
    gap: usize,
    cells: &[String],
    style: Style,
) -> io::Result<()> {
    let mut text = String::new();
    for (((_, align), width), cell) in columns.iter().zip(widths).zip(cells) {
        if *width == 0 {
            continue;
        }
        if !text.is_empty() {
            text.extend(std::iter::repeat_n(' ', gap));
        }
        let pad = std::iter::repeat_n(' ', width - cell.width().min(*width));
        if *align == Align::Right {
            text.extend(pad);
            text.push_str(cell);
        } else {
            text.push_str(cell);
            text.extend(pad);
        }
    }
    writeln!(out, "{style}{}{style:#}", text.trim_end())
}
