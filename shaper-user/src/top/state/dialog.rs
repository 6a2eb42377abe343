//! What lies over the tables and has the keys: help, the filter's line, the
//! limit's form, a question, a message.

use crate::model::Client;
use crate::protocol::Command;
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use std::time::Duration;
use tui_input::{Input, InputRequest};

/// A dialog.
#[derive(Clone, Debug)]
pub enum Dialog {
    /// The keys and marks.
    Help,
    /// The filter's line.
    Filter(Filter),
    /// The limit's form.
    Limit(Form),
    /// A question.
    Confirm(Confirm),
    /// Something to be read; any key closes it.
    Message(Message),
}

/// The filter being typed.
#[derive(Clone, Debug)]
pub struct Filter {
    /// What was typed.
    pub input: Input,
    /// What the daemon says against it.
    pub error: Option<String>,
}

/// The limit being typed.
#[derive(Clone, Debug)]
pub struct Form {
    /// For whom.
    pub client: String,
    /// Upload, download, for how long.
    pub fields: [Input; 3],
    /// Which field has the keys.
    pub focus: usize,
    /// What is wrong.
    pub error: Option<String>,
    /// Whether there is a limit of the runtime to take away.
    pub clearable: bool,
}

/// A change that waits for `y`.
#[derive(Clone, Debug)]
pub struct Confirm {
    /// What would be done.
    pub command: Command,
    /// The same, in words.
    pub question: String,
    /// Set once it was sent and is not answered yet.
    pub sent: bool,
    /// The form to go back to.
    pub back: Option<Form>,
}

/// A message.
#[derive(Clone, Debug)]
pub struct Message {
    /// In short.
    pub title: String,
    /// At length.
    pub text: String,
}

impl Dialog {
    /// The filter's line.
    pub fn filter(text: &str, error: Option<String>) -> Self {
        Self::Filter(Filter {
            input: Input::new(text.to_owned()),
            error,
        })
    }

    /// The polite refusal, with the way that works.
    pub fn denied(message: &str, command: Option<&Command>) -> Self {
        let way = command
            .and_then(as_typed)
            .map_or_else(String::new, |typed| {
                format!("\n\nAs root this does the same:\n  {typed}")
            });
        Self::Message(Message {
            title: "Not allowed".to_owned(),
            text: format!(
                "You may look, but not change anything: {message}.{way}\n\nNothing was changed.",
                message = message.trim_end_matches('.')
            ),
        })
    }
}

impl Form {
    /// An empty form.
    pub fn new(client: &str, known: Option<&Client>) -> Self {
        Self {
            client: client.to_owned(),
            fields: Default::default(),
            focus: 0,
            error: None,
            clearable: known
                .and_then(|c| c.runtime.as_ref())
                .is_some_and(|r| r.upload_bps.is_some() || r.download_bps.is_some()),
        }
    }

    /// Moves to the next field, or the one before.
    pub fn step(&mut self, forward: bool) {
        let n = self.fields.len();
        self.focus = (self.focus + if forward { 1 } else { n - 1 }) % n;
    }

    /// What the form asks for. The rates are the daemon's to judge: it reads
    /// them as the policy's are read.
    pub fn command(&self) -> Result<Command, String> {
        let [upload, download, how_long] = &self.fields;
        let text = |input: &Input| {
            let text = input.value().trim();
            (!text.is_empty()).then(|| text.to_owned())
        };
        let (upload, download) = (text(upload), text(download));
        if upload.is_none() && download.is_none() {
            return if self.clearable {
                Ok(Command::ClearLimit {
                    client: self.client.clone(),
                })
            } else {
                Err("write an upload or a download rate, such as 8mbit".to_owned())
            };
        }
        let for_ms = match text(how_long) {
            None => None,
            Some(text) => Some(
                humantime::parse_duration(&text)
                    .ok()
                    .and_then(|d| u64::try_from(d.as_millis()).ok())
                    .filter(|ms| *ms > 0)
                    .ok_or("for: a time such as 30s, 10m, 2h or 1d; empty: until cleared")?,
            ),
        };
        Ok(Command::Limit {
            client: self.client.clone(),
            upload,
            download,
            for_ms,
        })
    }
}

/// A change as a question.
pub fn question(command: &Command, connections: Option<u64>) -> String {
    match command {
        Command::Limit {
            client,
            upload,
            download,
            for_ms,
        } => {
            let part = |rate: &Option<String>, way: &str| {
                rate.as_ref().map(|rate| format!("{way} to {rate}"))
            };
            let parts: Vec<_> = [part(upload, "upload"), part(download, "download")]
                .into_iter()
                .flatten()
                .collect();
            let parts = parts.join(" and ");
            format!("Limit {client}: {parts}, {}?", until(*for_ms))
        }
        Command::ClearLimit { client } => {
            format!("Take the limit set at runtime from {client}? The policy's holds again.")
        }
        Command::Block { client, .. } => {
            let open = connections.map_or_else(
                || "open connections".to_owned(),
                |n| format!("{n} open connection{}", if n == 1 { "" } else { "s" }),
            );
            format!("Block {client}? Everything it sends is dropped and its {open} closed.")
        }
        Command::Unblock { client } => format!("Let {client} connect again?"),
        Command::Kill { flow, .. } => {
            format!("Have HAProxy close {flow}? The client may connect again.")
        }
        Command::Drain {
            server,
            percent,
            over_ms,
            ..
        } => format!(
            "Drain {server}? Its heaviest connections, together {percent}% of its rate, are closed one \
             after the other over {}. `shaper drain` takes other values.",
            time(*over_ms)
        ),
        Command::StopDrain { server } => {
            format!("End the drain of {server}? What it closed stays closed.")
        }
        _ => String::new(),
    }
}

fn until(for_ms: Option<u64>) -> String {
    for_ms.map_or_else(
        || "until cleared".to_owned(),
        |ms| {
            format!(
                "for {}",
                humantime::format_duration(Duration::from_millis(ms))
            )
        },
    )
}

/// A time as an option of the command line takes it.
fn time(ms: u64) -> String {
    let time = humantime::format_duration(Duration::from_millis(ms));
    time.to_string().replace(' ', "")
}

/// A change as the command line does it.
fn as_typed(command: &Command) -> Option<String> {
    let option = |name: &str, value: Option<String>| {
        value.map_or_else(String::new, |value| format!(" --{name} {value}"))
    };
    let for_time = |for_ms: &Option<u64>| option("for", for_ms.map(time));
    Some(match command {
        Command::Limit {
            client,
            upload,
            download,
            for_ms,
        } => format!(
            "shaper limit {client}{}{}{}",
            option("upload", upload.clone()),
            option("download", download.clone()),
            for_time(for_ms)
        ),
        Command::ClearLimit { client } => format!("shaper limit {client} --clear"),
        Command::Block { client, for_ms } => format!("shaper block {client}{}", for_time(for_ms)),
        Command::Unblock { client } => format!("shaper unblock {client}"),
        Command::Kill { flow, .. } => format!("shaper kill {flow}"),
        Command::Drain {
            server,
            percent,
            over_ms,
            ..
        } => format!(
            "shaper drain {server} --share {} --over {}",
            f64::from(*percent) / 100.0,
            time(*over_ms)
        ),
        Command::StopDrain { server } => format!("shaper drain {server} --stop"),
        _ => return None,
    })
}

/// Gives a key to a line of text, as a shell's line takes it.
pub fn edit(input: &mut Input, key: KeyEvent) {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    let request = match key.code {
        KeyCode::Char('u') if control => InputRequest::DeleteLine,
        KeyCode::Char('w') if control => InputRequest::DeletePrevWord,
        KeyCode::Char('a') if control => InputRequest::GoToStart,
        KeyCode::Char('e') if control => InputRequest::GoToEnd,
        KeyCode::Char(c) if !control => InputRequest::InsertChar(c),
        KeyCode::Backspace => InputRequest::DeletePrevChar,
        KeyCode::Delete => InputRequest::DeleteNextChar,
        KeyCode::Left => InputRequest::GoToPrevChar,
        KeyCode::Right => InputRequest::GoToNextChar,
        KeyCode::Home => InputRequest::GoToStart,
        KeyCode::End => InputRequest::GoToEnd,
        _ => return,
    };
    input.handle(request);
}
