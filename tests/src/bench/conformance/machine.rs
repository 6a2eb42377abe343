//! The whole machine's load and losses: when they show, a cell says nothing.

use anyhow::{Context, Result};
use std::fs;

/// Counters at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    busy: u64,
    all: u64,
    dropped: u64,
}

impl Machine {
    /// Reads them.
    ///
    /// # Errors
    /// When `/proc` has another form than expected.
    pub fn now() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat")?;
        let ticks: Vec<u64> = stat
            .lines()
            .next()
            .context("/proc/stat is empty")?
            .split_whitespace()
            .skip(1)
            // Guests are counted within user already.
            .take(8)
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        let all = ticks.iter().sum();
        // user nice system idle iowait …
        let idle: u64 = ticks.iter().skip(3).take(2).sum();
        let softnet = fs::read_to_string("/proc/net/softnet_stat")?;
        let dropped = softnet
            .lines()
            .map(|cpu| {
                let field = cpu.split_whitespace().nth(1).context("softnet_stat")?;
                u64::from_str_radix(field, 16).map_err(Into::into)
            })
            .sum::<Result<u64>>()?;
        Ok(Self {
            busy: all - idle,
            all,
            dropped,
        })
    }

    /// How busy it was since an earlier moment, in percent of all cores.
    pub fn busy_since(&self, earlier: &Self) -> f64 {
        let all = self.all.saturating_sub(earlier.all).max(1);
        self.busy.saturating_sub(earlier.busy) as f64 * 100.0 / all as f64
    }

    /// Packets that found a full backlog queue since an earlier moment: veth
    /// hands packets over through it.
    pub fn dropped_since(&self, earlier: &Self) -> u64 {
        self.dropped.saturating_sub(earlier.dropped)
    }
}
