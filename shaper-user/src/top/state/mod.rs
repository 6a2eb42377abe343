//! What the dashboard knows, and how it changes. Nothing here draws, waits or
//! reads a clock: everything comes in as a [`Msg`], what is to be done goes out
//! as an [`Action`].

mod act;
mod answers;
pub mod dialog;
pub mod history;
mod keys;
pub mod list;
pub mod minutes;
pub mod row;

use super::draw::areas::Areas;
use super::source::{Frame, SourceError, Wanted};
use crate::model::{Backend, Client, Flow, Server, Status};
use crate::protocol::{Command, Done};
use crossterm::event::KeyEvent;
use dialog::Dialog;
use history::Past;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use list::List;
use minutes::Minutes;
use ratatui::layout::Size;
use row::ClientKey;
use std::collections::VecDeque;
use std::net::IpAddr;

/// Waits between tries to reach the daemon, in seconds; the last one stays.
const BACKOFF: [i64; 4] = [1, 2, 3, 5];
/// How long a message stands in the last line, in seconds.
const NOTICE: i64 = 6;
/// Frames that are kept while the picture is frozen.
const FROZEN: usize = history::MINUTE;

/// Something that happened.
#[derive(Debug)]
pub enum Msg {
    /// A key was pressed.
    Key(KeyEvent),
    /// The terminal has a new size.
    Resize(Size),
    /// A second passed.
    Tick(Timestamp),
    /// The answer to [`Action::Fetch`].
    Fetched(Wanted, Result<Box<Frame>, SourceError>),
    /// The answer to [`Action::Act`].
    Acted(Result<Done, SourceError>),
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Leave.
    Quit,
    /// Ask the daemon for a frame.
    Fetch(Wanted),
    /// Ask the daemon to change something.
    Act(Command),
}

/// The tabs, in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Tab {
    /// Clients, with their limits
    #[default]
    Clients,
    /// Their connections
    Flows,
    /// HAProxy's servers
    Servers,
    /// The last hours, by the minute
    History,
}

impl Tab {
    /// Every tab, as `Tab` goes through them.
    pub const ALL: [Self; 4] = [Self::Clients, Self::Flows, Self::Servers, Self::History];

    /// What stands on it.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Clients => "Clients",
            Self::Flows => "Flows",
            Self::Servers => "Servers",
            Self::History => "History",
        }
    }

    /// The one after it, or the one before.
    pub fn next(self, forward: bool) -> Self {
        let at = Self::ALL.iter().position(|tab| *tab == self).unwrap_or(0);
        let step = if forward { 1 } else { Self::ALL.len() - 1 };
        Self::ALL[(at + step) % Self::ALL.len()]
    }
}

/// The pane with one client.
#[derive(Clone, Debug)]
pub struct Pane {
    /// Which client.
    pub key: ClientKey,
    /// Its numbers, once they came.
    pub client: Option<Client>,
    /// Its flows, the heaviest first.
    pub flows: Vec<Flow>,
    /// How many flows it has in all.
    pub matched: u64,
}

/// The daemon does not answer.
#[derive(Clone, Debug)]
pub struct Gone {
    /// Since when.
    pub since: Timestamp,
    /// Why.
    pub why: String,
    /// When it is tried again.
    pub again: Timestamp,
    tries: usize,
}

/// A line that goes away by itself.
#[derive(Clone, Debug)]
pub struct Notice {
    /// The line.
    pub text: String,
    until: Timestamp,
}

/// Everything.
#[derive(Debug)]
pub struct App {
    /// The terminal's size.
    pub size: Size,
    /// The time of the last tick.
    pub now: Timestamp,
    /// Where the operator is.
    pub tz: TimeZone,
    /// The daemon and its totals, once it answered.
    pub status: Option<Status>,
    /// The last minute of the totals.
    pub totals: Past,
    /// The tab that is open.
    pub tab: Tab,
    /// The clients.
    pub clients: List<Client>,
    /// The flows.
    pub flows: List<Flow>,
    /// The servers.
    pub servers: List<Server>,
    /// The backends of the servers.
    pub backends: Vec<Backend>,
    /// The last hours.
    pub minutes: Minutes,
    /// The detail pane, while it is open.
    pub pane: Option<Pane>,
    /// What lies over it all and has the keys.
    pub dialog: Option<Dialog>,
    /// The message in the last line.
    pub notice: Option<Notice>,
    /// Set while the daemon does not answer.
    pub gone: Option<Gone>,
    /// The frames that came since the picture was frozen.
    pub frozen: Option<VecDeque<Frame>>,
    waiting: bool,
    again: bool,
}

impl App {
    /// The dashboard before anything was heard.
    pub fn new(size: Size, now: Timestamp, tz: TimeZone, tab: Tab) -> Self {
        Self {
            size,
            now,
            tz,
            status: None,
            totals: Past::default(),
            tab,
            clients: List::default(),
            flows: List::default(),
            servers: List::default(),
            backends: Vec::new(),
            minutes: Minutes::default(),
            pane: None,
            dialog: None,
            notice: None,
            gone: None,
            frozen: None,
            waiting: false,
            again: false,
        }
    }

    /// What to do about something that happened.
    pub fn update(&mut self, msg: Msg) -> Option<Action> {
        let action = match msg {
            Msg::Key(key) => self.key(key),
            Msg::Resize(size) => {
                self.size = size;
                None
            }
            Msg::Tick(now) => self.tick(now),
            Msg::Fetched(wanted, Ok(frame)) => self.fetched(&wanted, *frame),
            Msg::Fetched(wanted, Err(error)) => self.not_fetched(&wanted, &error),
            Msg::Acted(result) => self.acted(result),
        };
        let page = Areas::of(self).page();
        self.clients.scroll(page);
        self.flows.scroll(page);
        self.servers.scroll(page);
        action
    }

    /// Asks for a frame; if one is under way, for another after it.
    fn fetch(&mut self) -> Option<Action> {
        if self.waiting {
            self.again = true;
            return None;
        }
        self.waiting = true;
        self.again = false;
        Some(Action::Fetch(self.wanted()))
    }

    fn wanted(&self) -> Wanted {
        Wanted {
            clients: self.clients.query(),
            flows: (self.tab == Tab::Flows).then(|| self.flows.query()),
            servers: (self.tab == Tab::Servers).then(|| self.servers.query()),
            history: match self.tab {
                Tab::History => self.minutes.queries(self.now),
                _ => [None, None],
            },
            detail: self.pane.as_ref().map(|pane| pane.key.name.clone()),
        }
    }

    fn tick(&mut self, now: Timestamp) -> Option<Action> {
        self.now = now;
        if self.notice.as_ref().is_some_and(|n| n.until <= now) {
            self.notice = None;
        }
        match &self.gone {
            Some(gone) if now < gone.again => None,
            // A tick is no reason to ask twice.
            _ if self.waiting => None,
            _ => self.fetch(),
        }
    }

    fn say(&mut self, text: impl Into<String>) {
        self.notice = Some(Notice {
            text: text.into(),
            until: self.now + SignedDuration::from_secs(NOTICE),
        });
    }

    /// The client that an address belongs to.
    fn client_of(&self, ip: IpAddr) -> ClientKey {
        self.clients
            .items
            .iter()
            .map(|item| &item.key)
            .find(|key| key.contains(ip))
            .cloned()
            .unwrap_or_else(|| ClientKey::new(&ip.to_string()))
    }

    /// The client under the cursor, whichever tab is open; of a server its top
    /// client.
    pub fn selected_client(&self) -> Option<ClientKey> {
        match self.tab {
            Tab::Clients => self.clients.selected.clone(),
            Tab::History => None,
            Tab::Flows => self
                .flows
                .selected
                .as_ref()
                .map(|flow| self.client_of(flow.client.ip())),
            Tab::Servers => {
                let server = &self.servers.items.get(self.servers.cursor?)?.row;
                server.top_client.as_deref().map(ClientKey::new)
            }
        }
    }

    /// The flow of the pane's client that there is most to say of: the one under
    /// the cursor, else the heaviest.
    pub fn pane_flow(&self) -> Option<&Flow> {
        let pane = self.pane.as_ref()?;
        let chosen = self.flows.cursor.and_then(|at| self.flows.items.get(at));
        chosen
            .map(|item| &item.row)
            .filter(|flow| self.tab == Tab::Flows && pane.key.contains(flow.client))
            .or(pane.flows.first())
    }

    /// What is known of a client.
    pub fn client(&self, key: &ClientKey) -> Option<&Client> {
        let in_pane = self
            .pane
            .as_ref()
            .and_then(|pane| pane.client.as_ref())
            .filter(|client| client.client == key.name);
        in_pane.or_else(|| {
            self.clients
                .items
                .iter()
                .find(|item| item.key == *key)
                .map(|item| &item.row)
        })
    }

    /// Whether limits are only watched.
    pub fn observing(&self) -> bool {
        self.status.as_ref().is_some_and(|s| s.mode == "observe")
    }
}

#[cfg(test)]
mod act_tests;
#[cfg(test)]
mod servers_tests;
#[cfg(test)]
mod tests;
