//! Names and sizes of maps and programs, the same in the object and the daemon.

/// The version of everything that is pinned: raise it with each change of a map's
/// layout or meaning. A start moves what an earlier version left, as
/// `shaper-user/src/kernel/migrate/convert.rs` says; 0 are pins without a version.
pub const ABI: u32 = 2;
/// The pin that says which version the others are: a symbolic link to its number.
pub const ABI_PIN: &str = "abi";

/// Flows of TCP, by [`crate::key::FlowKey`].
pub const FLOWS: &str = "FLOWS";
/// Flows of UDP, a bounded LRU.
pub const UDP_FLOWS: &str = "UDP_FLOWS";
/// Clients with TCP flows, by [`crate::key::ClientKey`].
pub const CLIENTS: &str = "CLIENTS";
/// Clients that only UDP was seen from, a bounded LRU.
pub const UDP_CLIENTS: &str = "UDP_CLIENTS";
/// The shared client: all those that found no room in [`CLIENTS`], and how many
/// connections found none in [`FLOWS`]; one [`crate::flow::Client`].
pub const OVERFLOW: &str = "OVERFLOW";
/// Groups of clients, by [`crate::class::Class::group`].
pub const GROUPS: &str = "GROUPS";
/// Clients as members of their groups, a bounded LRU.
pub const MEMBERS: &str = "MEMBERS";
/// Handshakes under way, a bounded LRU.
pub const HANDSHAKES: &str = "HANDSHAKES";
/// Connection-rate buckets, a bounded LRU.
pub const SYN_RATES: &str = "SYN_RATES";
/// Classes, two banks of [`crate::class::MAX_CLASSES`].
pub const CLASSES: &str = "CLASSES";
/// Longest-prefix trie from [`crate::key::RuleKey`] to a class index.
pub const RULES: &str = "RULES";
/// Settings, one per bank.
pub const SETTINGS: &str = "SETTINGS";
/// Watched ports, a bitmap per bank.
pub const PORTS: &str = "PORTS";
/// The policy generation in force, one word.
pub const GENERATION: &str = "GENERATION";
/// `IFACE_*` bits by interface index.
pub const INTERFACES: &str = "INTERFACES";
/// Counters by [`crate::stats::Stat`], per CPU.
pub const STATS: &str = "STATS";
/// The ring buffer of [`crate::event::Event`].
pub const EVENTS: &str = "EVENTS";
/// The ring buffer of [`crate::event::WindowUpdate`].
pub const WINDOW_UPDATES: &str = "WINDOW_UPDATES";
/// The bucket that bounds the events, one word.
pub const EVENT_GATE: &str = "EVENT_GATE";

/// Every map that is pinned, in the order of this file.
pub const PINNED_MAPS: [&str; 19] = [
    FLOWS,
    UDP_FLOWS,
    CLIENTS,
    UDP_CLIENTS,
    OVERFLOW,
    GROUPS,
    MEMBERS,
    HANDSHAKES,
    SYN_RATES,
    CLASSES,
    RULES,
    SETTINGS,
    PORTS,
    GENERATION,
    INTERFACES,
    STATS,
    EVENTS,
    WINDOW_UPDATES,
    EVENT_GATE,
];

/// The TC ingress classifier.
pub const INGRESS: &str = "shaper_ingress";
/// The TC egress classifier.
pub const EGRESS: &str = "shaper_egress";
/// The `sock_ops` program.
pub const SOCK_OPS: &str = "shaper_sock_ops";
/// Carries out [`crate::control`] requests; never attached.
pub const CONTROL: &str = "shaper_control";
/// Visits open sockets at the start: TCP iterator.
pub const ADOPT: &str = "shaper_adopt";
/// Visits open sockets at the end: TCP iterator.
pub const RELEASE: &str = "shaper_release";
/// The XDP shield.
pub const SHIELD: &str = "shaper_shield";

/// Most TCP flows tracked, where the policy says nothing else.
pub const MAX_FLOWS: u32 = 131_072;
/// Most UDP flows tracked; the least recently used leave first.
pub const MAX_UDP_FLOWS: u32 = 16_384;
/// Most clients with TCP flows, where the policy says nothing else.
pub const MAX_CLIENTS: u32 = 65_536;
/// Most clients with UDP only.
pub const MAX_UDP_CLIENTS: u32 = 16_384;
/// Most handshakes remembered.
pub const MAX_HANDSHAKES: u32 = 16_384;
/// Most connection-rate buckets.
pub const MAX_SYN_RATES: u32 = 16_384;
/// Most prefixes of both generations.
pub const MAX_RULES: u32 = 131_072;
/// Most interfaces attached to.
pub const MAX_INTERFACES: u32 = 256;
/// Bytes of the event ring.
pub const EVENT_RING_BYTES: u32 = 64 * 1024;
/// Bytes of the ring of window updates: some 1,700 of them.
pub const UPDATE_RING_BYTES: u32 = 256 * 1024;

/// XDP does the shield's checks on this interface: TC need not.
pub const IFACE_SHIELDED: u32 = 1 << 0;
