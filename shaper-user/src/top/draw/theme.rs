//! Colours. The sixteen of the terminal only, so that the operator's own
//! scheme holds; and none at all with `NO_COLOR` (<https://no-color.org>) or on
//! a terminal without them. Nothing is said by colour alone.

use ratatui::style::{Color, Modifier, Style};

/// Whether there are colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Theme {
    color: bool,
}

impl Theme {
    /// With colours, or without.
    pub const fn new(color: bool) -> Self {
        Self { color }
    }

    /// What the environment asks for: `NO_COLOR` and `TERM`.
    pub fn of(no_color: Option<&str>, term: Option<&str>) -> Self {
        let plain = ["dumb", "vt100", "vt102", "vt220", "linux-m", "screen-m"];
        let colorless = term.is_some_and(|term| plain.contains(&term) || term.ends_with("-mono"));
        Self::new(no_color.is_none_or(str::is_empty) && !colorless)
    }

    fn fg(self, color: Color) -> Style {
        if self.color {
            Style::new().fg(color)
        } else {
            Style::new()
        }
    }

    /// What matters less.
    pub const fn dim(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    /// What matters more.
    pub const fn bold(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// Client to this host.
    pub fn upload(self) -> Style {
        self.fg(Color::Cyan)
    }

    /// This host to the client.
    pub fn download(self) -> Style {
        self.fg(Color::Magenta)
    }

    /// Something is well.
    pub fn good(self) -> Style {
        self.fg(Color::Green)
    }

    /// Something wants a look.
    pub fn warn(self) -> Style {
        self.fg(Color::Yellow)
    }

    /// Something holds or is wrong.
    pub fn bad(self) -> Style {
        self.fg(Color::Red).add_modifier(Modifier::BOLD)
    }

    /// A part of a limit: far from it, near, at it.
    pub fn percent(self, percent: u64) -> Style {
        match percent {
            0..70 => self.good(),
            70..95 => self.warn(),
            _ => self.fg(Color::Red),
        }
    }

    /// The ground of the row with the cursor; its cells keep their colours.
    pub fn cursor(self) -> Style {
        if self.color {
            Style::new()
                .bg(Color::DarkGray)
                .add_modifier(Modifier::BOLD)
        } else {
            Style::new().add_modifier(Modifier::REVERSED)
        }
    }

    /// The open tab.
    pub fn open(self) -> Style {
        if self.color {
            self.loud(Color::Cyan)
        } else {
            self.bold()
        }
    }

    /// A loud word.
    pub fn loud(self, color: Color) -> Style {
        let style = Style::new().add_modifier(Modifier::BOLD);
        if self.color {
            style.fg(Color::Black).bg(color)
        } else {
            style.add_modifier(Modifier::REVERSED)
        }
    }

    /// The frame of a pane.
    pub fn border(self) -> Style {
        self.dim()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_chooses() {
        assert!(Theme::of(None, Some("xterm-256color")).color);
        assert!(Theme::of(Some(""), Some("xterm")).color, "empty is unset");
        assert!(!Theme::of(Some("1"), Some("xterm")).color);
        assert!(!Theme::of(None, Some("vt100")).color);
        assert!(!Theme::of(None, Some("dumb")).color);
        assert!(Theme::of(None, None).color);
    }
}
