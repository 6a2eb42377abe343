//! The maps. Names, sizes and layouts are those of `shaper_common`; the daemon
//! pins each by its name.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf};
use shaper_common::class::{Class, MAX_CLASSES, PORT_WORDS, Settings};
use shaper_common::flow::{Client, Flow, Handshake, Scratch};
use shaper_common::group::{Group, MAX_GROUPS, MAX_MEMBERS, Member};
use shaper_common::key::{ClientKey, FlowKey, RuleKey};
use shaper_common::names;
use shaper_common::stats::STATS_LEN;

#[map]
pub static FLOWS: HashMap<FlowKey, Flow> = HashMap::with_max_entries(names::MAX_FLOWS, 0);

#[map]
pub static UDP_FLOWS: LruHashMap<FlowKey, Flow> =
    LruHashMap::with_max_entries(names::MAX_UDP_FLOWS, 0);

#[map]
pub static CLIENTS: HashMap<ClientKey, Client> = HashMap::with_max_entries(names::MAX_CLIENTS, 0);

#[map]
pub static UDP_CLIENTS: LruHashMap<ClientKey, Client> =
    LruHashMap::with_max_entries(names::MAX_UDP_CLIENTS, 0);

#[map]
pub static OVERFLOW: Array<Client> = Array::with_max_entries(1, 0);

#[map]
pub static GROUPS: Array<Group> = Array::with_max_entries(MAX_GROUPS, 0);

#[map]
pub static MEMBERS: LruHashMap<ClientKey, Member> = LruHashMap::with_max_entries(MAX_MEMBERS, 0);

#[map]
pub static HANDSHAKES: LruHashMap<FlowKey, Handshake> =
    LruHashMap::with_max_entries(names::MAX_HANDSHAKES, 0);

#[map]
pub static SYN_RATES: LruHashMap<ClientKey, u64> =
    LruHashMap::with_max_entries(names::MAX_SYN_RATES, 0);

#[map]
pub static CLASSES: Array<Class> = Array::with_max_entries(2 * MAX_CLASSES, 0);

#[map]
pub static RULES: LpmTrie<RuleKey, u32> = LpmTrie::with_max_entries(names::MAX_RULES, 0);

#[map]
pub static SETTINGS: Array<Settings> = Array::with_max_entries(2, 0);

#[map]
pub static PORTS: Array<u64> = Array::with_max_entries(2 * PORT_WORDS, 0);

#[map]
pub static GENERATION: Array<u32> = Array::with_max_entries(1, 0);

#[map]
pub static INTERFACES: HashMap<u32, u32> = HashMap::with_max_entries(names::MAX_INTERFACES, 0);

#[map]
pub static STATS: PerCpuArray<u64> = PerCpuArray::with_max_entries(STATS_LEN as u32, 0);

#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(names::EVENT_RING_BYTES, 0);

#[map]
pub static WINDOW_UPDATES: RingBuf = RingBuf::with_byte_size(names::UPDATE_RING_BYTES, 0);

#[map]
pub static EVENT_GATE: Array<u64> = Array::with_max_entries(1, 0);

/// Of the TC ingress program alone, which nothing interrupts on its CPU that
/// would use it too. Not pinned.
#[map]
pub static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// A flow before its first packet: too large for the stack.
pub static EMPTY: Flow = Flow::NEW;
/// A client before its first packet.
pub static EMPTY_CLIENT: Client = Client::NEW;
/// A member before its first packet.
pub static EMPTY_MEMBER: Member = Member::NEW;
