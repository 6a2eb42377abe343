//! The dashboard and the made-up daemon, driven by a test.

use super::{World, start};
use crate::top::{draw, state};

/// A dashboard and its world, without a loop: the test is the loop.
pub struct Bench {
    /// The state.
    pub app: state::App,
    /// The daemon.
    pub world: World,
    /// Whether the operator left.
    pub left: bool,
}

impl Bench {
    /// Both, after `seconds` seconds.
    pub fn new(world: World, width: u16, height: u16, seconds: i64) -> Self {
        let size = ratatui::layout::Size::new(width, height);
        let mut bench = Self {
            app: state::App::new(
                size,
                start(),
                jiff::tz::TimeZone::UTC,
                state::Tab::default(),
            ),
            world,
            left: false,
        };
        for _ in 0..seconds {
            bench.second();
        }
        bench
    }

    /// A second passes.
    pub fn second(&mut self) {
        self.world.second += 1;
        let now = self.world.now();
        self.send(state::Msg::Tick(now));
    }

    /// Something happens, and all that follows from it.
    pub fn send(&mut self, msg: state::Msg) {
        use state::{Action, Msg};
        let mut next = self.app.update(msg);
        // A handful of answers follow one message; more is a loop.
        for _ in 0..10 {
            let msg = match next {
                None => return,
                Some(Action::Quit) => {
                    self.left = true;
                    return;
                }
                Some(Action::Fetch(wanted)) => {
                    let answer = self.world.answer(&wanted).map(Box::new);
                    Msg::Fetched(wanted, answer)
                }
                Some(Action::Act(command)) => Msg::Acted(self.world.change(command)),
            };
            next = self.app.update(msg);
        }
        panic!("no end of answers");
    }

    /// A key.
    pub fn press(&mut self, code: crossterm::event::KeyCode) {
        let key = crossterm::event::KeyEvent::new(code, crossterm::event::KeyModifiers::NONE);
        self.send(state::Msg::Key(key));
    }

    /// Keys of characters.
    pub fn write(&mut self, text: &str) {
        for c in text.chars() {
            self.press(crossterm::event::KeyCode::Char(c));
        }
    }

    /// What stands on the screen.
    pub fn buffer(&self, color: bool) -> ratatui::buffer::Buffer {
        let size = self.app.size;
        let backend = ratatui::backend::TestBackend::new(size.width, size.height);
        let mut terminal = ratatui::Terminal::new(backend).unwrap();
        let theme = draw::theme::Theme::new(color);
        terminal
            .draw(|frame| draw::draw(frame, &self.app, theme))
            .unwrap();
        terminal.backend().buffer().clone()
    }

    /// The same as text.
    pub fn text(&self) -> String {
        draw::text(&self.buffer(false))
    }
}
