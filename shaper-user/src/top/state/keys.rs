//! What each key does.

use super::dialog::{Confirm, Dialog, Form, edit, question};
use super::list::List;
use super::row::{ClientKey, Row};
use super::{Action, App, Pane, Tab};
use crate::protocol::Command;
use crate::top::draw::areas::Areas;
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use std::collections::VecDeque;
use std::ops::ControlFlow;

/// Runs the same on the list of the open tab.
macro_rules! on_list {
    ($app:expr, $list:ident => $body:expr) => {
        match $app.tab {
            // The history has no list of its own: its keys come before these.
            Tab::Clients | Tab::History => {
                let $list = &mut $app.clients;
                $body
            }
            Tab::Flows => {
                let $list = &mut $app.flows;
                $body
            }
            Tab::Servers => {
                let $list = &mut $app.servers;
                $body
            }
        }
    };
}

impl App {
    pub(super) fn key(&mut self, key: KeyEvent) -> Option<Action> {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        if control && key.code == KeyCode::Char('c') {
            return Some(Action::Quit);
        }
        match self.dialog.take() {
            Some(dialog) => self.dialog_key(dialog, key),
            None if control => None,
            None => self.plain_key(key.code),
        }
    }

    fn plain_key(&mut self, code: KeyCode) -> Option<Action> {
        self.notice = None;
        if self.tab == Tab::History
            && let ControlFlow::Break(action) = self.minutes_key(code)
        {
            return action;
        }
        match code {
            KeyCode::Char('q') => return Some(Action::Quit),
            KeyCode::Char('?') | KeyCode::F(1) => self.dialog = Some(Dialog::Help),
            KeyCode::Esc => return self.close(),
            KeyCode::Tab => return self.open(self.tab.next(true)),
            KeyCode::BackTab => return self.open(self.tab.next(false)),
            KeyCode::Char('1') => return self.open(Tab::Clients),
            KeyCode::Char('2') => return self.open(Tab::Flows),
            KeyCode::Char('3') => return self.open(Tab::Servers),
            KeyCode::Char('4') => return self.open(Tab::History),
            KeyCode::Up | KeyCode::Char('k') => return self.step(-1),
            KeyCode::Down | KeyCode::Char('j') => return self.step(1),
            KeyCode::PageUp => return self.step(-self.page()),
            KeyCode::PageDown => return self.step(self.page()),
            KeyCode::Home => on_list!(self, list => list.select(0)),
            KeyCode::End => on_list!(self, list => list.select(usize::MAX)),
            KeyCode::Char('s' | '>') => on_list!(self, list => list.cycle(true)),
            KeyCode::Char('<') => on_list!(self, list => list.cycle(false)),
            KeyCode::Char('r') => on_list!(self, list => list.turn()),
            KeyCode::Char(' ') => self.freeze(),
            KeyCode::Char('/') => {
                let text = on_list!(self, list => list.filter.clone());
                self.dialog = Some(Dialog::filter(&text, None));
            }
            KeyCode::Enter if self.tab == Tab::Servers => return self.flows_of_server(),
            KeyCode::Enter => return self.open_pane(),
            KeyCode::Char('l') => {
                if let Some(key) = self.target() {
                    let form = Form::new(&key.name, self.client(&key));
                    self.dialog = Some(Dialog::Limit(form));
                }
            }
            KeyCode::Char('b') => self.ask_block(),
            KeyCode::Char('K') => self.ask_kill(),
            KeyCode::Char('D') => self.ask_drain(),
            _ => return None,
        }
        match code {
            // The other end of the list may not be here yet.
            KeyCode::Char('s' | '<' | '>' | 'r') if self.frozen.is_none() => self.fetch(),
            KeyCode::Home | KeyCode::End => self.follow(),
            _ => None,
        }
    }

    fn page(&self) -> isize {
        isize::try_from(Areas::of(self).page()).unwrap_or(1).max(1)
    }

    fn step(&mut self, rows: isize) -> Option<Action> {
        on_list!(self, list => list.step(rows));
        self.follow()
    }

    /// An open pane shows the client under the cursor.
    fn follow(&mut self) -> Option<Action> {
        let key = self.selected_client()?;
        if self.pane.as_ref().is_none_or(|pane| pane.key == key) {
            return None;
        }
        self.show(key)
    }

    fn show(&mut self, key: ClientKey) -> Option<Action> {
        self.pane = Some(Pane {
            // The list's row stands in until the daemon answered.
            client: self.client(&key).cloned(),
            key,
            flows: Vec::new(),
            matched: 0,
        });
        self.fetch()
    }

    fn open_pane(&mut self) -> Option<Action> {
        if self.pane.is_some() {
            return self.close();
        }
        let key = self.target()?;
        self.show(key)
    }

    /// The flows tab, filtered to the server under the cursor.
    fn flows_of_server(&mut self) -> Option<Action> {
        first(&mut self.servers);
        let Some(server) = &self.servers.selected else {
            self.say("there is no row to choose");
            return None;
        };
        self.flows.trying = Some(format!("server:{server}"));
        self.flows.unselect();
        self.pane = None;
        self.tab = Tab::Flows;
        if self.frozen.is_some() {
            self.freeze();
        }
        self.say("the flows of one server; an empty filter (/) shows all again");
        self.fetch()
    }

    fn open(&mut self, tab: Tab) -> Option<Action> {
        if self.tab == tab {
            return None;
        }
        self.tab = tab;
        self.fetch()
    }

    /// Esc closes what is innermost; with nothing open it takes the cursor
    /// away, and the list shows its top again.
    fn close(&mut self) -> Option<Action> {
        if self.pane.take().is_none() {
            on_list!(self, list => list.unselect());
        }
        None
    }

    fn freeze(&mut self) {
        match self.frozen.take() {
            None => self.frozen = Some(VecDeque::new()),
            // Nothing of the history is lost.
            Some(frames) => frames.into_iter().for_each(|frame| self.take(frame)),
        }
    }

    /// The client that a key is about: the pane's, else the cursor's, else the
    /// first, which then has the cursor.
    fn target(&mut self) -> Option<ClientKey> {
        if let Some(pane) = &self.pane {
            return Some(pane.key.clone());
        }
        on_list!(self, list => first(list));
        let key = self.selected_client();
        if key.is_none() {
            self.say(match self.tab {
                Tab::Servers if self.servers.cursor.is_some() => "this server has no client",
                _ => "there is no row to choose",
            });
        }
        key
    }

    fn ask_block(&mut self) {
        let Some(key) = self.target() else {
            return;
        };
        let client = key.name.clone();
        let known = self.client(&key);
        let blocked = known.is_some_and(|c| c.blocked);
        let at_runtime = known
            .and_then(|c| c.runtime.as_ref())
            .is_some_and(|r| r.blocked);
        let command = match (blocked, at_runtime) {
            (_, true) => Command::Unblock { client },
            (false, false) => Command::Block {
                client,
                for_ms: None,
            },
            (true, false) => {
                let rule = known.map_or("", |c| c.rule.as_str());
                let text =
                    format!("{client} is blocked by the policy's rule \"{rule}\"; change it there");
                return self.say(text);
            }
        };
        let connections = known.map(|c| c.connections);
        self.dialog = Some(Dialog::Confirm(Confirm {
            question: question(&command, connections),
            command,
            sent: false,
            back: None,
        }));
    }

    /// The dialog was taken out; it stays open only if it is put back.
    fn dialog_key(&mut self, dialog: Dialog, key: KeyEvent) -> Option<Action> {
        match dialog {
            Dialog::Message(_) => None,
            Dialog::Help => {
                if !matches!(
                    key.code,
                    KeyCode::Esc | KeyCode::Char('q' | '?') | KeyCode::Enter
                ) {
                    self.dialog = Some(Dialog::Help);
                }
                None
            }
            Dialog::Filter(mut filter) => match key.code {
                KeyCode::Esc => None,
                KeyCode::Enter => {
                    let text = filter.input.value().trim().to_owned();
                    on_list!(self, list => list.trying = Some(text));
                    if self.frozen.is_some() {
                        self.freeze();
                        self.say("live again, to filter");
                    }
                    self.fetch()
                }
                _ => {
                    filter.error = None;
                    edit(&mut filter.input, key);
                    self.dialog = Some(Dialog::Filter(filter));
                    None
                }
            },
            Dialog::Limit(form) => {
                self.form_key(form, key);
                None
            }
            Dialog::Confirm(confirm) => self.confirm_key(confirm, key.code),
        }
    }

    fn form_key(&mut self, mut form: Form, key: KeyEvent) {
        match key.code {
            KeyCode::Esc => return,
            KeyCode::Tab | KeyCode::Down => form.step(true),
            KeyCode::BackTab | KeyCode::Up => form.step(false),
            KeyCode::Enter => match form.command() {
                Ok(command) => {
                    form.error = None;
                    self.dialog = Some(Dialog::Confirm(Confirm {
                        question: question(&command, None),
                        command,
                        sent: false,
                        back: Some(form),
                    }));
                    return;
                }
                Err(error) => form.error = Some(error),
            },
            _ => edit(&mut form.fields[form.focus], key),
        }
        self.dialog = Some(Dialog::Limit(form));
    }

    fn confirm_key(&mut self, mut confirm: Confirm, code: KeyCode) -> Option<Action> {
        match code {
            // Sent: the answer closes it, or Esc when none comes.
            KeyCode::Char('y' | 'Y') if !confirm.sent => {
                confirm.sent = true;
                let action = Action::Act(confirm.command.clone());
                self.dialog = Some(Dialog::Confirm(confirm));
                Some(action)
            }
            KeyCode::Esc | KeyCode::Char('n' | 'N') => {
                if !confirm.sent {
                    self.dialog = confirm.back.map(Dialog::Limit);
                }
                None
            }
            _ => {
                self.dialog = Some(Dialog::Confirm(confirm));
                None
            }
        }
    }
}

pub(super) fn first<R: Row>(list: &mut List<R>) {
    if list.cursor.is_none() {
        list.select(list.offset);
    }
}
