//! Bars, sparklines and charts out of the block elements (U+2581 and on).

pub use crate::render::spark::sparkline;

use crate::render::spark::{EIGHTHS, part};
use crate::top::draw::theme::Theme;
use crate::top::units;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::Span;

const LEFT: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];

/// A bar of `percent` in `width` cells, and the rest of its ground.
pub fn bar(percent: u64, width: usize, theme: Theme) -> [Span<'static>; 2] {
    let eighths = part(percent, 100, width as u64 * 8);
    let mut text = "█".repeat(eighths / 8);
    if !eighths.is_multiple_of(8) {
        text.push(LEFT[eighths % 8]);
    }
    let rest = "·".repeat(width - text.chars().count());
    [
        Span::styled(text, theme.percent(percent)),
        Span::styled(rest, theme.dim()),
    ]
}

/// A chart of one direction over time: its scale and label on the left, the limit as a dotted
/// line. `cells` are as wide as [`chart_width`] says.
pub fn chart(
    buf: &mut Buffer,
    area: Rect,
    cells: &[Option<u64>],
    limit: Option<u64>,
    (label, style): (&'static str, Style),
    theme: Theme,
) {
    let plot = chart_area(area);
    if plot.width == 0 || plot.height == 0 {
        return;
    }
    let peak = cells.iter().flatten().copied().max().unwrap_or(0);
    // The limit has its place even when nothing comes near it, unless that
    // would press the rest flat.
    let shown = limit.filter(|limit| limit / 4 <= peak || peak == 0);
    let top = round_up(peak.max(shown.unwrap_or(0)));
    buf.set_stringn(area.x, area.y, units::rate(top), 11, theme.dim());
    if plot.height > 2 {
        buf.set_stringn(area.x, area.y + 1, label, 11, style);
    }
    if plot.height > 1 {
        let bottom = area.bottom() - 1;
        buf.set_stringn(area.x, bottom, format!("{:>11}", "0"), 11, theme.dim());
    }
    let steps = u64::from(plot.height) * 8;
    let limit_row = shown.map(|limit| {
        let eighths = part(limit, top, steps).max(1) - 1;
        u16::try_from(eighths / 8).unwrap_or(0)
    });
    for row in 0..plot.height {
        let y = plot.bottom() - 1 - row;
        for (x, cell) in (plot.x..plot.right()).zip(cells) {
            let filled = cell.map_or(0, |n| part(n, top, steps));
            let here = filled.saturating_sub(usize::from(row) * 8).min(8);
            if here > 0 {
                buf[(x, y)].set_char(EIGHTHS[here]).set_style(style);
            } else if limit_row == Some(row) {
                buf[(x, y)].set_char('┄').set_style(theme.dim());
            }
        }
    }
}

/// Samples that fit into a chart of this area.
pub fn chart_width(area: Rect) -> usize {
    usize::from(chart_area(area).width)
}

fn chart_area(area: Rect) -> Rect {
    Rect {
        x: area.x + 12.min(area.width),
        width: area.width.saturating_sub(12),
        ..area
    }
}

/// The next round number: a scale that seldom changes.
fn round_up(n: u64) -> u64 {
    let n = n.max(1_000);
    let mut tenth = 100_u64;
    while tenth.saturating_mul(100) < n {
        tenth = tenth.saturating_mul(10);
    }
    [10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100]
        .into_iter()
        .map(|step| tenth.saturating_mul(step))
        .find(|scale| *scale >= n)
        .unwrap_or(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_traffic_and_gaps_differ() {
        let cells = [None, Some(0), Some(1), Some(500), Some(1000)];
        assert_eq!(sparkline(&cells), " ▁▂▄▇");
        assert_eq!(sparkline(&[Some(0), Some(0)]), "▁▁");
    }

    #[test]
    fn bars_have_their_width_whatever_the_percent() {
        let theme = Theme::new(true);
        for percent in [0, 1, 49, 50, 99, 100, 250] {
            let [full, rest] = bar(percent, 8, theme);
            assert_eq!(full.width() + rest.width(), 8, "{percent}");
        }
        assert_eq!(bar(0, 4, theme)[0].content, "");
        assert_eq!(bar(50, 4, theme)[0].content, "██");
        assert_eq!(bar(100, 4, theme)[1].content, "");
    }

    #[test]
    fn scales_are_round() {
        for (n, scale) in [
            (0, 1_000),
            (1_000, 1_000),
            (11_000_000, 12_000_000),
            (650_000, 800_000),
            (801_000, 1_000_000),
            (8_000_000, 8_000_000),
            (u64::MAX, u64::MAX),
        ] {
            assert_eq!(round_up(n), scale);
        }
    }

    #[test]
    fn a_chart_shows_its_limit() {
        let area = Rect::new(0, 0, 18, 4);
        let mut buf = Buffer::empty(area);
        let cells = [
            None,
            Some(0),
            Some(2_000),
            Some(4_000),
            Some(8_000),
            Some(4_000),
        ];
        chart(
            &mut buf,
            area,
            &cells,
            Some(6_000),
            ("↑ last 60 s", Style::new()),
            Theme::new(false),
        );
        insta::assert_snapshot!(super::super::text(&buf), @r"
        8.00 kbit/s     █
        ↑ last 60 s ┄┄┄┄█┄
                       ███
                  0   ████
        ");
    }
}
