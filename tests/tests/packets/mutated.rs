//! Packets that are nearly right, through the kernel and another parser.

use super::Test;
use super::build::forms;
use anyhow::{Context, Result, ensure};
use etherparse::{
    LaxNetSlice, LaxSlicedPacket, LinkExtSlice, NetSlice, SlicedPacket, TransportSlice,
};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, TestRunner};
use proptest::{collection, prelude::any, prop_oneof, sample::Index};
use shaper_common::class::Class;
use shaper_common::key::{FlowKey, TCP, UDP};
use shaper_tests::testbed::{Hook, PASS, PORT, Testbed, XDP_PASS, key, policy};
use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub const TESTS: &[(&str, Test)] = &[
    (
        "mutated_packets_are_counted_as_another_parser_reads_them",
        mutated,
    ),
    ("packets_that_fuzzing_kept_are_counted_likewise", kept),
];

/// Goes on for so long; else for [`CASES`].
const SECONDS_ENV: &str = "SHAPER_FUZZ_SECONDS";
/// Where the kept packets are, on a machine without this repository.
const CORPUS_ENV: &str = "SHAPER_PACKET_CORPUS";
const CASES: usize = 1_500;
/// Made up flows are read after each packet: no more than this many.
const CASES_A_TESTBED: usize = 500;
/// As many as the parser looks through.
const EXTENSIONS: usize = 6;

#[derive(Clone, Debug)]
enum Mutation {
    Set(Index, u8),
    Flip(Index, u8),
    /// Two bytes, in network order: lengths, types and ports.
    Word(Index, u16),
    Cut(Index),
    Remove(Index, usize),
    Insert(Index, Vec<u8>),
    /// Bytes of it again, at another place.
    Repeat(Index, Index, usize),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let words = prop_oneof![
        proptest::sample::select(vec![
            0_u16, 1, 8, 20, 28, 40, 0x0800, 0x86dd, 0x8100, 0x88a8, 0x2000, 0x1fff, 0x7fff,
            0xffff, PORT
        ]),
        any::<u16>()
    ];
    let next = proptest::sample::select(vec![0_u8, 6, 17, 43, 44, 51, 60, 0x45, 0x46, 0x4f, 0x60]);
    prop_oneof![
        (any::<Index>(), prop_oneof![next, any::<u8>()]).prop_map(|(at, to)| Mutation::Set(at, to)),
        (any::<Index>(), 0_u8..8).prop_map(|(at, bit)| Mutation::Flip(at, 1 << bit)),
        (any::<Index>(), words).prop_map(|(at, to)| Mutation::Word(at, to)),
        any::<Index>().prop_map(Mutation::Cut),
        (any::<Index>(), 1_usize..16).prop_map(|(at, len)| Mutation::Remove(at, len)),
        (any::<Index>(), collection::vec(any::<u8>(), 1..16))
            .prop_map(|(at, bytes)| Mutation::Insert(at, bytes)),
        (any::<Index>(), any::<Index>(), 1_usize..48)
            .prop_map(|(from, to, len)| Mutation::Repeat(from, to, len)),
    ]
}

fn mutate(packet: &mut Vec<u8>, mutation: &Mutation) {
    if packet.is_empty() {
        return;
    }
    let len = packet.len();
    match mutation {
        Mutation::Set(at, to) => packet[at.index(len)] = *to,
        Mutation::Flip(at, bits) => packet[at.index(len)] ^= bits,
        Mutation::Word(at, to) => {
            // Where headers have theirs.
            let at = at.index(len) & !1;
            for (byte, to) in packet[at..].iter_mut().zip(to.to_be_bytes()) {
                *byte = to;
            }
        }
        Mutation::Cut(at) => packet.truncate(at.index(len)),
        Mutation::Remove(at, n) => {
            let at = at.index(len);
            packet.drain(at..len.min(at + n));
        }
        Mutation::Insert(at, bytes) => {
            let at = at.index(len);
            packet.splice(at..at, bytes.iter().copied());
        }
        Mutation::Repeat(from, to, n) => {
            let (from, to) = (from.index(len), to.index(len));
            let bytes = packet[from..len.min(from + n)].to_vec();
            packet.splice(to..to, bytes);
        }
    }
}

/// Packets and bytes, by direction.
type Counts = [(u64, u64); 2];

/// The programs, without any limit: whatever comes passes.
struct Bench {
    testbed: Testbed,
    counted: HashMap<FlowKey, Counts>,
}

impl Bench {
    /// With a TCP flow of each form open.
    fn new() -> Result<Self> {
        let testbed = Testbed::new(&policy(Class::default(), &[]))?;
        for form in forms().iter().filter(|form| !form.udp) {
            // Several forms are of one flow.
            let _ = testbed.open(key(form.client, form.client_port, form.local(), TCP));
        }
        let mut bench = Self {
            testbed,
            counted: HashMap::new(),
        };
        bench.news()?;
        Ok(bench)
    }

    /// What was counted since, by flow.
    fn news(&mut self) -> Result<Vec<(FlowKey, Counts)>> {
        let mut news = Vec::new();
        for (key, flow) in self.testbed.sample()?.flows {
            let now = flow.traffic.map(|traffic| (traffic.packets, traffic.bytes));
            let before = self.counted.insert(key, now).unwrap_or_default();
            if before != now {
                news.push((
                    key,
                    [0, 1].map(|d| (now[d].0 - before[d].0, now[d].1 - before[d].1)),
                ));
            }
        }
        Ok(news)
    }

    /// One packet through each program; false where the kernel runs none on it.
    fn check(&mut self, packet: &[u8]) -> Result<bool> {
        // Shorter than an IP header behind an untagged Ethernet header.
        let Ok(verdict) = self.testbed.run(Hook::Ingress, packet) else {
            return Ok(false);
        };
        ensure!(verdict == PASS, "dropped at ingress");
        self.upload(packet)?;
        ensure!(
            self.testbed.run(Hook::Egress, packet)? == PASS,
            "dropped at egress"
        );
        let down = self.news()?;
        ensure!(down.len() <= 1, "one packet, counted in {down:?}");
        ensure!(
            self.testbed.run_shield(packet)? == XDP_PASS,
            "dropped by XDP"
        );
        Ok(true)
    }

    fn upload(&mut self, packet: &[u8]) -> Result<()> {
        let news = self.news()?;
        ensure!(news.len() <= 1, "one packet, counted in {news:?}");
        let counted = news.first().copied();
        if let Some((key, [(packets, bytes), down])) = counted {
            ensure!(packets == 1 && down == (0, 0), "{counted:?}");
            ensure!(bytes <= packet.len() as u64 - 14, "{counted:?}");
            ensure!(key.local_port == PORT);
        }
        // Whole and right to the other parser: then it is counted, and so long.
        if let Some((key, bytes)) = strictly(packet)
            && key.local_port == PORT
            && (key.protocol == UDP || self.counted.contains_key(&key))
        {
            let (counted, [(_, length), _]) = counted.context("not counted")?;
            ensure!(counted == key, "{counted:?} is {key:?}");
            ensure!(
                bytes.is_none_or(|bytes| bytes == length),
                "{length} bytes, not {bytes:?}"
            );
        }
        // Counted: then the other parser sees no other flow.
        if let Some((counted, _)) = counted
            && let Some(key) = laxly(packet)
        {
            ensure!(counted == key, "{counted:?} is {key:?}");
        }
        Ok(())
    }
}

fn ports(transport: &TransportSlice<'_>) -> Option<(u8, u16, u16)> {
    match transport {
        TransportSlice::Tcp(tcp) => Some((TCP, tcp.source_port(), tcp.destination_port())),
        TransportSlice::Udp(udp) => Some((UDP, udp.source_port(), udp.destination_port())),
        _ => None,
    }
}

fn flow(
    source: impl Into<IpAddr>,
    destination: impl Into<IpAddr>,
    (protocol, from, to): (u8, u16, u16),
) -> FlowKey {
    FlowKey {
        local_port: to,
        ..key(source.into(), from, destination.into(), protocol)
    }
}

/// The flow of a packet that is right from its first byte to its last, and the
/// length that its IP header says. `None` also for the few that are right and not
/// looked through: more than two tags, authentication in IPv4, extension headers
/// without end.
fn strictly(packet: &[u8]) -> Option<(FlowKey, Option<u64>)> {
    let other = SlicedPacket::from_ethernet(packet).ok()?;
    let ports = ports(other.transport.as_ref()?)?;
    if !known_tags(packet, &other.link_exts) {
        return None;
    }
    match other.net? {
        NetSlice::Ipv4(ip) if ip.extensions().auth.is_none() => {
            let header = ip.header();
            let key = flow(header.source_addr(), header.destination_addr(), ports);
            Some((key, Some(u64::from(header.total_len()))))
        }
        NetSlice::Ipv6(ip) if ip.extensions().clone().into_iter().count() <= EXTENSIONS => {
            let header = ip.header();
            let key = flow(header.source_addr(), header.destination_addr(), ports);
            let len = u64::from(header.payload_length());
            Some((key, (len > 0).then_some(len + 40)))
        }
        _ => None,
    }
}

/// Whether the tags are at most two, of the standards' types: the other parser
/// takes 0x9100 too, which the kernel does not.
fn known_tags(packet: &[u8], tags: &[LinkExtSlice<'_>]) -> bool {
    (0..).zip(tags).all(|(nth, tag)| {
        let known = |at: usize| matches!(packet.get(at..at + 2), Some([0x81, 0x00] | [0x88, 0xa8]));
        nth < 2 && matches!(tag, LinkExtSlice::Vlan(_)) && known(12 + 4 * nth)
    })
}

fn laxly(packet: &[u8]) -> Option<FlowKey> {
    let other = LaxSlicedPacket::from_ethernet(packet).ok()?;
    let ports = ports(other.transport.as_ref()?)?;
    match other.net? {
        LaxNetSlice::Ipv4(ip) => {
            let header = ip.header();
            Some(flow(header.source_addr(), header.destination_addr(), ports))
        }
        LaxNetSlice::Ipv6(ip) => {
            let header = ip.header();
            Some(flow(header.source_addr(), header.destination_addr(), ports))
        }
        LaxNetSlice::Arp(_) => None,
    }
}

fn mutated() -> Result<()> {
    let forms: Vec<Vec<u8>> = forms()
        .into_iter()
        .map(|form| {
            super::build::Form {
                payload: 40,
                ..form
            }
            .build()
        })
        .collect();
    let seconds = std::env::var(SECONDS_ENV).ok();
    let end = seconds
        .map(|seconds| seconds.parse().map(Duration::from_secs))
        .transpose()
        .context(SECONDS_ENV)?
        .map(|time| Instant::now() + time);
    let mut runner = TestRunner::new(Config {
        failure_persistence: None,
        ..Config::default()
    });
    let strategy = (any::<Index>(), collection::vec(mutation(), 0..6));
    let mut bench = Bench::new()?;
    let (mut cases, mut ran) = (0, 0);
    while end.map_or(cases < CASES, |end| Instant::now() < end) {
        cases += 1;
        if cases % CASES_A_TESTBED == 0 {
            drop(bench);
            bench = Bench::new()?;
        }
        let tree = strategy.new_tree(&mut runner);
        let (form, mutations) = tree.map_err(anyhow::Error::msg)?.current();
        let mut packet = form.get(&forms).clone();
        for mutation in &mutations {
            mutate(&mut packet, mutation);
        }
        let checked = bench.check(&packet);
        ran += usize::from(checked.with_context(|| format!("{packet:02x?}: {mutations:?}"))?);
    }
    // Not into the line that says how the test ended.
    eprintln!("{ran} of {cases} packets ran");
    ensure!(ran > cases / 2, "only {ran} of {cases} packets ran");
    Ok(())
}

fn kept() -> Result<()> {
    let corpus = std::env::var_os(CORPUS_ENV).map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shaper-user/fuzz/corpus/packet"),
        PathBuf::from,
    );
    let mut bench = Bench::new()?;
    let mut ran = 0;
    for entry in std::fs::read_dir(corpus)? {
        let path = entry?.path();
        let checked = bench.check(&std::fs::read(&path)?);
        ran += usize::from(checked.with_context(|| path.display().to_string())?);
    }
    ensure!(ran >= 15, "only {ran} ran");
    Ok(())
}
