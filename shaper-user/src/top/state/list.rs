//! A list of rows: its order, its cursor, its filter.
//!
//! **Why rows don't jump.** Sorted by the rate of the last second, two clients
//! of about the same rate would change places all the time, and nobody could
//! point at one. So a row is not sorted by its rate but by a value that it
//! *holds*: the smoothed rate, taken anew only once that has left ±10 % of the
//! held value. Noise then moves nothing, a real change still moves a row within
//! seconds, and neighbours are never out of order by more than the tolerance
//! twice. Times are held in the same way, to 2 s. Rows of one value are ordered
//! by address. Asking for an order (`s`, `r`) takes all values anew.

use super::history::{Past, to_f64};
use super::row::{MILLISECONDS, RATE, Row};
use crate::protocol::{Query, SortKey};
use crate::top::source::ROWS;
use std::cmp::Ordering;
use std::collections::HashMap;

/// Every order that most rows have, as `s` goes through them.
pub const SORTS: [SortKey; 6] = [
    SortKey::Total,
    SortKey::Upload,
    SortKey::Download,
    SortKey::Limited,
    SortKey::Age,
    SortKey::Client,
];

/// A row in its place.
#[derive(Clone, Debug)]
pub struct Item<R: Row> {
    /// Its identity.
    pub key: R::Key,
    /// Its numbers.
    pub row: R,
    value: f64,
}

/// The rows of one tab.
#[derive(Debug)]
pub struct List<R: Row> {
    /// The rows, in order.
    pub items: Vec<Item<R>>,
    /// How many the daemon has under this filter.
    pub matched: u64,
    /// What every row did, kept for a minute after it was last seen. Bounded:
    /// a frame has at most [`ROWS`] rows, so this has at most 60 times that.
    pub past: HashMap<R::Key, Past>,
    /// The order.
    pub sort: SortKey,
    /// Whether it is turned round.
    pub reverse: bool,
    /// The filter behind the rows.
    pub filter: String,
    /// A filter that the daemon has not accepted yet.
    pub trying: Option<String>,
    /// The row with the cursor. There is none at first, so that a dashboard
    /// nobody touches always shows the top of the list.
    pub selected: Option<R::Key>,
    /// Its place.
    pub cursor: Option<usize>,
    /// The first row on the screen.
    pub offset: usize,
    /// The widest first column.
    pub widest: usize,
    second: i64,
    at_ms: i64,
}

impl<R: Row> Default for List<R> {
    fn default() -> Self {
        Self {
            items: Vec::new(),
            matched: 0,
            past: HashMap::new(),
            sort: SortKey::default(),
            reverse: false,
            filter: String::new(),
            trying: None,
            selected: None,
            cursor: None,
            offset: 0,
            widest: 0,
            second: 0,
            at_ms: 0,
        }
    }
}

impl<R: Row> List<R> {
    /// What to ask the daemon for.
    pub fn query(&self) -> Query {
        Query {
            sort: self.sort,
            reverse: self.reverse,
            limit: Some(ROWS),
            filter: self.trying.as_ref().unwrap_or(&self.filter).clone(),
        }
    }

    /// Takes the rows of a sample at `at_ms` since 1970, averaged over
    /// `span` seconds.
    pub fn take(&mut self, rows: Vec<R>, matched: u64, at_ms: i64, span: u64) {
        self.second = at_ms.div_euclid(1000);
        self.at_ms = at_ms;
        self.matched = matched;
        self.items = rows
            .into_iter()
            .map(|row| Item {
                key: row.key(),
                row,
                value: 0.0,
            })
            .collect();
        self.widest = self.items.iter().map(|i| i.row.width()).max().unwrap_or(0);
        for item in &self.items {
            self.past.entry(item.key.clone()).or_default().push(
                self.second,
                span,
                item.row.rates(),
            );
        }
        let second = self.second;
        self.past.retain(|_, past| !past.is_stale(second));
        self.arrange(false);
    }

    /// Remembers what a row does that is not in the list.
    pub fn observe(&mut self, row: &R, at_ms: i64, span: u64) {
        self.past
            .entry(row.key())
            .or_default()
            .push(at_ms.div_euclid(1000), span, row.rates());
    }

    /// Puts the rows in order; `anew` forgets the values they hold.
    pub fn arrange(&mut self, anew: bool) {
        for item in &mut self.items {
            let Some(past) = self.past.get_mut(&item.key) else {
                continue;
            };
            let [up, down] = past.smooth();
            let (value, tolerance) = match self.sort {
                SortKey::Upload => (up, RATE),
                SortKey::Download => (down, RATE),
                SortKey::Total => (up + down, RATE),
                // Since when, not for how long: that stays the same.
                SortKey::Age => (to_f64(item.row.age_ms()) - self.at_ms as f64, MILLISECONDS),
                SortKey::Limited => (to_f64(item.row.limited()), R::LIMITED),
                SortKey::Client => (0.0, RATE),
            };
            let held = match past.held {
                Some(held) if !anew && !tolerance.left(held, value) => held,
                _ => value,
            };
            past.held = Some(held);
            item.value = held;
        }
        let (sort, reverse) = (self.sort, self.reverse);
        let turn = |order: Ordering| if reverse { order.reverse() } else { order };
        self.items.sort_unstable_by(|a, b| {
            if sort == SortKey::Client {
                return turn(a.key.cmp(&b.key));
            }
            turn(b.value.total_cmp(&a.value)).then_with(|| a.key.cmp(&b.key))
        });
        self.find_cursor();
    }

    /// After the rows moved: the cursor stays on its row. When that is gone, it
    /// goes to the row now in its place.
    fn find_cursor(&mut self) {
        let Some(selected) = &self.selected else {
            self.cursor = None;
            return;
        };
        match self.items.iter().position(|item| item.key == *selected) {
            Some(place) => self.cursor = Some(place),
            None => self.select(self.cursor.unwrap_or(0)),
        }
    }

    /// Puts the cursor on a row, or on the last.
    pub fn select(&mut self, place: usize) {
        let place = place.min(self.items.len().saturating_sub(1));
        self.cursor = self.items.get(place).map(|_| place);
        self.selected = self.items.get(place).map(|item| item.key.clone());
    }

    /// Moves the cursor by rows; the first move only shows it.
    pub fn step(&mut self, rows: isize) {
        match self.cursor {
            Some(place) => self.select(place.saturating_add_signed(rows)),
            None => self.select(self.offset),
        }
    }

    /// Takes the cursor away.
    pub fn unselect(&mut self) {
        self.selected = None;
        self.cursor = None;
        self.offset = 0;
    }

    /// Keeps the cursor on a screen of `page` rows.
    pub fn scroll(&mut self, page: usize) {
        let page = page.max(1);
        self.offset = self.offset.min(self.items.len().saturating_sub(page));
        if let Some(cursor) = self.cursor {
            self.offset = self.offset.clamp((cursor + 1).saturating_sub(page), cursor);
        } else {
            self.offset = 0;
        }
    }

    /// The next order, or the one before.
    pub fn cycle(&mut self, forward: bool) {
        let sorts = R::SORTS;
        let at = sorts.iter().position(|s| *s == self.sort).unwrap_or(0);
        let step = if forward { 1 } else { sorts.len() - 1 };
        self.sort = sorts[(at + step) % sorts.len()];
        self.arrange(true);
    }

    /// Turns the order round.
    pub fn turn(&mut self) {
        self.reverse = !self.reverse;
        self.arrange(true);
    }
}

#[cfg(test)]
#[path = "list_tests.rs"]
mod tests;
