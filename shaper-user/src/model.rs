//! The stable JSON: what the control socket answers, `--json` prints and the
//! dashboard draws. Fields are added, never renamed or removed.
//!
//! Times are RFC 3339, durations are `_ms`, sizes are bytes and rates bits per
//! second; an absent limit is null.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// One direction of a flow or client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Direction {
    /// Bytes that passed, from the IP header on.
    pub bytes: u64,
    /// Packets that passed.
    pub packets: u64,
    /// Bits per second over the last interval.
    pub rate_bps: u64,
    /// Bytes dropped.
    pub dropped_bytes: u64,
    /// Packets dropped.
    pub dropped_packets: u64,
}

/// One direction of a client, with its limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Limited {
    /// The counters.
    #[serde(flatten)]
    pub traffic: Direction,
    /// The limit in bits per second; null when there is none.
    pub limit_bps: Option<u64>,
    /// The burst in bytes; null when there is no limit.
    pub burst_bytes: Option<u64>,
    /// Time that the client spent held by this limit.
    pub limited_ms: u64,
    /// Whether it is held now.
    pub limited: bool,
}

/// Where HAProxy sends a flow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Haproxy {
    /// The frontend that accepted it.
    pub frontend: String,
    /// The backend it was sent to.
    pub backend: String,
    /// The server it is pinned to.
    pub server: String,
    /// HAProxy's id of the session.
    pub session: String,
    /// The worker process that holds it.
    pub worker_pid: u32,
    /// From an older answer: HAProxy has not answered since.
    #[serde(default)]
    pub stale: bool,
}

/// A stats or master CLI socket of HAProxy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HaproxySocket {
    /// Where it is.
    pub path: String,
    /// `stats` or `master`; null before the first answer.
    pub kind: Option<String>,
    /// HAProxy's version; null before the first answer.
    pub version: Option<String>,
    /// `user`, `operator` or `admin`; null before the first answer.
    pub level: Option<String>,
    /// Sessions of TCP clients that are pinned to a server, in the last answer of
    /// all workers.
    pub sessions: u64,
    /// Worker processes that answered.
    pub workers: u64,
    /// Since the last answer; null before the first.
    pub age_ms: Option<u64>,
    /// What that answer took HAProxy.
    pub cost_ms: Option<f64>,
    /// Time between two questions now.
    pub poll_ms: u64,
    /// What is wrong with it; null when nothing is.
    pub error: Option<String>,
}

/// The heaviest sessions of a server being closed, one after the other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Drain {
    /// HAProxy's backend and server, as `backend/server`.
    pub server: String,
    /// `running`, `done`, `stopped` or `failed`.
    pub state: String,
    /// The part of its rate that is to go, 0 to 1.
    pub share: f64,
    /// What it carried at the beginning, both directions together.
    pub rate_bps: u64,
    /// The drain is done when it carries this.
    pub target_bps: u64,
    /// What it carries, smoothed over some seconds.
    pub now_bps: u64,
    /// Sessions to be closed at most.
    pub planned: u64,
    /// Sessions closed.
    pub closed: u64,
    /// Sessions that were over before their turn, or could not be closed.
    pub gone: u64,
    /// When it began.
    pub since: Timestamp,
    /// When the time that it may take is over.
    pub until: Timestamp,
    /// Why it ended; null while it runs.
    pub reason: Option<String>,
}

/// By what a TCP connection is held to its limit, where it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowBackpressure {
    /// Its sender is slowed down through the receive window; else what is too
    /// much is dropped.
    pub upload: bool,
    /// It is paced; else what is too much is dropped.
    pub download: bool,
}

impl Flow {
    /// A TCP connection that only the hard limit holds, in a direction at least.
    #[must_use]
    pub fn is_only_dropped(&self) -> bool {
        self.backpressure
            .is_some_and(|by| !by.upload || !by.download)
    }
}

/// What a flow is held to because of where HAProxy sends it, beside what its
/// client is: the tighter holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnLimit {
    /// In bits per second; null when there is none.
    pub upload_bps: Option<u64>,
    /// In bits per second; null when there is none.
    pub download_bps: Option<u64>,
    /// The rule, or `server_limit backend/server`; both, where they differ.
    pub by: String,
}

/// A row of `flows`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Flow {
    /// The remote address, plain.
    pub client: IpAddr,
    /// The remote port.
    pub client_port: u16,
    /// This host's address.
    pub local: IpAddr,
    /// The watched port.
    pub local_port: u16,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The rule that the client falls under; `default` when none matches.
    pub rule: String,
    /// Since the handshake completed.
    pub age_ms: u64,
    /// Since the last packet.
    pub idle_ms: u64,
    /// Client to this host.
    pub upload: Direction,
    /// This host to the client.
    pub download: Direction,
    /// Null for UDP, which only the hard limit holds.
    #[serde(default)]
    pub backpressure: Option<FlowBackpressure>,
    /// Null where its place limits nothing.
    #[serde(default)]
    pub own_limit: Option<OwnLimit>,
    /// Where HAProxy sends it; null while that is not known.
    pub haproxy: Option<Haproxy>,
}

/// The answer to `flows`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Flows {
    /// When the sample was taken.
    pub at: Timestamp,
    /// What the rates are averaged over.
    pub interval_ms: u64,
    /// Flows that matched the filter before `-n` cut the list.
    pub matched: u64,
    /// The rows, sorted.
    pub flows: Vec<Flow>,
}

/// A limit or block set at runtime, over the policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Runtime {
    /// Upload limit in bits per second, where one was set.
    pub upload_bps: Option<u64>,
    /// Download limit in bits per second, where one was set.
    pub download_bps: Option<u64>,
    /// Whether the client was blocked.
    pub blocked: bool,
    /// When the limit ends by itself; null: never.
    pub limit_expires: Option<Timestamp>,
    /// When the block ends by itself; null: never.
    pub block_expires: Option<Timestamp>,
}

/// A row of `clients`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Client {
    /// The address, or a CIDR where clients are aggregated.
    pub client: String,
    /// The rule that the client falls under; `default` when none matches.
    pub rule: String,
    /// Open TCP connections and live UDP flows.
    pub connections: u64,
    /// Counted, never limited.
    pub exempt: bool,
    /// Everything it sends is dropped.
    pub blocked: bool,
    /// Client to this host.
    pub upload: Limited,
    /// This host to the client.
    pub download: Limited,
    /// Since the daemon first saw the client.
    pub age_ms: u64,
    /// Since the last packet.
    pub idle_ms: u64,
    /// What was set at runtime; null when nothing was.
    pub runtime: Option<Runtime>,
    /// The servers its flows are pinned to, as `backend/server`, sorted.
    #[serde(default)]
    pub servers: Vec<String>,
    /// What it may move, and did; null where its rule has no quota.
    #[serde(default)]
    pub quota: Option<Quota>,
}

/// A client's quota.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    /// What it may move in all: the policy's, and what was added by hand.
    pub bytes: u64,
    /// What it did.
    pub used: u64,
    /// In what time: `hour`, `day`, `week`, `month`, or a rolling time as `24h`.
    pub per: String,
    /// `upload`, `download` or `both`.
    pub counts: String,
    /// When the next window begins; of a rolling time, when it is below its quota
    /// again, or something it used is forgotten. Null while nothing is used of a
    /// rolling time.
    pub resets_at: Option<Timestamp>,
    /// The rule whose limits hold once it is used, or `block`.
    pub then: String,
    /// `within`, `near` (80 %) or `reached`.
    pub state: String,
    /// What was added by hand for this window.
    #[serde(default)]
    pub added: u64,
}

/// The answer to `quota`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientQuota {
    /// The client, as in `clients`.
    pub client: String,
    /// Its rule.
    pub rule: String,
    /// When this was.
    pub at: Timestamp,
    /// Null where its rule has none.
    pub quota: Option<Quota>,
}

/// Where usage of quotas is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaStore {
    /// The file.
    pub path: String,
    /// `open` or `failing`.
    pub state: String,
    /// Clients whose usage is known.
    pub clients: u64,
    /// Clients that have used their quota.
    pub reached: u64,
    /// When it was last written.
    pub written: Option<Timestamp>,
    /// What became of a store that could not be read; null when none was.
    pub damaged: Option<String>,
    /// Why it cannot be written; null when it can.
    pub error: Option<String>,
}

/// The answer to `clients`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Clients {
    /// When the sample was taken.
    pub at: Timestamp,
    /// What the rates are averaged over.
    pub interval_ms: u64,
    /// Clients that matched the filter before `-n` cut the list.
    pub matched: u64,
    /// The rows, sorted.
    pub clients: Vec<Client>,
}

/// A row of `servers`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Server {
    /// HAProxy's backend.
    pub backend: String,
    /// HAProxy's server.
    pub server: String,
    /// Flows pinned to it.
    pub connections: u64,
    /// Client to this host, all its flows together: the rate is that of the open
    /// ones, the counters keep what closed ones passed. What a flow passed while
    /// HAProxy had no session for it is not in them, but for what it passed before
    /// it was found at a server for the first time. They begin again when the
    /// server had no session for a minute.
    pub upload: Direction,
    /// This host to the client, all its flows together, counted likewise.
    pub download: Direction,
    /// The client that moved the most bytes on it in the last interval, both ways;
    /// while nothing moves, since its open flows began. Null without flows.
    pub top_client: Option<String>,
    /// That client's part of the same bytes, 0 to 1; null where that is.
    pub top_client_share: Option<f64>,
    /// What the policy lets all clients together send to it; null: no limit.
    #[serde(default)]
    pub limit_upload_bps: Option<u64>,
    /// What all clients together may get from it; null: no limit.
    #[serde(default)]
    pub limit_download_bps: Option<u64>,
}

/// The answer to `servers`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Servers {
    /// When the sample was taken.
    pub at: Timestamp,
    /// What the rates are averaged over.
    pub interval_ms: u64,
    /// Servers that matched the filter before `-n` cut the list.
    #[serde(default)]
    pub matched: u64,
    /// The rows, sorted.
    pub servers: Vec<Server>,
    /// Every backend with a row, by name. A filter does not change its numbers.
    #[serde(default)]
    pub backends: Vec<Backend>,
}

/// How evenly a backend's servers are loaded.
///
/// A server is known by its sessions alone: one that had none for a minute is not
/// counted, so that beside servers which were never used a single busy one still
/// looks even. Neither are sessions that one connection has on several servers at
/// once. What HAProxy sends to a server for clients of ports that are not watched
/// is not in the rates, but such a server is counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Backend {
    /// HAProxy's backend.
    pub backend: String,
    /// Its servers that are counted: those with a session within the last minute.
    pub servers: u64,
    /// All their rates together (both directions), in bits per second.
    #[serde(default)]
    pub rate_bps: u64,
    /// Rate of the busiest server (both directions) over the mean of all; 1 is
    /// even, null while nothing moves.
    pub imbalance: Option<f64>,
}

/// An interface, and what is attached there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// `attached` or `gone`.
    pub state: String,
    /// `tcx`, `clsact` or null.
    pub ingress: Option<String>,
    /// `tcx`, `clsact` or null.
    pub egress: Option<String>,
    /// `native`, `generic` or null.
    pub xdp: Option<String>,
}

/// Whether limits work by backpressure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backpressure {
    /// Whether senders are slowed down through the receive window.
    pub upload: bool,
    /// Whether our sending is paced.
    pub download: bool,
    /// Whether senders that wait are told when they may go on; else they ask by
    /// themselves, and get less than their limit on short paths.
    #[serde(default)]
    pub window_updates: bool,
    /// What became of connections that were open before; null while there was
    /// none.
    #[serde(default)]
    pub adopted: Option<Adopted>,
    /// What is missing and why, where something is.
    pub reason: Option<String>,
}

/// Whether all connections that were found open are held by backpressure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopted {
    /// Through the receive window.
    pub upload: bool,
    /// By pacing.
    pub download: bool,
}

/// How many flows only the hard limit holds: it drops what is too much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HardLimitOnly {
    /// TCP connections, client to this host.
    pub upload: u64,
    /// TCP connections, this host to the client.
    pub download: u64,
    /// UDP flows, which have no other.
    pub udp: u64,
}

/// A table of the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Its map, in small letters: `flows`, `clients`, …
    pub name: String,
    /// How many it holds now; null where that is not counted.
    pub entries: Option<u64>,
    /// How many it may hold (of a ring buffer: bytes).
    pub max: u64,
    /// Its memory, as the kernel says; null where it does not.
    pub bytes: Option<u64>,
}

/// What found no room in the tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Overflow {
    /// Open TCP connections without a flow of their own: held with their client,
    /// by dropping alone.
    pub connections: u64,
    /// Clients came that found no room, and none has left since.
    pub clients_full: bool,
    /// What clients without room sent to this host, through one bucket together.
    pub upload: Direction,
    /// What this host sent to clients without room, likewise.
    pub download: Direction,
}

/// All clients of a rule that bounds them together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// The rule.
    pub rule: String,
    /// Clients to this host.
    pub upload: GroupDirection,
    /// This host to the clients.
    pub download: GroupDirection,
}

/// One direction of a group. What was dropped is what the group's own limit did.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupDirection {
    /// What passed.
    #[serde(flatten)]
    pub traffic: Direction,
    /// The limit in bits per second; null without one, and then nothing is counted.
    pub limit_bps: Option<u64>,
    /// Its burst.
    pub burst_bytes: Option<u64>,
    /// Clients that share it just now: those that took a part of it worth the name.
    pub active_clients: u64,
}

/// The answer to `status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The daemon's version.
    pub version: String,
    /// `enforce` or `observe`.
    pub mode: String,
    /// The policy file; null when none was given.
    pub policy: Option<String>,
    /// Since when the daemon runs.
    pub since: Timestamp,
    /// Where the programs are.
    pub interfaces: Vec<Interface>,
    /// Whether limits work by backpressure.
    pub backpressure: Backpressure,
    /// Flows that only the hard limit holds.
    #[serde(default)]
    pub hard_limit_only: HardLimitOnly,
    /// Every table of the kernel.
    #[serde(default)]
    pub tables: Vec<Table>,
    /// What found no room in them.
    #[serde(default)]
    pub overflow: Overflow,
    /// The rules that bound their clients together.
    #[serde(default)]
    pub groups: Vec<Group>,
    /// HAProxy's sockets; empty when there is none.
    #[serde(default)]
    pub haproxy: Vec<HaproxySocket>,
    /// Drains that run, and the last that did.
    #[serde(default)]
    pub drains: Vec<Drain>,
    /// Where usage is kept; null while no rule has a quota.
    #[serde(default)]
    pub quotas: Option<QuotaStore>,
    /// Flows tracked now.
    pub flows: u64,
    /// Clients tracked now.
    pub clients: u64,
    /// Counters of the data path and the daemon, by name.
    pub counters: BTreeMap<String, u64>,
    /// Clients held by a limit now.
    pub limited: u64,
    /// Sum over all clients, client to this host.
    pub upload: Direction,
    /// Sum over all clients, this host to the client.
    pub download: Direction,
    /// Watched ports.
    pub ports: Vec<u16>,
    /// The daemon's process.
    pub pid: u32,
    /// When the sample behind the numbers was taken.
    pub at: Timestamp,
    /// What is wrong just now, for people; empty when nothing is.
    pub warnings: Vec<String>,
}

/// The answer to `history`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// The beginning of the first minute that was asked for.
    pub since: Timestamp,
    /// The end of the last.
    pub until: Timestamp,
    /// The first minute that is kept; null before there is one.
    pub oldest: Option<Timestamp>,
    /// What each entry of `minutes` stands for: a minute, or several where there
    /// would be too many.
    pub step_ms: u64,
    /// Minutes in which the daemon ran, in their order: of all, or of the client or
    /// server that was asked for.
    pub minutes: Vec<HistoryStep>,
    /// Clients that there are, before the list was cut.
    pub clients_matched: u64,
    /// Those that moved most.
    pub clients: Vec<HistoryClient>,
    /// What clients moved that had no row in their minute, both ways.
    pub others_bytes: u64,
    /// Servers that there are, before the list was cut.
    pub servers_matched: u64,
    /// Those that carried most.
    pub servers: Vec<HistoryServer>,
    /// Flows that there are, before the list was cut.
    pub flows_matched: u64,
    /// Closed flows over the threshold that found no room.
    pub flows_cut: u64,
    /// Those that moved most.
    pub flows: Vec<HistoryFlow>,
}

/// A minute, or several.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct HistoryStep {
    /// Its beginning.
    pub at: Timestamp,
    /// How much of it the daemon saw.
    pub ms: u64,
    /// Client to this host.
    pub upload: HistoryDirection,
    /// This host to the client.
    pub download: HistoryDirection,
    /// Clients that moved something, at most in one of its minutes; null where a
    /// client or server was asked for.
    pub clients: Option<u64>,
}

/// One direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryDirection {
    /// Bytes that passed.
    pub bytes: u64,
    /// Bytes dropped.
    pub dropped_bytes: u64,
    /// Bits per second over the time that the daemon saw; null for sums.
    pub rate_bps: Option<u64>,
}

/// A client, all its minutes together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryClient {
    /// Address or prefix.
    pub client: String,
    /// Client to this host.
    pub upload: HistoryDirection,
    /// This host to the client.
    pub download: HistoryDirection,
}

/// A server, all its minutes together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryServer {
    /// HAProxy's backend.
    pub backend: String,
    /// HAProxy's server.
    pub server: String,
    /// Client to this host.
    pub upload: HistoryDirection,
    /// This host to the client.
    pub download: HistoryDirection,
}

/// A flow, with what it moved in the minutes that were asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryFlow {
    /// The remote host.
    pub client: IpAddr,
    /// Its port.
    pub client_port: u16,
    /// This host.
    pub local: IpAddr,
    /// The watched port.
    pub local_port: u16,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// HAProxy's backend; null where it had none.
    pub backend: Option<String>,
    /// HAProxy's server; null where it had none.
    pub server: Option<String>,
    /// When it opened.
    pub opened: Timestamp,
    /// The minute of its last row.
    pub last: Timestamp,
    /// It has closed.
    pub closed: bool,
    /// Client to this host.
    pub upload: HistoryDirection,
    /// This host to the client.
    pub download: HistoryDirection,
}
