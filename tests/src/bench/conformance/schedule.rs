//! Light cells side by side, heavy ones alone.

use super::cell;
use super::matrix::{Cell, Limiter};
use super::outcome::Outcome;
use anyhow::Result;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Percent of the rate below which a heavy cell must prove its path.
const SUSPECT: f64 = 97.0;

/// What a cell takes beside measuring: its lab, the last sample.
const AROUND: Duration = Duration::from_secs(3);

/// How long [`run`] will take.
pub fn estimate(cells: &[Cell], least: Duration, jobs: usize) -> Duration {
    let time = |cell: &Cell| {
        let conditions = &cell.conditions;
        let time = AROUND + conditions.warm_up() + conditions.measured(least);
        time.div_f64(conditions.side_by_side(jobs) as f64)
    };
    cells.iter().map(time).sum()
}

/// Measures all cells; `save` sees what there is after each. In the order of
/// `cells`.
pub fn run(
    cells: &[Cell],
    least: Duration,
    jobs: usize,
    save: impl Fn(&[Outcome]) -> Result<()> + Sync,
) -> Result<Vec<Outcome>> {
    let run = Run {
        cells,
        least,
        done: Mutex::default(),
        paths: Mutex::default(),
        save: &save,
    };
    let mut queues: BTreeMap<usize, VecDeque<(usize, Cell)>> = BTreeMap::new();
    for (index, &cell) in cells.iter().enumerate() {
        let jobs = cell.conditions.side_by_side(jobs);
        queues.entry(jobs).or_default().push_back((index, cell));
    }
    for (jobs, queue) in queues.into_iter().rev() {
        let queue = Mutex::new(queue);
        thread::scope(|scope| {
            let workers: Vec<_> = (0..jobs)
                .map(|_| {
                    scope.spawn(|| -> Result<()> {
                        loop {
                            let next = lock(&queue).pop_front();
                            let Some((index, cell)) = next else {
                                return Ok(());
                            };
                            run.one(index, cell)?;
                        }
                    })
                })
                .collect();
            workers.into_iter().try_for_each(|worker| {
                worker
                    .join()
                    .unwrap_or_else(|_| anyhow::bail!("panic in a cell"))
            })
        })?;
    }
    Ok(run.sorted())
}

struct Run<'a, S> {
    cells: &'a [Cell],
    least: Duration,
    done: Mutex<Vec<(usize, Outcome)>>,
    /// What paths reach without a limit, in percent of the rate.
    paths: Mutex<Vec<(Cell, f64)>>,
    save: &'a S,
}

impl<S: Fn(&[Outcome]) -> Result<()>> Run<'_, S> {
    fn one(&self, index: usize, cell: Cell) -> Result<()> {
        let mut outcome = cell::run(cell, self.least).unwrap_or_else(|error| Outcome {
            cell,
            measured: None,
            void: Some(format!("{error:#}").replace('\n', " ")),
        });
        self.check_path(&mut outcome);
        let brief = match (outcome.valid(), &outcome.void) {
            (Some(m), _) => format!(
                "{:.1} %, {} of {} again, {} drops",
                m.goodput_percent, m.retransmitted, m.segments, m.drops
            ),
            (None, reason) => format!("void: {}", reason.as_deref().unwrap_or_default()),
        };
        lock(&self.done).push((index, outcome));
        let outcomes = self.sorted();
        eprintln!("[{}/{}] {cell}: {brief}", outcomes.len(), self.cells.len());
        (self.save)(&outcomes)
    }

    fn sorted(&self) -> Vec<Outcome> {
        let mut done = lock(&self.done).clone();
        done.sort_by_key(|(index, _)| *index);
        done.into_iter().map(|(_, outcome)| outcome).collect()
    }

    /// A heavy cell that falls short may be the path's fault.
    fn check_path(&self, outcome: &mut Outcome) {
        let cell = outcome.cell;
        let short = outcome
            .valid()
            .is_some_and(|measured| measured.goodput_percent < SUSPECT);
        if !short || !cell.conditions.is_heavy() || cell.limiter == Limiter::None {
            return;
        }
        let path = Cell {
            limiter: Limiter::None,
            ..cell
        };
        let mut paths = lock(&self.paths);
        let known = paths.iter().find(|(known, _)| *known == path);
        let reached = match known {
            Some((_, reached)) => *reached,
            None => {
                let reached = cell::run(path, Duration::from_secs(5))
                    .ok()
                    .and_then(|outcome| outcome.measured)
                    .map_or(0.0, |measured| measured.goodput_percent);
                paths.push((path, reached));
                reached
            }
        };
        if reached < 100.0 {
            outcome.void = Some(format!("the path alone reaches {reached:.0} % of the rate"));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
