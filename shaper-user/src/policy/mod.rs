//! The policy file: its types, and what it compiles to.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`units`] | rates, sizes and times as the file writes them |
//! | [`client`] | an address or prefix as the name of a client |
//! | [`interface`] | an interface by its name, or those that match a pattern |
//! | [`mistake`] | what is wrong with a file, with line, column and caret |
//! | `changes` | what differs between two policies, for the audit log |
//! | `choices` | the values that are one of a few words |
//! | `section` | a TOML table, read key by key with every mistake collected |
//! | `parse` | the file to a [`Policy`] |
//! | [`quota`] | how much a client may move in a time |
//! | [`place`] | limits by where HAProxy sends a connection |
//! | `compile` | a [`Policy`] and the runtime overrides to a [`Compiled`] |
//! | `lookup` | the longest prefix, as the kernel's trie finds it |
//! | `tables` | how much the kernel's tables hold |
//! | `report` | what `shaper check` prints |

pub mod changes;
mod choices;
pub mod client;
mod compile;
pub mod interface;
mod lookup;
pub mod mistake;
mod parse;
pub mod place;
pub mod quota;
mod report;
mod section;
mod tables;
pub mod units;

pub use compile::CompileError;
pub use mistake::{LoadError, Mistake, PolicyErrors};
pub use place::{PlaceRule, ServerLimit};
pub use quota::{Counts, Per, Quota, Then};
pub use report::report;
pub use tables::Tables;

use ipnet::IpNet;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use shaper_common::class::{Class, Settings};
use shaper_common::key::Addr;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Bits per second, decimal, as in tc. Never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate(pub(crate) u64);

/// A rate and a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RateLimit {
    /// IP-level rate.
    pub rate: Rate,
    /// Bytes at once; by default 100 ms of the rate, at least 64 KiB.
    pub burst: u64,
}

/// What a rule or the default sets. `None`: not named there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Client to this host, all its flows together.
    pub upload: Option<RateLimit>,
    /// This host to the client, all its flows together.
    pub download: Option<RateLimit>,
    /// Client to this host, each flow alone.
    pub flow_upload: Option<RateLimit>,
    /// This host to the client, each flow alone.
    pub flow_download: Option<RateLimit>,
    /// Open connections of a client.
    pub max_connections: Option<u32>,
    /// New connections in a time; as many at once as that time allows.
    pub connection_rate: Option<ConnectionRate>,
    /// Bytes in a time, and what holds once they are used.
    pub quota: Option<Arc<Quota>>,
}

/// What all clients of a rule are held to together, above what holds each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct GroupLimits {
    /// Clients to this host.
    pub upload: Option<RateLimit>,
    /// This host to the clients.
    pub download: Option<RateLimit>,
}

impl GroupLimits {
    /// Whether there is one.
    #[must_use]
    pub const fn is_set(&self) -> bool {
        self.upload.is_some() || self.download.is_some()
    }
}

/// New connections in a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionRate {
    /// So many connections …
    pub connections: u32,
    /// … in so many nanoseconds.
    pub per_nanos: u64,
}

/// Whether limits hold or are only watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Limits hold.
    #[default]
    Enforce,
    /// Count, and say what would be limited.
    Observe,
}

/// Where the HAProxy join finds its processes, and what it may do there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Haproxy {
    /// Stats sockets and master CLI sockets; `None`: the usual places, silently
    /// none of them; empty: no join.
    pub sockets: Option<Vec<PathBuf>>,
    /// How often they are asked, at most.
    pub poll: Duration,
    /// Where the agent check is answered; `None`: nowhere.
    pub agent: Option<SocketAddr>,
    /// What may be done to HAProxy's sessions; none by default.
    pub actions: Vec<Action>,
}

/// Where metrics are read, and of how many clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// The address of the HTTP listener.
    pub listen: SocketAddr,
    /// Of so many clients, those that move most, there are series.
    pub top_clients: u32,
}

impl Default for Metrics {
    /// 127.0.0.1:9750, 20 clients.
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 9750)),
            top_clients: 20,
        }
    }
}

/// Something that `shaper` does to HAProxy's sessions when told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// End one session.
    Kill,
    /// End the heaviest sessions of a server, one after the other.
    Drain,
}

impl Default for Haproxy {
    fn default() -> Self {
        Self {
            sockets: None,
            poll: Duration::from_secs(5),
            agent: None,
            actions: Vec::new(),
        }
    }
}

/// What is kept of the last hours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// Anything at all.
    pub enabled: bool,
    /// What is older goes.
    pub hours: u32,
    /// Bytes that its file may have.
    pub max_size: u64,
    /// Bytes from which on a flow is worth a row.
    pub flow_min: u64,
    /// Its file; `None`: `history.redb` in the state directory, where there is one.
    pub path: Option<PathBuf>,
}

impl Default for History {
    fn default() -> Self {
        Self {
            enabled: true,
            hours: 24,
            max_size: 256_000_000,
            flow_min: 1_000_000,
            path: None,
        }
    }
}

/// Where the shield runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Xdp {
    /// Native where the driver has it and the device is not a veth, else in TC.
    #[default]
    Auto,
    /// Native, or fail.
    Native,
    /// Generic.
    Generic,
    /// In TC.
    Off,
}

/// What SIGTERM does to the limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnExit {
    /// They hold on from the pins.
    #[default]
    Keep,
    /// They go, as with `shaper detach`.
    Detach,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name, unique.
    pub name: String,
    /// Clients it is for; never longer than the client prefix. None where it only
    /// says what holds after a quota.
    pub clients: Vec<IpNet>,
    /// What it sets; the rest comes from `[default]`.
    pub limits: Limits,
    /// What its clients are held to together.
    pub group: GroupLimits,
    /// Counted, never limited.
    pub exempt: bool,
    /// Dropped.
    pub block: bool,
}

/// A whole policy, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Interfaces to attach to, by name or [pattern](interface); empty: the default
    /// route's.
    pub interfaces: Vec<String>,
    /// Watched ports.
    pub ports: Vec<u16>,
    /// Whether limits hold.
    pub mode: Mode,
    /// Where the shield runs.
    pub xdp: Xdp,
    /// What SIGTERM does to the limits.
    pub on_exit: OnExit,
    /// Most TCP flows that are tracked each by itself.
    pub max_flows: u32,
    /// Most clients with TCP flows that have a bucket of their own.
    pub max_clients: u32,
    /// Bits of an IPv4 address that name a client.
    pub ipv4_prefix: u8,
    /// Bits of an IPv6 address that name a client.
    pub ipv6_prefix: u8,
    /// Whose days, weeks and months quotas go by.
    pub time_zone: TimeZone,
    /// Every client that no rule matches.
    pub default: Limits,
    /// The rules, in the order of the file.
    pub rules: Vec<Rule>,
    /// The rules that name backends or servers, in the order of the file. The
    /// kernel's tables have none of them.
    pub places: Vec<PlaceRule>,
    /// Limits of whole servers.
    pub server_limits: Vec<ServerLimit>,
    /// Users besides root who may change limits through the control socket.
    pub control_uids: Vec<u32>,
    /// Group that may read the control socket; `None`: root's.
    pub control_group: Option<String>,
    /// Where HAProxy's sockets are, and what may be done there.
    pub haproxy: Haproxy,
    /// Where metrics are read; `None`: nowhere.
    pub metrics: Option<Metrics>,
    /// What is kept of the last hours.
    pub history: History,
}

/// A limit or block set at runtime, over the policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// The client, cut to the client prefix.
    pub client: IpNet,
    /// Limits set at runtime, and when they end by themselves.
    pub limit: Option<RuntimeLimit>,
    /// Whether the client is blocked at runtime, and until when.
    pub block: Option<Expiry>,
}

/// When a runtime setting ends by itself; `None`: never.
pub type Expiry = Option<Timestamp>;

/// The limits of one runtime override.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuntimeLimit {
    /// Over the policy's upload limit; `None` leaves that one.
    pub upload: Option<RateLimit>,
    /// Over the policy's download limit; `None` leaves that one.
    pub download: Option<RateLimit>,
    /// When it ends.
    pub expires: Expiry,
}

/// A class with the names a person knows it by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedClass {
    /// The rule, or `default`.
    pub rule: String,
    /// What the kernel holds the client to.
    pub class: Class,
    /// The upload limit behind it, as written.
    pub upload: Option<RateLimit>,
    /// The download limit behind it, as written.
    pub download: Option<RateLimit>,
    /// The quota of the clients of this class, used or not.
    pub quota: Option<Arc<Quota>>,
}

/// A rule that bounds its clients together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedGroup {
    /// The rule.
    pub rule: String,
    /// Its limits, as written.
    pub limits: GroupLimits,
}

/// The compiled form: what the kernel is given, one generation of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// Interfaces to attach to, by name or [pattern](interface); empty: the default
    /// route's.
    pub interfaces: Vec<String>,
    /// Where the shield runs.
    pub xdp: Xdp,
    /// Watched ports, sorted.
    pub ports: Vec<u16>,
    /// How much the kernel's tables hold.
    pub tables: Tables,
    /// Masks and flags. The network namespace's cookie is filled in by the
    /// kernel side.
    pub settings: Settings,
    /// Index 0 is `default`.
    pub classes: Vec<NamedClass>,
    /// The rules that bound their clients together, by
    /// [`Class::group`](shaper_common::class::Class::group).
    pub groups: Vec<NamedGroup>,
    /// Prefix (network, bits of an [`Addr`]) to index in `classes`; sorted by
    /// network, then by bits, and without duplicates.
    pub rules: Vec<(Addr, u32, u32)>,
    /// Clients over their quota for whom the trie had no room.
    pub over_left_out: usize,
}
