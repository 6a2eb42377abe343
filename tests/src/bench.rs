//! The benchmarks.

use crate::empty;
use crate::testbed::{Hook, Testbed, key, policy};
use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use shaper_common::bucket::Limit;
use shaper_common::class::Class;
use shaper_common::key::TCP;
use shaper_user::protocol::Query;
use shaper_user::sampler::Sampler;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

const REPEAT: u32 = 1_000_000;
const ROUNDS: usize = 9;

const LOCAL_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const LOCAL_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 0, 0, 0, 7);
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

/// Median, and the smallest.
fn summary(times: &mut [Duration]) -> (u128, u128) {
    times.sort_unstable();
    (times[times.len() / 2].as_nanos(), times[0].as_nanos())
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
    let (v4, v6, other) = (segment(false, 443), segment(true, 443), segment(false, 444));
    let cases: [(&str, &Testbed, &[u8]); 6] = [
        ("a port that is not watched", &unlimited, &other),
        ("tracked flow, no limit", &unlimited, &v4),
        ("tracked flow, limited", &limited, &v4),
        ("tracked flow, limited, IPv6", &limited, &v6),
        ("tracked flow, flow and client limited", &both, &v4),
        ("tracked flow, over its limit (dropped)", &dropping, &v4),
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

const FLOWS: u32 = 100_000;

/// Reading 100,000 flows, and making rows of them.
///
/// # Errors
/// When the kernel refuses something.
pub fn sampling() -> Result<()> {
    let compiled = policy(Class::default(), &[]);
    let mut bed = Testbed::new(&compiled)?;
    for n in 0..FLOWS {
        // Twenty thousand clients with five flows each.
        let client: IpAddr = Ipv4Addr::from(0x0a00_0000 + n / 5).into();
        let port = u16::try_from(10_000 + n % 5).context("port")?;
        bed.open(key(client, port, LOCAL_V4.into(), TCP))?;
    }
    let mut sampler = Sampler::new(Arc::new(compiled), bed.maps.generation()?, Timestamp::now());
    let query = Query {
        limit: Some(50),
        ..Query::default()
    };
    let (mut read, mut work) = (Vec::new(), Vec::new());
    let cpu = cpu_time()?;
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let sample = bed.sample()?;
        read.push(began.elapsed());
        ensure!(
            sample.flows.len() == FLOWS as usize,
            "{} flows",
            sample.flows.len()
        );
        let began = Instant::now();
        sampler.observe(sample, Timestamp::now());
        sampler.flows(&query)?;
        sampler.clients(&query, &[])?;
        work.push(began.elapsed());
    }
    let cpu = (cpu_time()? - cpu) / u32::try_from(ROUNDS)?;
    let row = |name: &str, times: &mut Vec<Duration>| {
        let (median, smallest) = summary(times);
        println!(
            "{name:50} {:>8.1} {:>8.1}",
            median as f64 / 1e6,
            smallest as f64 / 1e6
        );
    };
    println!("ms, {FLOWS} flows of 20,000 clients, {ROUNDS} rounds");
    println!("{:50} {:>8} {:>8}", "", "median", "smallest");
    row("reading all maps in batches", &mut read);
    row("rates, and the 50 heaviest clients and flows", &mut work);
    println!(
        "{:50} {:>8.1} % of one core at one sample a second",
        "CPU of both",
        cpu.as_secs_f64() * 100.0
    );
    Ok(())
}

fn cpu_time() -> Result<Duration> {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID)?;
    Ok(Duration::new(
        u64::try_from(now.tv_sec())?,
        u32::try_from(now.tv_nsec())?,
    ))
}
