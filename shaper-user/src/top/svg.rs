//! A picture of the dashboard: a buffer as SVG. Every viewer has other fonts,
//! so runs of text are held to their width and blocks are drawn as rectangles.

use ratatui::buffer::{Buffer, Cell};
use ratatui::style::{Color, Modifier};
use std::fmt::Write;

const WIDTH: f64 = 8.4;
const HEIGHT: f64 = 18.0;
const MARGIN: f64 = 14.0;
const GROUND: &str = "#16181d";
const TEXT: &str = "#d6dae3";

/// The picture.
pub fn svg(buf: &Buffer) -> String {
    let width = f64::from(buf.area.width) * WIDTH + 2.0 * MARGIN;
    let height = f64::from(buf.area.height) * HEIGHT + 2.0 * MARGIN;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {width:.0} {height:.0}\" shape-rendering=\"crispEdges\" font-size=\"14\" \
         font-family=\"ui-monospace,'DejaVu Sans Mono',Menlo,Consolas,monospace\">\n\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"{GROUND}\"/>\n"
    );
    for y in 0..buf.area.height {
        let mut x = 0;
        while x < buf.area.width {
            x += run(&mut out, buf, x, y);
        }
    }
    out.push_str("</svg>\n");
    out
}

/// Draws the cells from `x` on that look the same; answers how many.
fn run(out: &mut String, buf: &Buffer, x: u16, y: u16) -> u16 {
    let at = |x: u16| &buf[(buf.area.x + x, buf.area.y + y)];
    let first = at(x);
    let block = block(first);
    let same = |cell: &Cell| style(cell) == style(first) && self::block(cell) == block;
    let mut end = x + 1;
    while end < buf.area.width && same(at(end)) {
        end += 1;
    }
    let (fg, bg) = colors(first);
    let left = MARGIN + f64::from(x) * WIDTH;
    let top = MARGIN + f64::from(y) * HEIGHT;
    let width = f64::from(end - x) * WIDTH;
    if bg != GROUND {
        rect(out, (left, top, width, HEIGHT), bg, "");
    }
    let dim = if first.modifier.contains(Modifier::DIM) {
        " opacity=\"0.55\""
    } else {
        ""
    };
    if let Some((part_x, part_y)) = block {
        // Eighths from below fill whole runs; those from the left are single.
        let full = f64::from(end - x - 1) * WIDTH + WIDTH * part_x;
        let high = HEIGHT * part_y;
        rect(out, (left, top + HEIGHT - high, full, high), fg, dim);
        return end - x;
    }
    let text: String = (x..end).map(|x| at(x).symbol()).collect();
    if text.trim().is_empty() {
        return end - x;
    }
    let weight = if first.modifier.contains(Modifier::BOLD) {
        " font-weight=\"bold\""
    } else {
        ""
    };
    let base = top + HEIGHT * 0.74;
    let _ = writeln!(
        out,
        "<text x=\"{left:.1}\" y=\"{base:.1}\" textLength=\"{width:.1}\" \
         lengthAdjust=\"spacingAndGlyphs\" xml:space=\"preserve\" fill=\"{fg}\"{weight}{dim}>{}</text>",
        escape(&text)
    );
    end - x
}

fn rect(out: &mut String, (x, y, width, height): (f64, f64, f64, f64), fill: &str, more: &str) {
    let _ = writeln!(
        out,
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" \
         fill=\"{fill}\"{more}/>"
    );
}

fn style(cell: &Cell) -> (Color, Color, Modifier) {
    (cell.fg, cell.bg, cell.modifier)
}

/// The part of its cell that a block element fills: width, and height from
/// below.
fn block(cell: &Cell) -> Option<(f64, f64)> {
    let mut chars = cell.symbol().chars();
    let (Some(c), None) = (chars.next(), chars.next()) else {
        return None;
    };
    let code = u32::from(c);
    match code {
        0x2581..=0x2588 => Some((1.0, f64::from(code - 0x2580) / 8.0)),
        0x2589..=0x258f => Some((f64::from(0x2590 - code) / 8.0, 1.0)),
        _ => None,
    }
}

fn colors(cell: &Cell) -> (&'static str, &'static str) {
    let bg = match cell.bg {
        // As a ground it must be darker than as a text.
        Color::DarkGray => "#303642",
        bg => color(bg, GROUND),
    };
    let fg = color(cell.fg, TEXT);
    if cell.modifier.contains(Modifier::REVERSED) {
        (bg, fg)
    } else {
        (fg, bg)
    }
}

/// The sixteen colours; those of the picture's own scheme.
fn color(color: Color, or: &'static str) -> &'static str {
    match color {
        Color::Black => GROUND,
        Color::Red | Color::LightRed => "#e8646a",
        Color::Green | Color::LightGreen => "#7cc77b",
        Color::Yellow | Color::LightYellow => "#e0b45c",
        Color::Blue | Color::LightBlue => "#6aa1e8",
        Color::Magenta | Color::LightMagenta => "#c58be0",
        Color::Cyan | Color::LightCyan => "#5fc3c9",
        Color::Gray | Color::White => TEXT,
        Color::DarkGray => "#6b7280",
        _ => or,
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::layout::Rect;
    use ratatui::style::Style;

    #[test]
    fn a_buffer_becomes_a_picture() {
        let mut buf = Buffer::empty(Rect::new(0, 0, 12, 2));
        buf.set_string(0, 0, "a<b & c", Style::new().fg(Color::Cyan));
        buf.set_string(8, 0, "██▌", Style::new().fg(Color::Green));
        buf.set_string(0, 1, "BLOCK", Style::new().add_modifier(Modifier::REVERSED));
        insta::assert_snapshot!(svg(&buf));
    }
}
