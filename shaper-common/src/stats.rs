//! The counters of the data path: what was passed over, and why.

macro_rules! stats {
    ($($(#[doc = $doc:expr])+ $variant:ident => $name:literal,)+) => {
        /// A counter's index in the `STATS` map.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Stat { $($(#[doc = $doc])+ $variant,)+ }

        impl Stat {
            /// Every counter, in the order of its index.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The counter's name in `status`, in snake case.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

stats! {
    /// Packets whose headers end early; passed.
    Truncated => "truncated_packets",
    /// Packets whose headers contradict themselves; passed.
    Malformed => "malformed_packets",
    /// Non-first fragments of a known client.
    FragmentPackets => "fragment_packets",
    /// Bytes of those.
    FragmentBytes => "fragment_bytes",
    /// TCP packets to a watched port without a flow (after its close, scans,
    /// before adoption); passed.
    UntrackedUploadPackets => "untracked_upload_packets",
    /// Bytes of those.
    UntrackedUploadBytes => "untracked_upload_bytes",
    /// TCP packets from a watched port without a flow; passed.
    UntrackedDownloadPackets => "untracked_download_packets",
    /// Bytes of those.
    UntrackedDownloadBytes => "untracked_download_bytes",
    /// Packets over a limit, passed because the policy only observes.
    ObservedPackets => "observed_packets",
    /// Bytes of those.
    ObservedBytes => "observed_bytes",
    /// Packets dropped by a limit.
    LimitedPackets => "limited_packets",
    /// Bytes of those.
    LimitedBytes => "limited_bytes",
    /// Packets of blocked clients that were dropped.
    BlockedPackets => "blocked_packets",
    /// SYNs dropped above a client's connection rate.
    SynRateDropped => "syn_rate_dropped",
    /// SYNs dropped of clients at their number of connections.
    SynMaxDropped => "syn_max_dropped",
    /// Connections that found the flow table full: held with their client.
    FlowTableFull => "flow_table_full",
    /// Clients that found the client table full: held by the shared bucket.
    ClientTableFull => "client_table_full",
    /// Packets of connections without a flow of their own.
    OverflowPackets => "overflow_packets",
    /// Bytes of those.
    OverflowBytes => "overflow_bytes",
    /// Connections that found room for their flow later.
    FlowsRecovered => "flows_recovered",
    /// Flows opened.
    FlowsOpened => "flows_opened",
    /// Flows closed.
    FlowsClosed => "flows_closed",
    /// Flows whose client was missing and was made again.
    ClientsRecreated => "clients_recreated",
    /// Events sent to the daemon.
    EventsSent => "events_sent",
    /// Events held back by the rate limit or a full ring.
    EventsLost => "events_lost",
    /// Window updates that the daemon was asked for.
    WindowUpdates => "window_updates",
    /// Window updates that found the ring full: the sender asks by itself.
    WindowUpdatesLost => "window_updates_lost",
    /// Times that the kernel refused a pacing rate: the hard limit alone holds.
    PacingRefused => "pacing_refused",
    /// Lookups that cannot fail, and did (settings, class): passed.
    Internal => "internal_errors",
}

/// Number of counters.
pub const STATS_LEN: usize = Stat::ALL.len();
