//! What the daemon's answers change.

use super::dialog::{Dialog, Message};
use super::row::ClientKey;
use super::{Action, App, BACKOFF, FROZEN, Gone};
use crate::protocol::{Done, ErrorCode};
use crate::top::source::{Frame, SourceError, Wanted};
use jiff::SignedDuration;

impl App {
    pub(super) fn fetched(&mut self, wanted: &Wanted, frame: Frame) -> Option<Action> {
        self.waiting = false;
        self.gone = None;
        accept(
            &mut self.clients.trying,
            &mut self.clients.filter,
            &wanted.clients.filter,
        );
        if let Some(query) = &wanted.flows {
            accept(
                &mut self.flows.trying,
                &mut self.flows.filter,
                &query.filter,
            );
        }
        if let Some(query) = &wanted.servers {
            accept(
                &mut self.servers.trying,
                &mut self.servers.filter,
                &query.filter,
            );
        }
        if self.frozen.is_some() {
            // A pane opened on the frozen picture would be empty otherwise.
            if self.pane.as_ref().is_some_and(|pane| pane.client.is_none()) {
                self.take_detail(&frame);
            }
            if let Some(frames) = &mut self.frozen {
                if frames.len() == FROZEN {
                    frames.pop_front();
                }
                frames.push_back(frame);
            }
        } else {
            self.take(frame);
        }
        if self.again { self.fetch() } else { None }
    }

    pub(super) fn take(&mut self, frame: Frame) {
        self.take_detail(&frame);
        let Frame {
            status,
            clients,
            flows,
            servers,
            history,
            ..
        } = frame;
        let span = clients.interval_ms.div_ceil(1000);
        self.totals.push(
            status.at.as_second(),
            span,
            [status.upload.rate_bps, status.download.rate_bps],
        );
        self.clients.take(
            clients.clients,
            clients.matched,
            clients.at.as_millisecond(),
            span,
        );
        if let Some(flows) = flows {
            self.flows.take(
                flows.flows,
                flows.matched,
                flows.at.as_millisecond(),
                flows.interval_ms.div_ceil(1000),
            );
        }
        if let Some(servers) = servers {
            self.servers.take(
                servers.servers,
                servers.matched,
                servers.at.as_millisecond(),
                servers.interval_ms.div_ceil(1000),
            );
            self.backends = servers.backends;
        }
        self.minutes.take(self.now, history);
        self.status = Some(status);
    }

    fn take_detail(&mut self, frame: &Frame) {
        let (Some(pane), Some(detail)) = (&mut self.pane, &frame.detail) else {
            return;
        };
        if pane.key.name != detail.name {
            return;
        }
        pane.client.clone_from(&detail.client);
        pane.flows.clone_from(&detail.flows.flows);
        pane.matched = detail.flows.matched;
        if let Some(client) = &detail.client {
            // Asked for by an address, it may be known by its prefix.
            pane.key = ClientKey::new(&client.client);
            let span = detail.flows.interval_ms.div_ceil(1000);
            let at = detail.flows.at.as_millisecond();
            self.clients.observe(client, at, span);
        }
    }

    pub(super) fn not_fetched(&mut self, wanted: &Wanted, error: &SourceError) -> Option<Action> {
        self.waiting = false;
        if let SourceError::Refused(body) = error
            && body.code == ErrorCode::BadRequest
            && self.reject(wanted, &body.message)
        {
            return self.fetch();
        }
        let tries = self.gone.as_ref().map_or(0, |gone| gone.tries);
        let wait = BACKOFF[tries.min(BACKOFF.len() - 1)];
        self.gone = Some(Gone {
            since: self.gone.as_ref().map_or(self.now, |gone| gone.since),
            why: error.to_string(),
            again: self.now + SignedDuration::from_secs(wait),
            tries: tries + 1,
        });
        self.again = false;
        None
    }

    /// A filter that the daemon does not take: the old one stays, and what was
    /// typed can be mended. False when no filter was being tried.
    fn reject(&mut self, wanted: &Wanted, message: &str) -> bool {
        let mut tries = [
            (&mut self.clients.trying, Some(&wanted.clients)),
            (&mut self.flows.trying, wanted.flows.as_ref()),
            (&mut self.servers.trying, wanted.servers.as_ref()),
        ];
        let trying = tries.iter().any(|(trying, _)| trying.is_some());
        let tried = tries.iter_mut().find_map(|(trying, asked)| {
            let filter = &asked.as_ref()?.filter;
            trying.take_if(|text| text == filter)
        });
        let Some(tried) = tried else {
            // Typed anew meanwhile: the next answer counts.
            return trying;
        };
        self.dialog = Some(Dialog::filter(&tried, Some(message.to_owned())));
        true
    }

    /// In the last line, or where it is too long for that in a window.
    fn tell(&mut self, title: &str, text: String) {
        if text.chars().count() <= usize::from(self.size.width) || self.dialog.is_some() {
            return self.say(text);
        }
        self.dialog = Some(Dialog::Message(Message {
            title: title.to_owned(),
            text,
        }));
    }

    pub(super) fn acted(&mut self, result: Result<Done, SourceError>) -> Option<Action> {
        let asked = match self.dialog.take() {
            Some(Dialog::Confirm(confirm)) if confirm.sent => Some(confirm),
            other => {
                self.dialog = other;
                None
            }
        };
        match result {
            Ok(done) => {
                self.tell("Done", done.message);
                return self.fetch();
            }
            Err(SourceError::Refused(body)) if body.code == ErrorCode::Denied => {
                let command = asked.as_ref().map(|confirm| &confirm.command);
                self.dialog = Some(Dialog::denied(&body.message, command));
            }
            Err(error) => match asked.and_then(|confirm| confirm.back) {
                Some(mut form) => {
                    form.error = Some(error.to_string());
                    self.dialog = Some(Dialog::Limit(form));
                }
                None => self.tell("Not done", format!("not done: {error}")),
            },
        }
        None
    }
}

/// A filter that was tried and answered is the filter.
fn accept(trying: &mut Option<String>, filter: &mut String, answered: &str) {
    if trying.as_deref() == Some(answered)
        && let Some(text) = trying.take()
    {
        *filter = text;
    }
}
