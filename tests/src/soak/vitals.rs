//! The daemon's memory, descriptors and threads, and the maps' memory.

use super::checks::{Check, Checks};
use crate::leftovers::Owned;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Of a daemon that has just started nothing is said.
const YOUNG: Duration = Duration::from_secs(10);
/// A quarter of a life has so many samples at least.
const ENOUGH: usize = 5;
/// What a flat line may rise by: an allocator keeps some.
const RISE: f64 = 0.05;
const RISE_KB: u64 = 512;
/// Connections of the control socket and to HAProxy come and go.
const RISE_DESCRIPTORS: u64 = 3;
/// Answers are written and HAProxy's are read on threads that are kept while there
/// is work within ten seconds: as many as ever worked at once, which may happen
/// late. Of the soak's questions and of HAProxy's two sockets these are few.
const RISE_THREADS: u64 = 4;
/// The daemon's own: the first, the kernel's, that of window updates and two
/// workers; and twice as many as work at once.
const THREADS: u64 = 5 + 2 * RISE_THREADS;

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    rss_kb: u64,
    descriptors: u64,
    threads: u64,
}

/// All lives of the daemon.
#[derive(Clone, Debug, Default)]
pub(super) struct Vitals {
    /// By process, in order.
    lives: Vec<(u32, Instant, Vec<Sample>)>,
}

fn status(pid: u32, field: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    text.lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .with_context(|| format!("no {field}"))
}

impl Vitals {
    /// A daemon has started.
    pub(super) fn born(&mut self, pid: u32) {
        self.lives.push((pid, Instant::now(), Vec::new()));
    }

    /// Daemons so far.
    pub(super) fn lives(&self) -> usize {
        self.lives.len()
    }

    /// Takes a sample; none where it has just ended.
    pub(super) fn sample(&mut self) {
        let Some((pid, _, samples)) = self.lives.last_mut() else {
            return;
        };
        let pid = *pid;
        let sample = || -> Result<Sample> {
            Ok(Sample {
                at: Instant::now(),
                rss_kb: status(pid, "VmRSS")?,
                descriptors: fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64,
                threads: status(pid, "Threads")?,
            })
        };
        samples.extend(sample().ok());
    }

    /// Resident memory just now, in kB.
    pub(super) fn rss_kb(&self) -> u64 {
        let samples = self.lives.last().map(|(_, _, samples)| samples.as_slice());
        samples.unwrap_or_default().last().map_or(0, |s| s.rss_kb)
    }

    /// Judges the longest life, by its second and its last quarter.
    pub(super) fn judge(&self, checks: &mut Checks) {
        let length = |samples: &[Sample], born: Instant| {
            samples.last().map_or(Duration::ZERO, |s| s.at - born)
        };
        let longest = self
            .lives
            .iter()
            .max_by_key(|(_, born, samples)| length(samples, *born));
        let Some((pid, born, samples)) = longest else {
            return;
        };
        let grown: Vec<Sample> = samples
            .iter()
            .filter(|sample| sample.at - *born >= YOUNG)
            .copied()
            .collect();
        let quarter = grown.len() / 4;
        if quarter < ENOUGH {
            return;
        }
        let of = |value: fn(&Sample) -> u64| {
            (
                median(&grown[quarter..2 * quarter], value),
                median(&grown[grown.len() - quarter..], value),
            )
        };
        let (second, last) = of(|s| s.rss_kb);
        let most = second + RISE_KB.max((second as f64 * RISE) as u64);
        checks.that(Check::Memory, last <= most, || {
            format!("process {pid}: {second} kB in its second quarter, {last} kB in its last")
        });
        let highest = grown.iter().map(|s| s.rss_kb).max().unwrap_or_default();
        checks.number(
            Check::Memory,
            format!(
                "longest life {:.0} s of {} daemons: median {second} kB in its second quarter, \
                 {last} kB in its last, {highest} kB at most; {:+.1} kB a minute\nmedian of each \
                 daemon in turn, kB: {}",
                length(samples, *born).as_secs_f64(),
                self.lives.len(),
                slope(&grown),
                self.each()
            ),
        );
        let (fd2, fd4) = of(|s| s.descriptors);
        let (threads2, threads4) = of(|s| s.threads);
        let every = self.lives.iter().flat_map(|(_, _, samples)| samples);
        let most_threads = every.map(|s| s.threads).max().unwrap_or_default();
        checks.that(
            Check::Descriptors,
            fd4 <= fd2 + RISE_DESCRIPTORS
                && threads4 <= threads2 + RISE_THREADS
                && most_threads <= THREADS,
            || {
                format!(
                    "{fd2} descriptors, then {fd4}; {threads2} threads, then {threads4}, at most \
                     {most_threads}"
                )
            },
        );
        checks.number(
            Check::Descriptors,
            format!("median {fd2} and {fd4} descriptors, {threads2} and {threads4} threads, at most {most_threads}"),
        );
    }

    /// The medians of up to sixteen daemons, evenly chosen.
    fn each(&self) -> String {
        let medians: Vec<u64> = self
            .lives
            .iter()
            .filter(|(_, _, samples)| !samples.is_empty())
            .map(|(_, _, samples)| median(samples, |s| s.rss_kb))
            .collect();
        let step = medians.len().div_ceil(16).max(1);
        let shown: Vec<_> = medians.iter().step_by(step).map(u64::to_string).collect();
        shown.join(" ")
    }
}

fn median(samples: &[Sample], value: fn(&Sample) -> u64) -> u64 {
    let mut values: Vec<u64> = samples.iter().map(value).collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Least squares, in kB a minute.
fn slope(samples: &[Sample]) -> f64 {
    let Some(first) = samples.first() else {
        return 0.0;
    };
    let points: Vec<(f64, f64)> = samples
        .iter()
        .map(|s| ((s.at - first.at).as_secs_f64() / 60.0, s.rss_kb as f64))
        .collect();
    let count = points.len() as f64;
    let (x, y) = points
        .iter()
        .fold((0.0, 0.0), |(x, y), point| (x + point.0, y + point.1));
    let (x, y) = (x / count, y / count);
    let (above, below) = points.iter().fold((0.0, 0.0), |(above, below), point| {
        let dx = point.0 - x;
        (above + dx * (point.1 - y), below + dx * dx)
    });
    if below > 0.0 { above / below } else { 0.0 }
}

/// How many programs, maps and links a daemon has.
pub(super) fn objects(pid: u32) -> Result<[usize; 3]> {
    let owned = Owned::by(pid)?;
    Ok([owned.programs.len(), owned.maps.len(), owned.links.len()])
}

/// Waits until a daemon has as many as expected: what one before it had is freed
/// a moment after it ended.
pub(super) fn wait_objects(pid: u32, expected: [usize; 3]) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let there = objects(pid)?;
        if there == expected {
            return Ok(());
        }
        anyhow::ensure!(
            Instant::now() < deadline,
            "programs, maps, links: {there:?}, at first {expected:?}"
        );
        sleep(Duration::from_millis(200));
    }
}

/// Memory of each map that a daemon has open, in bytes, by its name.
pub(super) fn map_memory(pid: u32) -> Result<BTreeMap<String, u64>> {
    let mut names = BTreeMap::new();
    for map in aya::maps::loaded_maps().flatten() {
        names.insert(map.id(), map.name_as_str().unwrap_or_default().to_owned());
    }
    let mut memory: BTreeMap<u32, (String, u64)> = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // A descriptor may be closed meanwhile.
        let Ok(text) = fs::read_to_string(entry?.path()) else {
            continue;
        };
        let field = |name: &str| -> Option<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim_start_matches(':').trim().parse().ok()
        };
        if let (Some(id), Some(bytes)) = (field("map_id"), field("memlock")) {
            let id = u32::try_from(id)?;
            let name = names.get(&id).cloned().unwrap_or_default();
            memory.insert(id, (name, bytes));
        }
    }
    // Some are each daemon's own: the name stays, the id does not.
    let mut by_name = BTreeMap::new();
    for (name, bytes) in memory.into_values() {
        *by_name.entry(name).or_default() += bytes;
    }
    Ok(by_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lives(rss: impl Fn(u64) -> u64) -> Vitals {
        let born = Instant::now();
        let samples = (0..200)
            .map(|second| Sample {
                at: born + Duration::from_secs(second),
                rss_kb: rss(second),
                descriptors: 40,
                threads: 5,
            })
            .collect();
        Vitals {
            lives: vec![(1, born, Vec::new()), (2, born, samples)],
        }
    }

    #[test]
    fn a_daemon_that_grows_is_found_and_one_that_grew_at_first_is_not() {
        for (rss, failed) in [
            ((|s| 20_000 + 50 * s) as fn(u64) -> u64, 1),
            (|s| if s < 30 { 8_000 } else { 20_000 + s % 7 }, 0),
        ] {
            let mut checks = Checks::new(false);
            lives(rss).judge(&mut checks);
            assert_eq!(checks.failed(), failed);
        }
    }

    #[test]
    fn threads_that_are_kept_are_few_and_more_are_found() {
        for (threads, failed) in [
            ((|s| 6 + s / 60) as fn(u64) -> u64, 0),
            (|s| if s < 100 { 6 } else { 11 }, 1),
            (|s| 6 + s / 10, 1),
            (|s| if s == 50 { 14 } else { 7 }, 1),
        ] {
            let mut vitals = lives(|_| 20_000);
            for (second, sample) in vitals.lives[1].2.iter_mut().enumerate() {
                sample.threads = threads(second as u64);
            }
            let mut checks = Checks::new(false);
            vitals.judge(&mut checks);
            assert_eq!(checks.failed(), failed, "{checks}");
        }
    }

    #[test]
    fn a_slope_is_per_minute() {
        let vitals = lives(|second| 1_000 + second);
        let (_, _, samples) = &vitals.lives[1];
        assert!((slope(samples) - 60.0).abs() < 1e-6);
    }
}
