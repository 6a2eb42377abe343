//! The terminal's events as messages.

use super::state::Msg;
use crossterm::event::{Event, KeyEventKind};
use ratatui::layout::Size;

/// What an event means; `None` when it means nothing here.
pub fn message(event: &Event) -> Option<Msg> {
    match event {
        // Some terminals report releases too.
        Event::Key(key) if key.kind != KeyEventKind::Release => Some(Msg::Key(*key)),
        Event::Resize(width, height) => Some(Msg::Resize(Size::new(*width, *height))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

    #[test]
    fn presses_count_and_releases_do_not() {
        let mut key = KeyEvent::new(KeyCode::Char('q'), KeyModifiers::NONE);
        assert!(matches!(message(&Event::Key(key)), Some(Msg::Key(_))));
        key.kind = KeyEventKind::Release;
        assert!(message(&Event::Key(key)).is_none());
        assert!(message(&Event::FocusGained).is_none());
        let Some(Msg::Resize(size)) = message(&Event::Resize(80, 24)) else {
            panic!("a resize is a message");
        };
        assert_eq!(size, Size::new(80, 24));
    }
}
