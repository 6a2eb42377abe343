//! The last line, and what lies over the tables.

use super::theme::Theme;
use super::{put, put_both};
use crate::top::state::dialog::{Confirm, Dialog, Filter, Form};
use crate::top::state::{App, Tab};
use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Padding, Paragraph, Widget, Wrap};

const KEYS: [(&str, &str); 10] = [
    ("q", "quit"),
    ("?", "help"),
    ("/", "filter"),
    ("Enter", "detail"),
    ("l", "limit"),
    ("b", "block"),
    ("s", "sort"),
    ("space", "freeze"),
    ("Tab", "next tab"),
    ("r", "reverse"),
];

/// Those of the history, which has no rows to change.
const KEYS_OF_HISTORY: [(&str, &str); 7] = [
    ("q", "quit"),
    ("?", "help"),
    ("← →", "minute"),
    ("PgUp PgDn", "hour"),
    ("End", "now"),
    ("↑ ↓", "flows"),
    ("Tab", "next tab"),
];

const HELP: &str = "\
↑ ↓ PgUp PgDn   choose a row; it stays chosen while rows move
Home End        first and last row; ← → a minute of the history
Esc             close; with nothing open, back to the top
Tab 1 2 3 4     clients, flows, servers, history
Enter           a client's history and its flows; a server's flows
s < > r         sort: rates, upload, download, limited, age, client;
                reverse the order
/               filter: client:203.0.113.0/24 rule:NAME port:443
                server:BACKEND/NAME state:limited, or any text
space           freeze the picture; nothing of the history is lost
l               set a limit at runtime, over the policy; or clear it
b               block the client, or unblock it; a server's top one
K D             have HAProxy close the flow, drain the server
q Ctrl-C        quit

LIMIT           of the direction nearest to it; * set at runtime
HELD held 12s   held by its limit now, 12 s in all; 12s: was held
     over 12s   the same while only observing: nothing is held
tcp!            no backpressure: over its limit it is dropped
~be/srv         HAProxy is silent since it said so
IMBAL           the busiest server's rate over its backend's mean";

/// The last line. Answers where the cursor is while the filter is typed.
pub fn footer(buf: &mut Buffer, area: Rect, app: &App, theme: Theme) -> Option<Position> {
    if let Some(Dialog::Filter(filter)) = &app.dialog {
        return filter_line(buf, area, filter, theme);
    }
    if let Some(notice) = &app.notice {
        put(buf, area, Line::styled(notice.text.clone(), theme.bold()));
        return None;
    }
    let mut spans = Vec::new();
    let mut width = 0;
    let keys: &[_] = match app.tab {
        Tab::History => &KEYS_OF_HISTORY,
        _ => &KEYS,
    };
    for (key, what) in keys {
        width += key.chars().count() + what.len() + 3;
        // Whole keys only.
        if width > usize::from(area.width) + 2 {
            break;
        }
        spans.push(Span::styled(*key, theme.bold()));
        spans.push(Span::styled(format!(" {what}  "), theme.dim()));
    }
    put(buf, area, Line::from(spans));
    None
}

fn filter_line(buf: &mut Buffer, area: Rect, filter: &Filter, theme: Theme) -> Option<Position> {
    let prompt = "filter: ";
    let left = vec![
        Span::styled(prompt, theme.bold()),
        Span::raw(filter.input.value().to_owned()),
    ];
    let hint = match &filter.error {
        Some(error) => Span::styled(format!("! {error}"), theme.bad()),
        None => Span::styled("client: rule: state: server: · Enter · Esc", theme.dim()),
    };
    buf.set_style(area, ratatui::style::Style::reset());
    match &filter.error {
        // An error matters more than what stands in its way.
        Some(error)
            if left.iter().map(Span::width).sum::<usize>() + error.chars().count() + 3
                > usize::from(area.width) =>
        {
            let above = Rect {
                y: area.y.saturating_sub(1),
                ..area
            };
            Clear.render(above, buf);
            put(buf, above, Line::from(hint));
            put(buf, area, Line::from(left));
        }
        _ => put_both(buf, area, left, vec![hint]),
    }
    Some(caret(area, prompt.len(), filter.input.visual_cursor()))
}

fn caret(area: Rect, before: usize, cursor: usize) -> Position {
    let x = u16::try_from(before + cursor).unwrap_or(u16::MAX);
    Position::new(
        area.x.saturating_add(x).min(area.right().saturating_sub(1)),
        area.y,
    )
}

/// The open dialog. Answers where the cursor is in it.
pub fn dialog(buf: &mut Buffer, screen: Rect, app: &App, theme: Theme) -> Option<Position> {
    match app.dialog.as_ref()? {
        Dialog::Filter(_) => None,
        Dialog::Help => {
            window(buf, screen, "Keys and marks", HELP, theme);
            None
        }
        Dialog::Message(message) => {
            let text = format!("{}\n\nany key closes this", message.text);
            window(buf, screen, &message.title, &text, theme);
            None
        }
        Dialog::Confirm(confirm) => {
            confirmation(buf, screen, confirm, theme);
            None
        }
        Dialog::Limit(form) => Some(limit(buf, screen, form, theme)),
    }
}

fn confirmation(buf: &mut Buffer, screen: Rect, confirm: &Confirm, theme: Theme) {
    let answer = if confirm.sent {
        "asking the daemon …"
    } else {
        "y yes   n no"
    };
    let text = format!("{}\n\n{answer}", confirm.question);
    window(buf, screen, "Are you sure?", &text, theme);
}

fn limit(buf: &mut Buffer, screen: Rect, form: &Form, theme: Theme) -> Position {
    let hint = if form.clearable {
        "Both rates empty: the limit set at runtime is cleared."
    } else {
        "A rate left empty stays as it is. For: empty is until cleared."
    };
    let error = form.error.as_deref().unwrap_or("");
    // The fields are drawn over the first lines.
    let text = format!("\n\n\n\n{hint}\nEnter go on   Tab next field   Esc close\n{error}");
    let title = format!("Limit {}", form.client);
    let inside = window(buf, screen, &title, &text, theme);
    let labels = [
        ("upload    ", "e.g. 8mbit, 500kbit, 1MB/s"),
        ("download  ", "e.g. 8mbit, 500kbit, 1MB/s"),
        ("for       ", "e.g. 30s, 10m, 2h, 1d"),
    ];
    let mut caret_at = Position::new(inside.x, inside.y);
    for (n, ((label, example), field)) in labels.into_iter().zip(&form.fields).enumerate() {
        let line = Rect {
            y: inside.y + u16::try_from(n).unwrap_or(0),
            height: 1,
            ..inside
        }
        .intersection(inside);
        let focused = n == form.focus;
        let mark = if focused { "> " } else { "  " };
        let style = if focused { theme.bold() } else { theme.dim() };
        let value = match field.value() {
            "" => Span::styled(example, theme.dim()),
            value => Span::raw(value.to_owned()),
        };
        let label = Span::styled(format!("{mark}{label}"), style);
        let before = label.width();
        put(buf, line, Line::from(vec![label, value]));
        if focused {
            caret_at = caret(line, before, field.visual_cursor());
        }
    }
    caret_at
}

/// A window in the middle, as large as its text wants. Answers its inside.
fn window(buf: &mut Buffer, screen: Rect, title: &str, text: &str, theme: Theme) -> Rect {
    let paragraph = Paragraph::new(text.to_owned()).wrap(Wrap { trim: false });
    let widest = text.lines().map(|line| Line::raw(line).width()).max();
    let width = u16::try_from(widest.unwrap_or(0)).unwrap_or(u16::MAX);
    let width = width.clamp(30, 70).min(screen.width.saturating_sub(4));
    let height = wrapped(text, usize::from(width)).min(screen.height.saturating_sub(2));
    let block = Block::bordered()
        .title(Span::styled(format!(" {title} "), theme.bold()))
        .padding(Padding::horizontal(1));
    let area = screen.centered(
        ratatui::layout::Constraint::Length(width + 4),
        ratatui::layout::Constraint::Length(height + 2),
    );
    let inside = block.inner(area);
    Clear.render(area, buf);
    paragraph.block(block).render(area, buf);
    inside
}

/// Lines that a text takes in a width: an upper bound of what wrapping at
/// words makes of it.
fn wrapped(text: &str, width: usize) -> u16 {
    let lines: usize = text
        .split('\n')
        .map(|line| {
            let mut lines = 1;
            let mut used = 0;
            for word in line.split(' ') {
                let word = Line::raw(word).width();
                if used > 0 && used + 1 + word > width {
                    lines += 1;
                    used = 0;
                }
                used += word + usize::from(used > 0);
                lines += used.saturating_sub(1) / width.max(1);
            }
            lines
        })
        .sum();
    u16::try_from(lines).unwrap_or(u16::MAX)
}
