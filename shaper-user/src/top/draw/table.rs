//! The tables of the tabs.

use super::areas::Areas;
use super::columns::{self, Placed, What};
use super::theme::Theme;
use super::{cells, put};
use crate::protocol::SortKey;
use crate::render;
use crate::top::state::App;
use crate::top::state::list::{Item, List};
use crate::top::state::row::Row;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Clear, Padding, Paragraph, Widget, Wrap};

/// The clients tab.
pub fn clients(buf: &mut Buffer, areas: &Areas, app: &App, theme: Theme) {
    let list = &app.clients;
    let rule = longest(list, areas, |row| row.rule.chars().count());
    let quota = visible(list, areas).any(|item| item.row.quota.is_some());
    let placed = columns::place(
        columns::clients(narrow(list.widest), rule, quota),
        room(areas),
    );
    let observing = app.observing();
    table(buf, areas, list, &placed, theme, |item, at| {
        match (at.column.what, app.status.as_ref()) {
            (What::Quota, Some(status)) => cells::quota(&item.row, at, status.at, theme),
            _ => cells::client(&item.row, list.past.get(&item.key), at, observing, theme),
        }
    });
}

/// The flows tab.
pub fn flows(buf: &mut Buffer, areas: &Areas, app: &App, theme: Theme) {
    let list = &app.flows;
    let rule = longest(list, areas, |row| row.rule.chars().count());
    let server = longest(list, areas, |row| {
        row.haproxy
            .as_ref()
            .map_or(0, |at| cells::place(at).chars().count())
    });
    let columns = columns::flows(narrow(list.widest), rule, server);
    let placed = columns::place(columns, room(areas));
    table(buf, areas, list, &placed, theme, |item, at| {
        cells::flow(&item.row, &item.key, list.past.get(&item.key), at, theme)
    });
}

/// The servers tab.
pub fn servers(buf: &mut Buffer, areas: &Areas, app: &App, theme: Theme) {
    let list = &app.servers;
    let top = longest(list, areas, |row| {
        row.top_client.as_ref().map_or(0, String::len)
    });
    let columns = columns::servers(narrow(list.widest), top);
    let placed = columns::place(columns, room(areas));
    table(buf, areas, list, &placed, theme, |item, at| {
        let backend = app
            .backends
            .iter()
            .find(|backend| backend.backend == item.row.backend);
        cells::server(&item.row, backend, list.past.get(&item.key), at, theme)
    });
    if let (true, true, Some(status)) = (list.items.is_empty(), list.filter.is_empty(), &app.status)
    {
        let why = render::why_none(&status.haproxy, "");
        Clear.render(areas.rows, buf);
        Paragraph::new(why)
            .style(theme.dim())
            .wrap(Wrap { trim: true })
            .block(Block::new().padding(Padding::horizontal(2)))
            .render(areas.rows, buf);
    }
}

/// The first cell is the cursor's.
fn room(areas: &Areas) -> u16 {
    areas.rows.width.saturating_sub(1)
}

fn narrow(n: usize) -> u16 {
    u16::try_from(n).unwrap_or(u16::MAX).min(48)
}

fn visible<'a, R: Row>(list: &'a List<R>, areas: &Areas) -> impl Iterator<Item = &'a Item<R>> {
    list.items.iter().skip(list.offset).take(areas.page())
}

fn longest<R: Row>(list: &List<R>, areas: &Areas, of: impl Fn(&R) -> usize) -> u16 {
    let longest = visible(list, areas).map(|item| of(&item.row)).max();
    narrow(longest.unwrap_or(0)).min(24)
}

fn table<R: Row>(
    buf: &mut Buffer,
    areas: &Areas,
    list: &List<R>,
    placed: &[Placed],
    theme: Theme,
    cell: impl Fn(&Item<R>, &Placed) -> Line<'static>,
) {
    for at in placed {
        let mark = if sorts(list.sort, at.column.what, placed) {
            // Biggest on top, but for names.
            let down = list.reverse == (list.sort == SortKey::Client);
            if down { "▼" } else { "▲" }
        } else {
            ""
        };
        let style = match mark {
            "" => theme.dim(),
            _ => theme.bold(),
        };
        let title = Line::styled(format!("{}{mark}", at.column.title), style);
        place(buf, areas.heading, at, title);
    }
    for (n, item) in visible(list, areas).enumerate() {
        let row = Rect {
            y: areas.rows.y + u16::try_from(n).unwrap_or(0),
            height: 1,
            ..areas.rows
        };
        let here = list.cursor == Some(list.offset + n);
        if here {
            buf.set_style(row, theme.cursor());
            put(buf, row, Line::raw(">"));
        }
        for at in placed {
            place(buf, row, at, cell(item, at));
        }
        if here {
            // What is faint is hard to read on that ground.
            buf.set_style(row, Style::new().remove_modifier(Modifier::DIM));
        }
    }
    if list.items.is_empty() {
        let text = match list.filter.as_str() {
            "" => "  nothing yet".to_owned(),
            filter => format!("  nothing matches {filter}"),
        };
        put(buf, areas.rows, Line::styled(text, theme.dim()));
    }
}

/// Whether a column shows what the rows are sorted by.
fn sorts(key: SortKey, what: What, placed: &[Placed]) -> bool {
    match key {
        SortKey::Upload => what == What::Up,
        SortKey::Download => what == What::Down,
        SortKey::Total => matches!(what, What::Up | What::Down),
        SortKey::Client => matches!(what, What::Client | What::Name),
        SortKey::Age => what == What::Age,
        // Flows have no time held; there it is what was dropped.
        SortKey::Limited => match what {
            What::Held => true,
            What::Dropped => placed.iter().all(|at| at.column.what != What::Held),
            _ => false,
        },
    }
}

fn place(buf: &mut Buffer, row: Rect, at: &Placed, line: Line<'static>) {
    let area = Rect {
        x: row.x + 1 + at.x,
        width: at.width,
        ..row
    };
    let line = if at.column.right {
        line.right_aligned()
    } else {
        line
    };
    put(buf, area.intersection(row), line);
}
