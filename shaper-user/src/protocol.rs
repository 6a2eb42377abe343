//! The control socket's protocol: one JSON object a line, each way.
//!
//! A request names the protocol version and a command; the answer has either
//! `result` or `error`. A connection may send several requests in turn.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The version this build speaks.
pub const VERSION: u32 = 1;

/// What rows are ordered by. All descending, but for names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum SortKey {
    /// Upload rate.
    Upload,
    /// Download rate.
    Download,
    /// Both rates together.
    #[default]
    Total,
    /// The client's address, ascending; for servers the names.
    Client,
    /// Oldest first; for servers, which have no age, the names.
    Age,
    /// Time held by a limit (clients), bytes dropped (flows, servers).
    Limited,
}

/// Which rows, and how many.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    /// The order.
    #[serde(default)]
    pub sort: SortKey,
    /// Turn the order round.
    #[serde(default)]
    pub reverse: bool,
    /// At most so many rows; absent: all.
    #[serde(default)]
    pub limit: Option<usize>,
    /// Terms that all must match: `client:PREFIX`, `rule:NAME`, `state:STATE`,
    /// `port:N`, `protocol:tcp`, `backend:NAME`, `server:NAME`, or any text within
    /// client, rule, backend or server.
    #[serde(default)]
    pub filter: String,
}

/// Which events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventsQuery {
    /// Go on with those that come. The connection takes no other request then.
    #[serde(default)]
    pub follow: bool,
    /// At most so many of the last; absent: all that are remembered, and while
    /// following none.
    #[serde(default)]
    pub last: Option<usize>,
    /// Terms that all must match: `event:NAME`, `client:PREFIX`, `rule:NAME`, or
    /// any text within the event's sentence.
    #[serde(default)]
    pub filter: String,
}

/// Which part of the history.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HistoryQuery {
    /// Address or prefix; absent: all.
    #[serde(default)]
    pub client: Option<String>,
    /// `backend/server`; absent: all.
    #[serde(default)]
    pub server: Option<String>,
    /// From the minute on that this is in; absent: an hour before `until`.
    #[serde(default)]
    pub since: Option<Timestamp>,
    /// To the end of the minute before this; absent: now.
    #[serde(default)]
    pub until: Option<Timestamp>,
    /// At most so many clients, servers and flows each; absent: 20. With 0 the
    /// minutes alone, which costs least.
    #[serde(default)]
    pub limit: Option<usize>,
}

/// A command. Those from `Limit` on change something and need the right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// [`crate::model::Flows`].
    Flows(Query),
    /// [`crate::model::Clients`].
    Clients(Query),
    /// [`crate::model::Servers`].
    Servers(Query),
    /// [`crate::model::Status`].
    Status,
    /// [`crate::events::Batch`]; while following, one a line until the connection
    /// ends.
    Events(EventsQuery),
    /// [`crate::model::ClientQuota`].
    Quota {
        /// Address.
        client: String,
    },
    /// [`crate::model::History`].
    History(HistoryQuery),
    /// A limit at runtime. Answers [`Done`].
    Limit {
        /// Address or prefix.
        client: String,
        /// A rate as the policy writes it.
        #[serde(default)]
        upload: Option<String>,
        /// A rate as the policy writes it.
        #[serde(default)]
        download: Option<String>,
        /// Ends by itself after so many milliseconds.
        #[serde(default)]
        for_ms: Option<u64>,
    },
    /// Takes a runtime limit away. Answers [`Done`].
    ClearLimit {
        /// Address or prefix.
        client: String,
    },
    /// Blocks a client and closes its connections. Answers [`Done`].
    Block {
        /// Address or prefix.
        client: String,
        /// Ends by itself after so many milliseconds.
        #[serde(default)]
        for_ms: Option<u64>,
    },
    /// Takes a runtime block away. Answers [`Done`].
    Unblock {
        /// Address or prefix.
        client: String,
    },
    /// Has HAProxy end the session of a flow. Answers [`Done`].
    Kill {
        /// The client's address and port, or HAProxy's id of the session.
        flow: String,
        /// Only say what would be done.
        #[serde(default)]
        dry_run: bool,
    },
    /// Has HAProxy end the heaviest sessions of a server, one after the other.
    /// Answers [`Done`].
    Drain {
        /// `backend/server`.
        server: String,
        /// The part of its rate that is to go, 1 to 100.
        percent: u8,
        /// Milliseconds to spread it over.
        over_ms: u64,
        /// Only say what would be done.
        #[serde(default)]
        dry_run: bool,
    },
    /// Ends a drain. Answers [`Done`].
    StopDrain {
        /// `backend/server`.
        server: String,
    },
    /// Forgets what a client has used of its quota. Answers [`Done`].
    ResetQuota {
        /// Address.
        client: String,
    },
    /// Gives a client more for as long as its window lasts. Answers [`Done`].
    AddQuota {
        /// Address.
        client: String,
        /// A size as the policy writes it.
        bytes: String,
    },
    /// Reads the policy again. Answers [`Done`].
    Reload,
}

impl Command {
    /// Whether the command changes something.
    #[must_use]
    pub const fn changes(&self) -> bool {
        !matches!(
            self,
            Self::Flows(_)
                | Self::Clients(_)
                | Self::Servers(_)
                | Self::Status
                | Self::History(_)
                | Self::Events(_)
                | Self::Quota { .. }
        )
    }
}

/// A line from a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// [`VERSION`].
    pub v: u32,
    /// What to do.
    #[serde(flatten)]
    pub command: Command,
}

/// What a change did, in words for a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// One sentence.
    pub message: String,
}

/// Why a request was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// Not a request of this protocol, or a wrong value in it.
    BadRequest,
    /// The version is not spoken here.
    Version,
    /// This user may not change anything.
    Denied,
    /// Larger than a request may be, too many connections, or too slow.
    TooMuch,
    /// It was tried and failed.
    Failed,
}

/// An error answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// For programs.
    pub code: ErrorCode,
    /// For people.
    pub message: String,
}

/// A line from the daemon: exactly one of `result` and `error`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Response {
    /// [`VERSION`].
    pub v: u32,
    /// What was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorBody>,
}
