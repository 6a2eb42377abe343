//! What each counter of the kernel's counts, in a line.

use shaper_common::stats::Stat;

pub(super) const fn of(stat: Stat) -> &'static str {
    match stat {
        Stat::Truncated => "Packets whose headers end early; passed",
        Stat::Malformed => "Packets whose headers contradict themselves; passed",
        Stat::FragmentPackets => "Fragments but the first of known clients, in packets",
        Stat::FragmentBytes => "Fragments but the first of known clients, in bytes",
        Stat::UntrackedUploadPackets => {
            "TCP packets to a watched port that belong to no connection; passed"
        }
        Stat::UntrackedUploadBytes => "TCP to a watched port without a connection, in bytes",
        Stat::UntrackedDownloadPackets => {
            "TCP packets from a watched port that belong to no connection; passed"
        }
        Stat::UntrackedDownloadBytes => "TCP from a watched port without a connection, in bytes",
        Stat::ObservedPackets => "Packets over a limit, passed because the policy only observes",
        Stat::ObservedBytes => "Bytes over a limit, passed because the policy only observes",
        Stat::LimitedPackets => "Packets dropped by a limit",
        Stat::LimitedBytes => "Bytes dropped by a limit",
        Stat::BlockedPackets => "Packets of blocked clients that were dropped",
        Stat::SynRateDropped => "SYNs dropped above the connection rate of a client",
        Stat::SynMaxDropped => "SYNs dropped of clients at their number of connections",
        Stat::FlowTableFull => "Connections that found the table of flows full",
        Stat::ClientTableFull => "Clients that found the table of clients full",
        Stat::OverflowPackets => "Packets of connections without a flow of their own",
        Stat::OverflowBytes => "Bytes of connections without a flow of their own",
        Stat::FlowsRecovered => "Connections that found room for their flow later",
        Stat::FlowsOpened => "Flows opened",
        Stat::FlowsClosed => "Flows closed",
        Stat::ClientsRecreated => "Flows whose client was missing and was made again",
        Stat::EventsSent => "Events that the kernel sent to the daemon",
        Stat::EventsLost => "Events held back by the kernel's rate limit or a full ring",
        Stat::WindowUpdates => "Window updates that the daemon was asked for",
        Stat::WindowUpdatesLost => "Window updates that found the ring full",
        Stat::PacingRefused => "Times that the kernel refused a pacing rate",
        Stat::Internal => "Lookups that cannot fail, and did; the packets passed",
    }
}
