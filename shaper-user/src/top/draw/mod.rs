//! Drawing: a pure function of the state. Only what is on the screen is looked
//! at, so that the length of a list costs nothing here.

pub mod areas;
mod bars;
mod cells;
mod columns;
mod header;
mod minutes;
mod overlay;
mod pane;
mod table;
pub mod theme;

use crate::top::state::{App, Tab};
use areas::{Areas, SMALLEST};
use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Widget;
use theme::Theme;

/// Draws everything.
pub fn draw(frame: &mut Frame, app: &App, theme: Theme) {
    let area = frame.area();
    let buf = frame.buffer_mut();
    if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
        let text = format!("the terminal is smaller than {}x{}", SMALLEST.0, SMALLEST.1);
        return put(buf, area, Line::raw(text));
    }
    let areas = Areas::within(area, app);
    header::header(buf, areas.header, app, theme);
    header::warning(buf, areas.warning, app, theme);
    header::tabs(buf, areas.tabs, app, theme);
    match app.tab {
        Tab::Clients => table::clients(buf, &areas, app, theme),
        Tab::Flows => table::flows(buf, &areas, app, theme),
        Tab::Servers => table::servers(buf, &areas, app, theme),
        Tab::History => minutes::minutes(buf, &areas, app, theme),
    }
    if app.pane.is_some() {
        pane::pane(buf, areas.pane, app, theme);
    }
    if app.gone.is_some() {
        for old in [areas.header, areas.heading, areas.rows, areas.pane] {
            grey(buf, old);
        }
        header::gone(buf, areas.gone, app, theme);
    }
    let typing = overlay::footer(buf, areas.footer, app, theme);
    let focus = overlay::dialog(buf, area, app, theme).or(typing);
    if let Some(position) = focus {
        frame.set_cursor_position(position);
    }
}

/// Old numbers are still there to read, but nobody takes them for new.
fn grey(buf: &mut Buffer, area: Rect) {
    for position in area.intersection(buf.area).positions() {
        buf[position].set_style(Style::reset().add_modifier(Modifier::DIM));
    }
}

/// One line at the top of an area.
fn put(buf: &mut Buffer, area: Rect, line: Line) {
    if area.height > 0 {
        line.render(Rect { height: 1, ..area }, buf);
    }
}

/// A line with its left part and its right part; the right one goes first when
/// there is no room.
fn put_both(buf: &mut Buffer, area: Rect, left: Vec<Span>, right: Vec<Span>) {
    let (left, right) = (Line::from(left), Line::from(right).right_aligned());
    let room = usize::from(area.width) > left.width() + right.width();
    put(buf, area, left);
    if room {
        put(buf, area, right);
    }
}

/// A buffer as lines of text.
#[cfg(test)]
pub fn text(buf: &Buffer) -> String {
    let mut text = String::new();
    for y in buf.area.top()..buf.area.bottom() {
        let line: String = (buf.area.left()..buf.area.right())
            .map(|x| buf[(x, y)].symbol())
            .collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests;
