//! Columns of the width of their widest cell. A screen's worth and 100,000 rows
//! alike: the general table crates measure and wrap every cell several times.

use anstyle::Style;
use std::borrow::Cow;
use std::io::{self, Write};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

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
/// A text is cut to no less.
const TEXT_MIN: usize = 8;

/// Writes header and rows. A column without any text is left out.
///
/// Where the table is wider than `width`, columns named in `spare` go: the first
/// without which it fits, else as many in their order as it takes. What is too wide
/// then loses the ends of its longest texts.
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
    if let Some(room) = width.map(usize::from) {
        fit(&mut widths, columns, room, spare);
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

/// Makes a table of these columns fit into so many cells, as far as it can be.
fn fit(widths: &mut [usize], columns: &[(&str, Align)], room: usize, spare: &[&str]) {
    let drop = |widths: &mut [usize], name: &str| {
        for (width, _) in widths
            .iter_mut()
            .zip(columns)
            .filter(|(_, (title, _))| *title == name)
        {
            *width = 0;
        }
    };
    if needed(widths, 1) <= room {
        return;
    }
    let alone = spare.iter().find(|name| {
        let mut without = widths.to_vec();
        drop(&mut without, name);
        needed(&without, 1) <= room
    });
    match alone {
        Some(name) => drop(widths, name),
        None => {
            for name in spare {
                if needed(widths, 1) <= room {
                    return;
                }
                drop(widths, name);
            }
        }
    }
    // Numbers stay whole.
    while needed(widths, 1) > room {
        let longest = widths
            .iter_mut()
            .zip(columns)
            .filter(|(width, (_, align))| *align == Align::Left && **width > TEXT_MIN)
            .map(|(width, _)| width)
            .max();
        match longest {
            Some(width) => *width -= 1,
            None => return,
        }
    }
}

/// A text in so many cells; what does not fit ends with an ellipsis.
fn cut(text: &str, width: usize) -> Cow<'_, str> {
    if text.width() <= width {
        return text.into();
    }
    let mut cells = 1;
    let kept = text.chars().take_while(|c| {
        cells += c.width().unwrap_or(0);
        cells <= width
    });
    let mut kept: String = kept.collect();
    kept.push('…');
    kept.into()
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
        let cell = cut(cell, *width);
        let pad = std::iter::repeat_n(' ', width - cell.width().min(*width));
        if *align == Align::Right {
            text.extend(pad);
            text.push_str(&cell);
        } else {
            text.push_str(&cell);
            text.extend(pad);
        }
    }
    writeln!(out, "{style}{}{style:#}", text.trim_end())
}
