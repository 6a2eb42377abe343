//! `sampling`: reading 100,000 flows out of the kernel, and ranking them.

use super::{LOCAL_V4, ROUNDS, summary};
use crate::testbed::{Testbed, key, policy};
use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use shaper_common::class::Class;
use shaper_common::key::TCP;
use shaper_user::protocol::Query;
use shaper_user::sampler::Sampler;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

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
    let mut sampler = Sampler::new(Arc::new(compiled), bed.generation()?, Timestamp::now());
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
        sampler.clients(&query, &[], &[])?;
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

pub(super) fn cpu_time() -> Result<Duration> {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID)?;
    Ok(Duration::new(
        u64::try_from(now.tv_sec())?,
        u32::try_from(now.tv_nsec())?,
    ))
}
