//! Questions about what HAProxy is told to do.

use super::dialog::{Confirm, Dialog, question};
use super::keys::first;
use super::{App, Tab};
use crate::protocol::Command;
use std::net::SocketAddr;

/// What `D` drains: three tenths over ten minutes.
const PERCENT: u8 = 30;
const OVER_MS: u64 = 600_000;

impl App {
    /// Of the flow under the cursor.
    pub(super) fn ask_kill(&mut self) {
        if self.tab != Tab::Flows {
            return self.say("K closes a flow: choose one in the flows tab (2)");
        }
        first(&mut self.flows);
        let chosen = self.flows.cursor.and_then(|at| self.flows.items.get(at));
        let Some(flow) = chosen.map(|item| &item.row) else {
            return self.say("there is no row to choose");
        };
        if flow.haproxy.is_none() {
            return self.say("HAProxy has not told of this flow, and can't be told to close it");
        }
        let client = SocketAddr::new(flow.client, flow.client_port);
        self.ask(Command::Kill {
            flow: client.to_string(),
            dry_run: false,
        });
    }

    /// Of the server under the cursor.
    pub(super) fn ask_drain(&mut self) {
        if self.tab != Tab::Servers {
            return self.say("D drains a server: choose one in the servers tab (3)");
        }
        first(&mut self.servers);
        let Some(server) = self.servers.selected.as_ref().map(ToString::to_string) else {
            return self.say("there is no row to choose");
        };
        let drains = self.status.iter().flat_map(|status| &status.drains);
        let mut running = drains.filter(|drain| drain.state == "running");
        self.ask(if running.any(|drain| drain.server == server) {
            Command::StopDrain { server }
        } else {
            Command::Drain {
                server,
                percent: PERCENT,
                over_ms: OVER_MS,
                dry_run: false,
            }
        });
    }

    fn ask(&mut self, command: Command) {
        self.dialog = Some(Dialog::Confirm(Confirm {
            question: question(&command, None),
            command,
            sent: false,
            back: None,
        }));
    }
}
