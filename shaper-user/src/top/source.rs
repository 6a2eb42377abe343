//! Where the dashboard's numbers come from: the control socket, or a fake.

use crate::control::client::{self, ClientError};
use crate::model::{Client, Clients, Flows, History, Servers, Status};
use crate::protocol::{Command, Done, ErrorBody, HistoryQuery, Query, SortKey};
use serde::de::DeserializeOwned;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::timeout;

/// Rows asked for. The daemon sorts and filters, so that 50,000 flows cost the
/// dashboard no more than this many.
pub const ROWS: usize = 500;
/// Flows of the client in the detail pane.
const DETAIL_ROWS: usize = 100;
/// An answer that takes longer than this will not come.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the dashboard shows just now, as queries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The rows of the clients tab.
    pub clients: Query,
    /// The rows of the flows tab, while it is open.
    pub flows: Option<Query>,
    /// The rows of the servers tab, while it is open.
    pub servers: Option<Query>,
    /// The minutes of the history tab, and those behind its cursor, when they are
    /// due.
    pub history: [Option<Box<HistoryQuery>>; 2],
    /// The client of the detail pane, while it is open.
    pub detail: Option<String>,
}

/// One client with its flows.
#[derive(Clone, Debug)]
pub struct Detail {
    /// The client as it was asked for.
    pub name: String,
    /// Its row; `None` when the daemon does not know it any more.
    pub client: Option<Client>,
    /// Its flows, the heaviest first.
    pub flows: Flows,
}

/// Everything one sample shows.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The daemon.
    pub status: Status,
    /// The clients.
    pub clients: Clients,
    /// The flows, where they were wanted.
    pub flows: Option<Flows>,
    /// The servers, where they were wanted.
    pub servers: Option<Servers>,
    /// Of the history what was wanted; or why there is none.
    pub history: [Option<Result<History, String>>; 2],
    /// The detail, where it was wanted.
    pub detail: Option<Detail>,
}

/// Why there is no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SourceError {
    /// Nobody answers.
    #[error("{0}")]
    Gone(String),
    /// The daemon answers, and says no.
    #[error("{}", .0.message)]
    Refused(ErrorBody),
}

/// Something that answers like the daemon.
pub trait Source: Send {
    /// One frame.
    fn fetch(&mut self, wanted: &Wanted)
    -> impl Future<Output = Result<Frame, SourceError>> + Send;

    /// Changes something.
    fn act(&mut self, command: Command) -> impl Future<Output = Result<Done, SourceError>> + Send;
}

/// The daemon behind its control socket. One connection is kept open; it is
/// made anew after an error.
pub struct Socket {
    path: PathBuf,
    client: Option<client::Client>,
}

impl Socket {
    /// The daemon that listens at `path`. Nothing is opened yet.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            client: None,
        }
    }

    async fn request<T: DeserializeOwned>(&mut self, command: Command) -> Result<T, SourceError> {
        // Taken out, so that a failure or a dropped future leaves no
        // half-read connection behind.
        let client = self.client.take();
        let work = async {
            let mut client = match client {
                Some(client) => client,
                None => client::Client::connect(&self.path).await?,
            };
            let answer = client.request(command).await;
            Ok((client, answer))
        };
        let (client, answer) = timeout(PATIENCE, work)
            .await
            .map_err(|_| SourceError::Gone(format!("no answer within {PATIENCE:?}")))?
            .map_err(why)?;
        if matches!(answer, Ok(_) | Err(ClientError::Refused(_))) {
            self.client = Some(client);
        }
        answer.map_err(why)
    }
}

/// What an error means to an operator, in one line of a terminal.
fn why(error: ClientError) -> SourceError {
    SourceError::Gone(match error {
        ClientError::Refused(error) => return SourceError::Refused(error),
        ClientError::NotRunning(path) => {
            let path = path.display();
            format!("nobody listens at {path}: is `shaper run` running?")
        }
        ClientError::Closed => "the daemon closed the connection".to_owned(),
        ClientError::Io(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            "the daemon closed the connection".to_owned()
        }
        other => other.to_string(),
    })
}

impl Source for Socket {
    async fn fetch(&mut self, wanted: &Wanted) -> Result<Frame, SourceError> {
        let status = self.request(Command::Status).await?;
        let clients = self
            .request(Command::Clients(wanted.clients.clone()))
            .await?;
        let flows = match &wanted.flows {
            Some(query) => Some(self.request(Command::Flows(query.clone())).await?),
            None => None,
        };
        let servers = match &wanted.servers {
            Some(query) => Some(self.request(Command::Servers(query.clone())).await?),
            None => None,
        };
        let mut history = [None, None];
        for (query, answer) in wanted.history.iter().zip(&mut history) {
            if let Some(query) = query {
                *answer = Some(self.history(HistoryQuery::clone(query)).await?);
            }
        }
        let detail = match &wanted.detail {
            Some(name) => Some(self.detail(name).await?),
            None => None,
        };
        Ok(Frame {
            status,
            clients,
            flows,
            servers,
            history,
            detail,
        })
    }

    async fn act(&mut self, command: Command) -> Result<Done, SourceError> {
        self.request(command).await
    }
}

impl Socket {
    /// A daemon that keeps none, or knows of none, is no reason to show nothing.
    async fn history(
        &mut self,
        query: HistoryQuery,
    ) -> Result<Result<History, String>, SourceError> {
        match self.request(Command::History(query)).await {
            Ok(history) => Ok(Ok(history)),
            Err(SourceError::Refused(body)) => Ok(Err(body.message)),
            Err(error) => Err(error),
        }
    }

    async fn detail(&mut self, name: &str) -> Result<Detail, SourceError> {
        let query = Query {
            sort: SortKey::Total,
            reverse: false,
            limit: Some(DETAIL_ROWS),
            filter: format!("client:{name}"),
        };
        let clients: Clients = self.request(Command::Clients(query.clone())).await?;
        let flows = self.request(Command::Flows(query)).await?;
        let client = clients
            .clients
            .iter()
            .find(|row| row.client == name)
            .or(clients.clients.first())
            .cloned();
        Ok(Detail {
            name: name.to_owned(),
            client,
            flows,
        })
    }
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
