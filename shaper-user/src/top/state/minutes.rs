//! The history tab: the minutes of the last hours, and the flows behind one.

use super::{Action, App};
use crate::model::{History, HistoryStep};
use crate::protocol::HistoryQuery;
use crossterm::event::KeyCode;
use jiff::{SignedDuration, Timestamp};
use std::ops::ControlFlow;

/// Minutes that are shown at most: a day.
const DAY: i64 = 1_440;
/// The minutes are asked for as often as this, in seconds: there is a new one once
/// a minute.
const FRESH: i64 = 10;
/// Flows of a minute.
const FLOWS: usize = 200;
const MINUTE: i64 = 60;

/// What is known of the last hours.
#[derive(Debug, Default)]
pub struct Minutes {
    /// One step a minute, in their order.
    pub steps: Vec<HistoryStep>,
    /// The minute under the cursor, in seconds since 1970; `None`: the newest.
    pub chosen: Option<i64>,
    /// The minute behind the cursor, once it came.
    pub behind: Option<History>,
    /// The first of its flows on the screen.
    pub offset: usize,
    /// Why there is no history.
    pub why: Option<String>,
    /// When the minutes came last.
    came: Option<Timestamp>,
}

impl Minutes {
    /// The minute under the cursor.
    pub fn cursor(&self) -> Option<i64> {
        self.chosen
            .or_else(|| self.steps.last().map(|step| step.at.as_second()))
    }

    /// The step of a minute, where the daemon ran.
    pub fn step(&self, minute: i64) -> Option<&HistoryStep> {
        let at = self
            .steps
            .binary_search_by_key(&minute, |step| step.at.as_second());
        at.ok().and_then(|at| self.steps.get(at))
    }

    /// What to ask for: the minutes, and the one under the cursor.
    pub(super) fn queries(&self, now: Timestamp) -> [Option<Box<HistoryQuery>>; 2] {
        let age = self.came.map(|came| now.duration_since(came).as_secs());
        let all = age.is_none_or(|age| !(0..FRESH).contains(&age));
        let all = all.then(|| HistoryQuery {
            since: Some(now - SignedDuration::from_secs((DAY - 1) * MINUTE)),
            limit: Some(0),
            ..HistoryQuery::default()
        });
        let cursor = self.cursor();
        let behind = self.behind.as_ref().map(|h| h.since.as_second());
        let behind = cursor.filter(|cursor| behind != Some(*cursor));
        let at = |second| Timestamp::from_second(second).ok();
        let behind = behind.map(|minute| HistoryQuery {
            since: at(minute),
            until: at(minute + MINUTE),
            limit: Some(FLOWS),
            ..HistoryQuery::default()
        });
        [all.map(Box::new), behind.map(Box::new)]
    }

    /// Takes in what came, at `now`.
    pub(super) fn take(
        &mut self,
        now: Timestamp,
        [all, behind]: [Option<Result<History, String>>; 2],
    ) {
        match all {
            Some(Ok(history)) => {
                self.steps = history.minutes;
                self.why = None;
                self.came = Some(now);
            }
            Some(Err(why)) => {
                self.steps.clear();
                self.why = Some(why);
                self.came = Some(now);
            }
            None => {}
        }
        if let Some(Ok(history)) = behind {
            self.behind = Some(history);
            self.offset = 0;
        }
    }

    /// Moves the cursor; the end of the line is the newest, which then stays under
    /// it.
    fn step_by(&mut self, minutes: i64) {
        let (Some(first), Some(last)) = (self.steps.first(), self.steps.last()) else {
            return;
        };
        let (first, last) = (first.at.as_second(), last.at.as_second());
        let to = self.cursor().unwrap_or(last);
        let to = to.saturating_add(minutes.saturating_mul(MINUTE)).max(first);
        self.chosen = (to < last).then_some(to);
    }

    fn scroll(&mut self, rows: isize) {
        let flows = self.behind.as_ref().map_or(0, |h| h.flows.len());
        let to = self.offset.saturating_add_signed(rows);
        self.offset = to.min(flows.saturating_sub(1));
    }
}

impl App {
    /// The keys that the history tab has for itself, or has not at all.
    pub(super) fn minutes_key(&mut self, code: KeyCode) -> ControlFlow<Option<Action>> {
        let before = self.minutes.cursor();
        match code {
            KeyCode::Left | KeyCode::Char('h') => self.minutes.step_by(-1),
            KeyCode::Right => self.minutes.step_by(1),
            KeyCode::PageUp => self.minutes.step_by(-60),
            KeyCode::PageDown => self.minutes.step_by(60),
            KeyCode::Home => self.minutes.step_by(-DAY),
            KeyCode::End | KeyCode::Esc => self.minutes.chosen = None,
            KeyCode::Up | KeyCode::Char('k') => self.minutes.scroll(-1),
            KeyCode::Down | KeyCode::Char('j') => self.minutes.scroll(1),
            KeyCode::Enter | KeyCode::Char('l' | 'b' | 's' | '<' | '>' | 'r' | '/' | ' ') => {
                self.say("the history has no such key; choose a client in the clients tab (1)");
            }
            _ => return ControlFlow::Continue(()),
        }
        let moved = self.minutes.cursor() != before;
        ControlFlow::Break(if moved { self.fetch() } else { None })
    }
}

#[cfg(test)]
#[path = "minutes_tests.rs"]
mod tests;
