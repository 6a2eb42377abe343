//! Where everything is on the screen.

use crate::top::state::App;
use ratatui::layout::{Constraint, Layout, Rect};

/// Below this nothing sensible can be drawn.
pub const SMALLEST: (u16, u16) = (40, 10);
/// Rows of the list that stay beside a detail pane.
const LIST_BESIDE_PANE: u16 = 4;

/// The parts of the screen; an absent one has no height.
#[derive(Clone, Copy, Debug)]
pub struct Areas {
    /// Mode, interfaces, totals.
    pub header: Rect,
    /// What is wrong with the host or the daemon.
    pub warning: Rect,
    /// The daemon is gone.
    pub gone: Rect,
    /// The tabs.
    pub tabs: Rect,
    /// The columns' titles.
    pub heading: Rect,
    /// The rows.
    pub rows: Rect,
    /// One client.
    pub pane: Rect,
    /// Keys, a message, or the filter's line.
    pub footer: Rect,
}

impl Areas {
    /// The parts of the terminal.
    pub fn of(app: &App) -> Self {
        Self::within(Rect::new(0, 0, app.size.width, app.size.height), app)
    }

    /// The parts of an area.
    pub fn within(area: Rect, app: &App) -> Self {
        let warnings = app.status.as_ref().is_some_and(|s| !s.warnings.is_empty());
        let gone = if app.gone.is_some() { 2 } else { 0 };
        let tops = [3, u16::from(warnings), gone, 1, 1];
        let body = area.height.saturating_sub(tops.iter().sum::<u16>() + 1);
        let pane = match app.pane {
            Some(_) => (body * 2 / 3).min(body.saturating_sub(LIST_BESIDE_PANE)),
            None => 0,
        };
        let [header, warning, gone, tabs, heading, rows, pane, footer] = Layout::vertical([
            Constraint::Length(tops[0]),
            Constraint::Length(tops[1]),
            Constraint::Length(tops[2]),
            Constraint::Length(tops[3]),
            Constraint::Length(tops[4]),
            Constraint::Min(0),
            Constraint::Length(pane),
            Constraint::Length(1),
        ])
        .areas(area);
        Self {
            header,
            warning,
            gone,
            tabs,
            heading,
            rows,
            pane,
            footer,
        }
    }

    /// Rows of the list on the screen.
    pub fn page(&self) -> usize {
        usize::from(self.rows.height)
    }
}
