//! The detail pane: one client, its history, its flows.

mod flows;

use super::bars::{bar, chart, chart_width};
use super::cells::{held, percent};
use super::theme::Theme;
use super::{header, put, put_both};
use crate::model::{Client, Flow, Limited, Quota};
use crate::render;
use crate::top::state::{App, Pane};
use crate::top::units;
use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Widget};

/// Draws it.
pub fn pane(buf: &mut Buffer, area: Rect, app: &App, theme: Theme) {
    let Some(pane) = &app.pane else {
        return;
    };
    let title = format!(" {} ", pane.key.name);
    let block = Block::new()
        .borders(Borders::TOP)
        .border_style(theme.border())
        .title(Span::styled(
            title,
            theme.bold().remove_modifier(Modifier::DIM),
        ));
    let inside = block.inner(area);
    block.render(area, buf);
    let Some(client) = &pane.client else {
        let text = "the daemon does not know this client any more, or has not answered yet";
        return put(buf, inside, Line::styled(text, theme.dim()));
    };
    // The flows have what the chart leaves; the chart is there if it can say
    // something.
    let chart_height = match inside.height {
        0..8 => 0,
        8..14 => 3,
        14..22 => 5,
        _ => 8,
    };
    let haproxy = app.pane_flow().filter(|flow| flow.haproxy.is_some());
    let [facts, at_server, charts, flows] = Layout::vertical([
        Constraint::Length(3 + u16::from(client.quota.is_some())),
        Constraint::Length(u16::from(haproxy.is_some())),
        Constraint::Length(chart_height),
        Constraint::Min(0),
    ])
    .areas(inside);
    self::facts(buf, facts, client, app, theme);
    if let Some(flow) = haproxy {
        put(buf, at_server, self::haproxy(flow, at_server.width, theme));
    }
    self::charts(buf, charts, client, pane, app, theme);
    flows::flows(buf, flows, pane, theme);
}

fn facts(buf: &mut Buffer, area: Rect, client: &Client, app: &App, theme: Theme) {
    let mut lines = area.rows();
    let mut first = vec![Span::raw(format!(
        "rule {}   {} connection{}   known for {}   last packet {} ago   ",
        client.rule,
        units::count(client.connections),
        if client.connections == 1 { "" } else { "s" },
        units::duration(client.age_ms),
        units::duration(client.idle_ms)
    ))];
    if client.blocked || client.exempt {
        first.extend(held(client, app.observing(), theme));
    }
    if let Some(line) = lines.next() {
        put_both(buf, line, first, runtime(client, app));
    }
    let ways = [
        (("↑ up  ", theme.upload()), &client.upload),
        (("↓ down", theme.download()), &client.download),
    ];
    for (label, way) in ways {
        if let Some(line) = lines.next() {
            put(buf, line, direction(label, way, line.width, app, theme));
        }
    }
    if let (Some(quota), Some(line)) = (&client.quota, lines.next()) {
        put(buf, line, self::quota(quota, app, line.width, theme));
    }
}

/// What it has used of its quota, as a bar and in numbers.
fn quota(quota: &Quota, app: &App, width: u16, theme: Theme) -> Line<'static> {
    let percent = render::quota::percent(quota);
    let [full, rest] = bar(percent, 20, theme);
    let mut spans = vec![
        Span::raw("quota  "),
        full,
        rest,
        Span::styled(format!(" {percent:>3}%"), theme.percent(percent)),
        Span::raw(format!(" {} of {}", size(quota.used), size(quota.bytes))),
        Span::raw(format!(" per {}", quota.per)),
    ];
    if let (Some(at), Some(status)) = (quota.resets_at, &app.status) {
        let left = render::quota::left(at, status.at);
        spans.push(Span::raw(format!("  resets in {left}")));
    }
    let then = match (quota.then.as_str(), quota.state.as_str()) {
        ("block", "reached") => "  blocked by it".to_owned(),
        (rule, "reached") => format!("  held as rule {rule}"),
        ("block", _) => "  then blocked".to_owned(),
        (rule, _) => format!("  then rule {rule}"),
    };
    spans.push(Span::raw(then));
    whole(spans, usize::from(width))
}

/// What was set at runtime, and until when.
fn runtime(client: &Client, app: &App) -> Vec<Span<'static>> {
    let Some(runtime) = &client.runtime else {
        return Vec::new();
    };
    let until = |what: &str, end: Option<jiff::Timestamp>| {
        let end = end.map_or_else(
            || "until cleared".to_owned(),
            |end| format!("until {}", header::clock(app, end)),
        );
        format!("{what} set at runtime, {end}")
    };
    let mut parts = Vec::new();
    if runtime.upload_bps.is_some() || runtime.download_bps.is_some() {
        parts.push(until("* limit", runtime.limit_expires));
    }
    if runtime.blocked {
        parts.push(until("block", runtime.block_expires));
    }
    vec![Span::raw(parts.join("; "))]
}

/// The numbers of one direction, the most urgent first; what has no room is
/// left out whole.
fn direction(
    (label, style): (&'static str, Style),
    way: &Limited,
    width: u16,
    app: &App,
    theme: Theme,
) -> Line<'static> {
    let rate = way.traffic.rate_bps;
    let mut spans = vec![
        Span::raw(label),
        Span::raw(" "),
        Span::styled(units::rate(rate), style),
    ];
    if let Some(limit) = way.limit_bps {
        let percent = percent(rate, limit);
        let of = units::rate(limit);
        spans.push(Span::raw(format!(" of {}", of.trim_start())));
        let number = format!(" {:>3}%", percent.min(999));
        spans.push(Span::styled(number, theme.percent(percent)));
    } else {
        spans.push(Span::styled(" no limit", theme.dim()));
    }
    let time = units::duration(way.limited_ms);
    match (way.limited, app.observing()) {
        (true, true) => spans.push(Span::styled(format!("  over {time}"), theme.warn())),
        (true, false) => spans.push(Span::styled(format!("  held {time}"), theme.bad())),
        (false, _) if way.limited_ms > 0 => {
            spans.push(Span::styled(format!("  was held {time}"), theme.dim()));
        }
        (false, _) => {}
    }
    let (dropped, total) = (way.traffic.dropped_bytes, way.traffic.bytes);
    spans.push(Span::raw(format!("  dropped {}", size(dropped))));
    spans.push(Span::raw(format!("  total {}", size(total))));
    if let Some(burst) = way.burst_bytes {
        spans.push(Span::styled(
            format!("  burst {}", size(burst)),
            theme.dim(),
        ));
    }
    whole(spans, usize::from(width))
}

/// The spans from the left that have room.
fn whole(mut spans: Vec<Span<'static>>, width: usize) -> Line<'static> {
    while spans.iter().map(Span::width).sum::<usize>() > width {
        spans.pop();
    }
    Line::from(spans)
}

/// Where HAProxy sends one flow.
fn haproxy(flow: &Flow, width: u16, theme: Theme) -> Line<'static> {
    let Some(at) = &flow.haproxy else {
        return Line::default();
    };
    let mut spans = vec![
        Span::raw(format!(":{} → ", flow.client_port)),
        Span::styled(format!("{}/{}", at.backend, at.server), theme.bold()),
    ];
    if at.stale {
        spans.push(Span::styled("  stale", theme.warn()));
    }
    spans.extend([
        Span::raw(format!("  frontend {}", at.frontend)),
        Span::raw(format!("  session {}", at.session)),
        Span::raw(format!("  worker {}", at.worker_pid)),
    ]);
    whole(spans, usize::from(width))
}

/// A size within a line, where no column has to hold.
fn size(bytes: u64) -> String {
    let text = units::bytes(bytes);
    let words: Vec<_> = text.split_whitespace().collect();
    words.join(" ")
}

fn charts(buf: &mut Buffer, area: Rect, client: &Client, pane: &Pane, app: &App, theme: Theme) {
    let Some(past) = app.clients.past.get(&pane.key) else {
        return;
    };
    let [left, _, right] = Layout::horizontal([
        Constraint::Fill(1),
        Constraint::Length(1),
        Constraint::Fill(1),
    ])
    .areas(area);
    let cells = past.cells(chart_width(left), |r| r[0]);
    let limit = client.upload.limit_bps;
    chart(
        buf,
        left,
        &cells,
        limit,
        ("↑ last 60 s", theme.upload()),
        theme,
    );
    let cells = past.cells(chart_width(right), |r| r[1]);
    let limit = client.download.limit_bps;
    chart(
        buf,
        right,
        &cells,
        limit,
        ("↓ last 60 s", theme.download()),
        theme,
    );
}
