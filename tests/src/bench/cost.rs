//! `cost`: time of the TC programs for one packet.

use super::{CLIENT_V4, CLIENT_V6, LOCAL_V4, LOCAL_V6, ROUNDS, summary};
use crate::empty;
use crate::testbed::{Hook, Testbed, key, policy};
use anyhow::Result;
use shaper_common::bucket::Limit;
use shaper_common::class::Class;
use shaper_common::control::op;
use shaper_common::key::{FlowKey, TCP};

const REPEAT: u32 = 1_000_000;
const CLIENT_PORT: u16 = 50_000;
const PAYLOAD: usize = 1400;

/// A TCP data segment from `CLIENT_PORT` to `port`, as it arrives.
fn segment(v6: bool, port: u16) -> Vec<u8> {
    let mut packet = vec![0_u8; 12];
    let len = u16::try_from(20 + PAYLOAD).unwrap_or(u16::MAX);
    if v6 {
        packet.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        packet.extend(len.to_be_bytes());
        packet.extend([6, 64]);
        packet.extend(CLIENT_V6.octets());
        packet.extend(LOCAL_V6.octets());
    } else {
        packet.extend([0x08, 0x00, 0x45, 0]);
        packet.extend((len + 20).to_be_bytes());
        packet.extend([0, 1, 0, 0, 64, 6, 0, 0]);
        packet.extend(CLIENT_V4.octets());
        packet.extend(LOCAL_V4.octets());
    }
    packet.extend(CLIENT_PORT.to_be_bytes());
    packet.extend(port.to_be_bytes());
    packet.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
    packet.resize(packet.len() + PAYLOAD, 0);
    packet
}

/// What a packet costs, beside an empty program, each case in turn in every
/// round.
///
/// # Errors
/// When the kernel refuses something.
pub fn cost() -> Result<()> {
    // Fast enough that nothing is refused: the whole path is run.
    let fast = Limit::new(400_000_000_000, 1 << 33);
    let limited = Class {
        upload: fast,
        download: fast,
        ..Class::default()
    };
    let both = Class {
        flow_upload: fast,
        flow_download: fast,
        ..limited
    };
    // Never refills within the run, so all but the first packets are dropped.
    let tight = Limit::new(1_000, 1500);
    let dropping = Class {
        upload: tight,
        ..Class::default()
    };

    let bed = |class| -> Result<Testbed> {
        let bed = Testbed::new(&policy(class, &[]))?;
        bed.open(key(CLIENT_V4.into(), CLIENT_PORT, LOCAL_V4.into(), TCP))?;
        bed.open(key(CLIENT_V6.into(), CLIENT_PORT, LOCAL_V6.into(), TCP))?;
        Ok(bed)
    };
    let (unlimited, limited, both, dropping) = (
        bed(Class::default())?,
        bed(limited)?,
        bed(both)?,
        bed(dropping)?,
    );
    // A packet of nobody: while a connection is known to have found no room for its
    // flow, its socket is looked for. There is none here.
    let stranger = Testbed::new(&policy(Class::default(), &[]))?;
    let looked_for = Testbed::new(&policy(Class::default(), &[]))?;
    looked_for.control(op::OVERFLOW, FlowKey::default(), 1)?;
    let (v4, v6, other) = (segment(false, 443), segment(true, 443), segment(false, 444));
    let cases: [(&str, &Testbed, &[u8]); 8] = [
        ("a port that is not watched", &unlimited, &other),
        ("tracked flow, no limit", &unlimited, &v4),
        ("tracked flow, limited", &limited, &v4),
        ("tracked flow, limited, IPv6", &limited, &v6),
        ("tracked flow, flow and client limited", &both, &v4),
        ("tracked flow, over its limit (dropped)", &dropping, &v4),
        ("no flow", &stranger, &v4),
        ("no flow, its socket looked for", &looked_for, &v4),
    ];
    let mut empty_times = Vec::new();
    let mut times = vec![Vec::new(); cases.len()];
    for _ in 0..ROUNDS {
        empty_times.push(empty::time(&v4, REPEAT)?);
        for ((_, bed, packet), times) in cases.iter().zip(&mut times) {
            times.push(bed.time(Hook::Ingress, packet, REPEAT)?);
        }
    }
    let (empty, smallest) = summary(&mut empty_times);
    println!("ns per run of the TC ingress program, {REPEAT} runs in each of {ROUNDS} rounds");
    println!(
        "{:40} {:>6} {:>8} {:>9}",
        "", "median", "smallest", "× empty"
    );
    println!(
        "{:40} {empty:>6} {smallest:>8} {:>9}",
        "empty program", "1.0"
    );
    for ((name, _, _), times) in cases.iter().zip(&mut times) {
        let (median, smallest) = summary(times);
        println!(
            "{name:40} {median:>6} {smallest:>8} {:>9.1}",
            median as f64 / empty as f64
        );
    }
    Ok(())
}
