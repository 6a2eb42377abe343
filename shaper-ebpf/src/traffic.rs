//! The TC hooks: every packet of a watched port is counted per flow and client,
//! and charged to their buckets. One run per GRO/TSO aggregate.

use crate::Verdict;
use crate::atomic::{MapWord, add, clear_bits};
use crate::charge::{self, Sent};
use crate::maps::{FLOWS, HANDSHAKES, INTERFACES, SCRATCH, UDP_CLIENTS, UDP_FLOWS};
use crate::packet::{self, Packet, Stop};
use crate::policy::{Policy, flow_limit, observes};
use crate::report::count;
use crate::{client, group, overflow, shield, window};
use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::programs::TcContext;
use shaper_common::backpressure::Leeway;
use shaper_common::bucket::Limit;
use shaper_common::class::{CLASS_BLOCK, CLASS_EXEMPT, Class, Settings};
use shaper_common::flow::{
    Client, DOWNLOAD, FLOW_EDGE, FLOW_UNCOUNTED, Flow, Handshake, Traffic, UPLOAD,
};
use shaper_common::key::{FlowKey, TCP};
use shaper_common::names::IFACE_SHIELDED;
use shaper_common::stats::Stat;

/// What crosses the wire: an aggregate is several packets, each with headers.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Size {
    pub bytes: u64,
    pub packets: u64,
}

/// One packet on its way in direction `DIR`. What can't be read passes.
#[inline(always)]
pub fn classify<const DIR: usize>(ctx: &TcContext) -> Verdict {
    match try_classify::<DIR>(ctx) {
        Ok(verdict) => return verdict,
        Err(Stop::Foreign) => {}
        Err(Stop::Truncated) => count(Stat::Truncated, 1),
        Err(Stop::Malformed) => count(Stat::Malformed, 1),
    }
    Verdict::Pass
}

#[inline(always)]
fn try_classify<const DIR: usize>(ctx: &TcContext) -> Result<Verdict, Stop> {
    let Some(policy) = Policy::current() else {
        return Ok(Verdict::Pass);
    };
    let mut packet = Packet::default();
    read::<DIR>(ctx, &mut packet)?;
    let key = &packet.key;
    if packet.later_fragment {
        return Ok(fragment::<DIR>(ctx, policy, &packet));
    }
    if !policy.watches(key.local_port) {
        return Ok(Verdict::Pass);
    }
    let Some(settings) = policy.settings() else {
        return Ok(Verdict::Pass);
    };
    let size = size(ctx, &packet);
    let payload = (size.bytes - size.packets * u64::from(packet.headers)) as u32;
    let control = packet.flags & (packet::SYN | packet::FIN | packet::RST) != 0;
    // SAFETY: no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    let hop = Hop {
        policy,
        settings,
        key,
        sent: Sent {
            key: settings.client(&key.client),
            size,
            now,
            direction: DIR as u32,
            droppable: key.protocol != TCP || payload != 0 && !control,
        },
    };
    if key.protocol == TCP {
        let Some(flow) = FLOWS.get_ptr_mut(key) else {
            if packet.flags & (packet::SYN | packet::RST) == 0
                && let Some(verdict) = overflow::packet::<DIR>(ctx, &hop)
            {
                return Ok(verdict);
            }
            return Ok(untracked::<DIR>(ctx, &hop, &packet));
        };
        let Some(client) = client::of_tcp(&hop.sent.key, now, true) else {
            return Ok(overflow::shared::<DIR>(&hop, flow));
        };
        // SAFETY: `flow` is a live map value, an aligned word.
        let flags = unsafe { core::ptr::read_volatile(&raw const (*flow).flags) };
        if flags & FLOW_UNCOUNTED != 0 {
            client::count_late(flow, client);
        }
        let verdict = hop.limit::<DIR>(&packet, payload, flow, client);
        if DIR == DOWNLOAD as usize && verdict == Verdict::Pass {
            // Unused, it would not be returned at all.
            core::hint::black_box(window::offer(ctx, &hop, &packet, flow, client));
        }
        return Ok(verdict);
    }
    udp::<DIR>(&hop, &packet)
}

/// Parses; a packet whose head is scattered is pulled together first.
#[inline(always)]
fn read<const DIR: usize>(ctx: &TcContext, packet: &mut Packet) -> Result<(), Stop> {
    let read = packet::of_skb::<DIR>(ctx, packet);
    if read != Err(Stop::Truncated) || ctx.len() as usize <= ctx.data_end() - ctx.data() {
        return read;
    }
    let head = ctx.len().min(packet::HEAD);
    if ctx.pull_data(head).is_err() {
        return read;
    }
    *packet = Packet::default();
    packet::of_skb::<DIR>(ctx, packet)
}

/// What the packet takes on the wire, from the IP header on. Ethernet padding
/// is not counted; the segments inside an aggregate have headers each.
#[inline(always)]
fn size(ctx: &TcContext, packet: &Packet) -> Size {
    // SAFETY: `skb` is the program's context; the verifier checks the reads.
    let (len, mut segments) = unsafe { ((*ctx.skb.skb).len, (*ctx.skb.skb).gso_segs) };
    let whole = len - packet.offset;
    if segments == 0 {
        // From a hypervisor or a tap an aggregate comes uncounted.
        // SAFETY: as above.
        let segment = unsafe { (*ctx.skb.skb).gso_size };
        if segment != 0 {
            segments = whole.saturating_sub(packet.headers).div_ceil(segment);
        }
    }
    if segments > 1 {
        return Size {
            bytes: u64::from(whole) + u64::from(segments - 1) * u64::from(packet.headers),
            packets: u64::from(segments),
        };
    }
    let bytes = if packet.len == 0 || packet.len > whole {
        whole
    } else {
        packet.len
    };
    Size {
        bytes: u64::from(bytes),
        packets: 1,
    }
}

/// A fragment without ports: charged to its client where that is known, counted
/// apart, never dropped, because nothing says that it belongs to a watched port.
#[inline(always)]
fn fragment<const DIR: usize>(ctx: &TcContext, policy: Policy, packet: &Packet) -> Verdict {
    let Some(settings) = policy.settings() else {
        return Verdict::Pass;
    };
    let client_key = settings.client(&packet.key.client);
    let Some(client) = client::find(&client_key) else {
        return Verdict::Pass;
    };
    let size = size(ctx, packet);
    count(Stat::FragmentPackets, 1);
    count(Stat::FragmentBytes, size.bytes);
    if let Some(class) = client::class_of(policy, &client_key, client)
        && let Some(limit) = client_limit::<DIR>(class)
    {
        // SAFETY: no preconditions.
        let now = unsafe { bpf_ktime_get_ns() };
        // SAFETY: `client` is a live map value.
        let word = unsafe { MapWord::new(&raw mut (*client).traffic[DIR].tat) };
        word.charge(now, size.bytes, limit);
        group::charge_late::<DIR>(class, now, size);
    }
    Verdict::Pass
}

/// TCP without a flow: the handshake, or what comes after the close. A function
/// of its own for the stack's sake.
#[inline(never)]
fn untracked<const DIR: usize>(ctx: &TcContext, hop: &Hop<'_>, packet: &Packet) -> Verdict {
    let flags = packet.flags;
    let syn = flags & (packet::SYN | packet::ACK) == packet::SYN;
    if DIR == UPLOAD as usize {
        // SAFETY: `skb` is the program's context; the verifier checks the read.
        let ifindex = unsafe { (*ctx.skb.skb).ifindex };
        // SAFETY: the value is a word that only the daemon writes.
        let bits = unsafe { INTERFACES.get(ifindex) }.copied().unwrap_or(0);
        if bits & IFACE_SHIELDED == 0
            && shield::check(hop.policy, hop.settings, &hop.sent.key, syn, hop.sent.now)
                == Verdict::Drop
        {
            return Verdict::Drop;
        }
        if syn {
            let _ = HANDSHAKES.insert(hop.key, Handshake::default(), BPF_NOEXIST.into());
        }
    }
    if DIR == DOWNLOAD as usize && flags & packet::SYN != 0 {
        window::of_handshake(ctx, hop, packet);
    }
    let Some(handshake) = HANDSHAKES.get_ptr_mut(hop.key) else {
        let (packets, bytes) = if DIR == UPLOAD as usize {
            (Stat::UntrackedUploadPackets, Stat::UntrackedUploadBytes)
        } else {
            (Stat::UntrackedDownloadPackets, Stat::UntrackedDownloadBytes)
        };
        count(packets, hop.sent.size.packets);
        count(bytes, hop.sent.size.bytes);
        return Verdict::Pass;
    };
    // SAFETY: a live map value, aligned words.
    unsafe {
        add(&raw mut (*handshake).bytes[DIR], hop.sent.size.bytes);
        add(&raw mut (*handshake).packets[DIR], hop.sent.size.packets);
    }
    Verdict::Pass
}

/// UDP has no handshake: the first packet from a client makes the flow.
#[inline(always)]
fn udp<const DIR: usize>(hop: &Hop<'_>, packet: &Packet) -> Result<Verdict, Stop> {
    let flow = match UDP_FLOWS.get_ptr_mut(hop.key) {
        Some(flow) => flow,
        None if DIR == UPLOAD as usize => return Ok(first(hop)),
        None => {
            count(Stat::UntrackedDownloadPackets, hop.sent.size.packets);
            count(Stat::UntrackedDownloadBytes, hop.sent.size.bytes);
            return Ok(Verdict::Pass);
        }
    };
    let Some(client) = client::of_udp(hop.policy, &hop.sent.key, hop.sent.now) else {
        count_flow::<DIR>(flow, hop);
        return Ok(Verdict::Pass);
    };
    Ok(hop.limit::<DIR>(packet, 0, flow, client))
}

/// The first packet of a UDP flow. What it makes is filled in before it is put
/// into the tables, and not looked up: an LRU gives what was looked up a second
/// turn, so a flood of sources that send once pushes out its own, and not those
/// that are in use.
#[inline(never)]
fn first(hop: &Hop<'_>) -> Verdict {
    if shield::check(hop.policy, hop.settings, &hop.sent.key, false, hop.sent.now) == Verdict::Drop
    {
        return Verdict::Drop;
    }
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        count(Stat::Internal, 1);
        return Verdict::Pass;
    };
    let known = client::find(&hop.sent.key);
    // SAFETY: this CPU's value, which nothing else uses meanwhile.
    let scratch = unsafe { &mut *scratch };
    let client = match known {
        Some(client) => client,
        None => {
            scratch.client = Client::NEW;
            client::prepare(&mut scratch.client, hop.policy, &hop.sent.key, hop.sent.now);
            &raw mut scratch.client
        }
    };
    let verdict = overflow::charge_here::<{ UPLOAD as usize }>(hop, client);
    scratch.flow = Flow::NEW;
    scratch.flow.created = hop.sent.now;
    scratch.flow.last_seen = hop.sent.now;
    scratch.flow.generation = hop.policy.generation;
    let traffic = &mut scratch.flow.traffic[0];
    if verdict == Verdict::Pass {
        (traffic.bytes, traffic.packets) = (hop.sent.size.bytes, hop.sent.size.packets);
        // Its bucket is full, if it has one.
        if let Some(class) = client::class_of(hop.policy, &hop.sent.key, client) {
            traffic.tat = hop.sent.now + class.flow_upload.cost(hop.sent.size.bytes);
        }
    } else {
        (traffic.dropped_bytes, traffic.dropped_packets) =
            (hop.sent.size.bytes, hop.sent.size.packets);
    }
    if known.is_none()
        && UDP_CLIENTS
            .insert(&hop.sent.key, &scratch.client, BPF_NOEXIST.into())
            .is_err()
        && let Some(client) = client::find(&hop.sent.key)
    {
        // Another CPU was faster.
        // SAFETY: a live map value.
        unsafe { add_to(&raw mut (*client).traffic[0], hop.sent.size) };
    }
    if UDP_FLOWS
        .insert(hop.key, &scratch.flow, BPF_NOEXIST.into())
        .is_ok()
    {
        count(Stat::FlowsOpened, 1);
    } else if let Some(flow) = UDP_FLOWS.get_ptr_mut(hop.key) {
        count_flow::<{ UPLOAD as usize }>(flow, hop);
    } else {
        count(Stat::FlowTableFull, 1);
    }
    verdict
}

/// A packet with everything that is known of it.
pub struct Hop<'a> {
    pub policy: Policy,
    pub settings: &'a Settings,
    pub key: &'a FlowKey,
    pub sent: Sent,
}

impl Hop<'_> {
    /// Counts and charges a packet of a tracked flow; drops it where a limit
    /// says so and it may be.
    #[inline(always)]
    fn limit<const DIR: usize>(
        &self,
        packet: &Packet,
        payload: u32,
        flow: *mut Flow,
        client: *mut Client,
    ) -> Verdict {
        if let Some(class) = client::class_of(self.policy, &self.sent.key, client) {
            let observed = observes(self.settings);
            let blocked = DIR == UPLOAD as usize && class.flags & CLASS_BLOCK != 0;
            renew(flow, class, self.policy.generation, self.sent.now);
            let leeway = if observed {
                Leeway::None
            } else {
                // SAFETY: `flow` is a live map value.
                unsafe { window::leeway::<DIR>(packet, payload, &*flow) }
            };
            if blocked || !charge::flow(flow, client, class, &self.sent, leeway) {
                if !observed {
                    if blocked {
                        shield::blocked(&self.sent.key, self.sent.now);
                    } else {
                        count(Stat::LimitedPackets, self.sent.size.packets);
                        count(Stat::LimitedBytes, self.sent.size.bytes);
                    }
                    drop_from::<DIR>(flow, client, self.sent.size);
                    return Verdict::Drop;
                }
                count(Stat::ObservedPackets, self.sent.size.packets);
                count(Stat::ObservedBytes, self.sent.size.bytes);
            }
        }
        count_flow::<DIR>(flow, self);
        // SAFETY: `client` is a live map value. `last_seen` may be written by
        // two CPUs at once: either is right.
        unsafe {
            add_to(&raw mut (*client).traffic[DIR], self.sent.size);
            (*client).last_seen = self.sent.now;
        }
        Verdict::Pass
    }
}

/// A flow under a new policy: its debts (see [`bucket::forgive`]), and its
/// window, which is set anew. A function of its own for the stack's sake.
#[inline(never)]
fn renew(flow: *mut Flow, class: &Class, generation: u32, now: u64) {
    // SAFETY: `flow` is a live map value, the words aligned.
    unsafe {
        if (*flow).generation == generation {
            return;
        }
        let upload = MapWord::new(&raw mut (*flow).traffic[0].tat);
        let limit = flow_limit::<{ UPLOAD as usize }>(class, flow);
        upload.forgive(now, &limit);
        let download = MapWord::new(&raw mut (*flow).traffic[1].tat);
        let limit = flow_limit::<{ DOWNLOAD as usize }>(class, flow);
        download.forgive(now, &limit);
        (*flow).generation = generation;
        clear_bits(&raw mut (*flow).flags, FLOW_EDGE);
    }
}

#[inline(always)]
pub fn client_limit<const DIR: usize>(class: &Class) -> Option<&Limit> {
    if class.flags & CLASS_EXEMPT != 0 {
        return None;
    }
    let limit = if DIR == UPLOAD as usize {
        &class.upload
    } else {
        &class.download
    };
    limit.is_set().then_some(limit)
}

#[inline(always)]
pub fn count_flow<const DIR: usize>(flow: *mut Flow, hop: &Hop<'_>) {
    // SAFETY: `flow` is a live map value; see `Hop::limit` for `last_seen`.
    unsafe {
        add_to(&raw mut (*flow).traffic[DIR], hop.sent.size);
        (*flow).last_seen = hop.sent.now;
    }
}

/// # Safety
/// `traffic` points into a live map value.
#[inline(always)]
pub unsafe fn add_to(traffic: *mut Traffic, size: Size) {
    // SAFETY: by this function's contract; the words are aligned.
    unsafe {
        add(&raw mut (*traffic).bytes, size.bytes);
        add(&raw mut (*traffic).packets, size.packets);
    }
}

#[inline(always)]
fn drop_from<const DIR: usize>(flow: *mut Flow, client: *mut Client, size: Size) {
    // SAFETY: both are live map values, the words aligned.
    unsafe {
        add(&raw mut (*flow).traffic[DIR].dropped_bytes, size.bytes);
        add(&raw mut (*flow).traffic[DIR].dropped_packets, size.packets);
        add(&raw mut (*client).traffic[DIR].dropped_bytes, size.bytes);
        add(
            &raw mut (*client).traffic[DIR].dropped_packets,
            size.packets,
        );
    }
}
