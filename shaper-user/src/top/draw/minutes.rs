//! The history tab: a chart of each direction, a cell a minute, and what is behind
//! the minute under the cursor.

use super::areas::Areas;
use super::bars::{chart, chart_width};
use super::theme::Theme;
use super::{put, put_both};
use crate::model::{HistoryFlow, HistoryStep};
use crate::render::place;
use crate::top::state::App;
use crate::top::units;
use jiff::Timestamp;
use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Widget, Wrap};
use std::net::SocketAddr;

const MINUTE: i64 = 60;
/// Cells left of a chart.
const SCALE: u16 = 12;

/// The history tab.
pub fn minutes(buf: &mut Buffer, areas: &Areas, app: &App, theme: Theme) {
    let area = areas.heading.union(areas.rows);
    let minutes = &app.minutes;
    if let Some(why) = &minutes.why {
        return Paragraph::new(why.clone())
            .style(theme.warn())
            .wrap(Wrap { trim: true })
            .render(area, buf);
    }
    let (Some(cursor), Some(last)) = (minutes.cursor(), minutes.steps.last()) else {
        let text = "  nothing yet: a minute is kept when it is over";
        return put(buf, area, Line::styled(text, theme.dim()));
    };
    let height = (area.height.saturating_sub(4) / 4).clamp(2, 8);
    let [up, down, axis, about, flows] = Layout::vertical([
        Constraint::Length(height),
        Constraint::Length(height),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(0),
    ])
    .areas(area);
    let width = i64::try_from(chart_width(up)).unwrap_or(0);
    // The newest minute is at the right, unless the cursor would be off the left.
    let end = last.at.as_second().min(cursor + (width - 1) * MINUTE);
    let start = end - (width - 1) * MINUTE;
    let cells = |of: fn(&HistoryStep) -> Option<u64>| -> Vec<_> {
        (0..width)
            .map(|n| minutes.step(start + n * MINUTE).and_then(of))
            .collect()
    };
    let (ups, downs) = (cells(|s| s.upload.rate_bps), cells(|s| s.download.rate_bps));
    chart(buf, up, &ups, None, ("↑ a minute", theme.upload()), theme);
    chart(
        buf,
        down,
        &downs,
        None,
        ("↓ a minute", theme.download()),
        theme,
    );
    let column = u16::try_from((cursor - start) / MINUTE).unwrap_or(0) + SCALE;
    scale(buf, axis, app, (start, end), column, theme);
    put_both(
        buf,
        about,
        minute(app, cursor, theme),
        vec![Span::styled("← → minute  ↑ ↓ flows", theme.dim())],
    );
    behind(buf, flows, app, cursor, theme);
}

/// The time at both ends, and the cursor.
fn scale(
    buf: &mut Buffer,
    area: Rect,
    app: &App,
    (start, end): (i64, i64),
    column: u16,
    theme: Theme,
) {
    let line = Rect {
        x: area.x + SCALE.min(area.width),
        width: area.width.saturating_sub(SCALE),
        ..area
    };
    let ends = [start, end].map(|at| vec![Span::styled(time(app, at), theme.dim())]);
    let [left, right] = ends;
    put_both(buf, line, left, right);
    if column < area.width {
        let at = (area.x + column, area.y);
        buf[at].set_char('▲').set_style(theme.bold());
    }
}

/// The minute under the cursor in words.
fn minute(app: &App, cursor: i64, theme: Theme) -> Vec<Span<'static>> {
    let mut spans = vec![Span::styled(time(app, cursor), theme.bold())];
    let Some(step) = app.minutes.step(cursor) else {
        spans.push(Span::styled("  the daemon did not run", theme.warn()));
        return spans;
    };
    let dropped = step.upload.dropped_bytes + step.download.dropped_bytes;
    spans.extend([
        Span::styled(
            format!(
                "  ↑ {}",
                units::rate(step.upload.rate_bps.unwrap_or(0)).trim()
            ),
            theme.upload(),
        ),
        Span::styled(
            format!(
                "  ↓ {}",
                units::rate(step.download.rate_bps.unwrap_or(0)).trim()
            ),
            theme.download(),
        ),
    ]);
    if let Some(clients) = step.clients {
        spans.push(Span::raw(format!("  {} clients", units::count(clients))));
    }
    if dropped > 0 {
        let dropped = format!("  {} dropped", units::bytes(dropped).trim());
        spans.push(Span::styled(dropped, theme.warn()));
    }
    spans
}

/// The flows of the minute under the cursor.
fn behind(buf: &mut Buffer, area: Rect, app: &App, cursor: i64, theme: Theme) {
    let mut lines = area.rows();
    let heading = format!(
        " {:<29} {:<20} {:>7} {:>7} {:>5} {}",
        "FLOW", "SERVER", "UP", "DOWN", "FROM", "CLOSED"
    );
    if let Some(line) = lines.next() {
        put(buf, line, Line::styled(heading, theme.dim()));
    }
    let history = app.minutes.behind.as_ref();
    let Some(history) = history.filter(|history| history.since.as_second() == cursor) else {
        return;
    };
    if history.flows.is_empty()
        && let Some(line) = lines.next()
    {
        let text = "  no flow moved enough for a row of its own";
        put(buf, line, Line::styled(text, theme.dim()));
    }
    for (flow, line) in history.flows.iter().skip(app.minutes.offset).zip(lines) {
        put(buf, line, row(app, flow, theme));
    }
}

fn row(app: &App, flow: &HistoryFlow, theme: Theme) -> Line<'static> {
    let client = SocketAddr::new(flow.client, flow.client_port).to_string();
    let closed = if flow.closed { "closed" } else { "" };
    Line::from(vec![
        Span::raw(format!(" {} {} ", fit(&client, 29), fit(&place(flow), 20))),
        Span::styled(units::bytes(flow.upload.bytes), theme.upload()),
        Span::raw(" "),
        Span::styled(units::bytes(flow.download.bytes), theme.download()),
        Span::raw(format!(" {} ", time(app, flow.opened.as_second()))),
        Span::styled(closed, theme.dim()),
    ])
}

/// A text in just so many cells.
fn fit(text: &str, width: usize) -> String {
    let mut fitted: String = text.chars().take(width).collect();
    if text.chars().count() > width {
        fitted.pop();
        fitted.push('…');
    }
    format!("{fitted:<width$}")
}

fn time(app: &App, second: i64) -> String {
    let at = Timestamp::from_second(second).unwrap_or(Timestamp::UNIX_EPOCH);
    at.to_zoned(app.tz.clone()).strftime("%H:%M").to_string()
}
