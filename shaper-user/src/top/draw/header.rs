//! The lines above the table.

use super::bars::sparkline;
use super::theme::Theme;
use super::{put, put_both};
use crate::top::state::history::Rates;
use crate::top::state::list::List;
use crate::top::state::row::Row;
use crate::top::state::{App, Tab};
use crate::top::units;
use jiff::Timestamp;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Style};
use ratatui::text::{Line, Span};

/// Widest sparkline of the totals: a cell a second.
const TOTALS: u16 = 60;
/// What stands left and right of it.
const BESIDE_TOTALS: u16 = 21 + 30;

/// Mode and interfaces, then the totals of each direction.
pub fn header(buf: &mut Buffer, area: Rect, app: &App, theme: Theme) {
    let mut lines = area.rows();
    let mut left = vec![Span::styled("shaper ", theme.bold())];
    left.extend(mode(app, theme));
    left.extend(interfaces(app, theme));
    let mut right = Vec::new();
    if let Some(status) = &app.status {
        let up = app.now.duration_since(status.since).as_millis().max(0);
        let up = units::duration(u64::try_from(up).unwrap_or(0));
        right.push(Span::styled(format!("running {up}  "), theme.dim()));
    }
    right.push(Span::raw(clock(app, app.now)));
    if let Some(line) = lines.next() {
        put_both(buf, line, left, right);
    }
    let (flows, clients, limited, up, down) = app.status.as_ref().map_or((0, 0, 0, 0, 0), |s| {
        let (up, down) = (s.upload.rate_bps, s.download.rate_bps);
        (s.flows, s.clients, s.limited, up, down)
    });
    let label = if app.observing() {
        "over a limit now"
    } else {
        "limited now"
    };
    let limited_style = if limited > 0 {
        theme.bad()
    } else {
        theme.dim()
    };
    let counts = vec![
        Span::raw(format!("{} clients  ", units::count(clients))),
        Span::raw(format!("{} flows", units::count(flows))),
    ];
    let held = vec![Span::styled(
        format!("{} {label}", units::count(limited)),
        limited_style,
    )];
    if let Some(line) = lines.next() {
        let total = (up, theme.upload());
        totals(buf, line, app, "↑ up  ", total, |r| r[0], counts);
    }
    if let Some(line) = lines.next() {
        let total = (down, theme.download());
        totals(buf, line, app, "↓ down", total, |r| r[1], held);
    }
}

fn totals(
    buf: &mut Buffer,
    line: Rect,
    app: &App,
    label: &'static str,
    (rate, style): (u64, Style),
    of: impl Fn(Rates) -> u64,
    right: Vec<Span>,
) {
    let width = line.width.saturating_sub(BESIDE_TOTALS).clamp(6, TOTALS);
    let cells = app.totals.cells(usize::from(width), of);
    let left = vec![
        Span::raw(label),
        Span::raw(" "),
        Span::styled(units::rate(rate), style),
        Span::raw("  "),
        Span::styled(sparkline(&cells), style),
    ];
    put_both(buf, line, left, right);
}

fn mode(app: &App, theme: Theme) -> Vec<Span<'static>> {
    let Some(status) = &app.status else {
        return vec![Span::styled("waiting for the daemon", theme.dim())];
    };
    match status.mode.as_str() {
        "enforce" => vec![Span::styled("enforce", theme.good())],
        "observe" => vec![Span::styled(
            " OBSERVE: nothing is limited ",
            theme.loud(Color::Yellow),
        )],
        other => vec![Span::styled(other.to_owned(), theme.warn())],
    }
}

fn interfaces(app: &App, theme: Theme) -> Vec<Span<'static>> {
    let interfaces = app.status.iter().flat_map(|s| &s.interfaces);
    interfaces
        .flat_map(|interface| {
            let name = Span::raw(format!("  {}", interface.name));
            let state = if interface.state == "attached" {
                let how = [&interface.ingress, &interface.xdp];
                let how: Vec<_> = how.into_iter().flatten().cloned().collect();
                Span::styled(format!(" {}", how.join("+xdp-")), theme.dim())
            } else {
                Span::styled(format!(" {}!", interface.state.to_uppercase()), theme.bad())
            };
            [name, state]
        })
        .collect()
}

/// What the daemon says is wrong.
pub fn warning(buf: &mut Buffer, area: Rect, app: &App, theme: Theme) {
    let Some((first, more)) = app.status.as_ref().and_then(|s| s.warnings.split_first()) else {
        return;
    };
    let more = match more.len() {
        0 => String::new(),
        n => format!("(and {n} more: shaper status) "),
    };
    put(
        buf,
        area,
        Line::styled(format!("! {more}{first}"), theme.warn()),
    );
}

/// The daemon does not answer: since when, why, and what is done about it.
pub fn gone(buf: &mut Buffer, area: Rect, app: &App, theme: Theme) {
    let Some(gone) = &app.gone else {
        return;
    };
    let since = |from: Timestamp, to: Timestamp| {
        u64::try_from(to.duration_since(from).as_millis()).unwrap_or(0)
    };
    let old = match app.status {
        Some(_) => "  numbers below are old",
        None => "",
    };
    let style = theme.loud(Color::Red);
    buf.set_style(area, style);
    let text = format!(
        " DAEMON GONE since {} ({}){old}  next try in {}s",
        clock(app, gone.since),
        units::duration(since(gone.since, app.now)),
        since(app.now, gone.again).div_ceil(1000),
    );
    let mut lines = area.rows();
    for text in [text, format!(" {}", gone.why)] {
        if let Some(line) = lines.next() {
            put(buf, line, Line::styled(text, style));
        }
    }
}

/// The tabs, and how the open one is sorted and filtered.
pub fn tabs(buf: &mut Buffer, area: Rect, app: &App, theme: Theme) {
    let mut left = Vec::new();
    for (n, tab) in Tab::ALL.into_iter().enumerate() {
        let style = if tab == app.tab {
            theme.open()
        } else {
            theme.dim()
        };
        let mark = if tab == app.tab { '[' } else { ' ' };
        let end = if tab == app.tab { ']' } else { ' ' };
        left.push(Span::styled(
            format!("{mark}{} {}{end}", n + 1, tab.title()),
            style,
        ));
    }
    let mut right = match app.tab {
        Tab::Clients => describe(&app.clients, app, theme),
        Tab::Flows => describe(&app.flows, app, theme),
        Tab::Servers => describe(&app.servers, app, theme),
        Tab::History => Vec::new(),
    };
    // The columns say how it is sorted, too; that it is frozen nothing else does.
    let width = |spans: &[Span]| spans.iter().map(Span::width).sum::<usize>();
    while right.len() > 1 && width(&left) + width(&right) >= usize::from(area.width) {
        right.pop();
    }
    put_both(buf, area, left, right);
}

fn describe<R: Row>(list: &List<R>, app: &App, theme: Theme) -> Vec<Span<'static>> {
    let mut parts = Vec::new();
    if app.frozen.is_some() {
        parts.push(Span::styled(" FROZEN ", theme.loud(Color::Yellow)));
        parts.push(Span::raw("  "));
    }
    if !list.filter.is_empty() {
        parts.push(Span::styled(
            format!("filter {}", list.filter),
            theme.bold(),
        ));
        parts.push(Span::raw("  "));
    }
    let shown = list.items.len() as u64;
    if list.matched > shown {
        let (shown, all) = (units::count(shown), units::count(list.matched));
        parts.push(Span::raw(format!("first {shown} of {all}  ")));
    }
    let reverse = if list.reverse { " reversed" } else { "" };
    parts.push(Span::raw(format!(
        "sorted by {}{reverse}",
        R::order(list.sort)
    )));
    parts
}

/// The time of day where the operator is.
pub fn clock(app: &App, at: Timestamp) -> String {
    at.to_zoned(app.tz.clone()).strftime("%H:%M:%S").to_string()
}
