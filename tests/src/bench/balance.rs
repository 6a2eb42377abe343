//! How evenly two servers are loaded when WebSockets of very different weight
//! open in any order: by leastconn alone, which counts them, and with our agent,
//! which knows what they carry.
//!
//! An order is one of heavy and light clients, with the moment that each
//! opens, made from a seed. Every order runs twice, side by side, in labs of
//! their own: alone and with the agent. Nothing closes. Once all are open, what
//! the servers receive is measured.
//!
//! Most orders are even by luck, where an agent has nothing to do. So there are
//! two sets: the first seeds as they come, and the first seeds of which it can
//! be said beforehand that leastconn alone ends badly: while nothing closes it
//! gives the servers turns.

mod measure;
mod order;
mod report;

use crate::haproxy;
use anyhow::{Context, Result, anyhow, ensure};
use measure::Measured;
use order::Order;
use shaper_user::policy::Rate;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

/// From this ratio of the busier server to the mean on, an order is hard.
const HARD: f64 = 1.5;
/// Seeds tried for hard orders.
const SEEDS: u64 = 10_000;

/// Options of `balance`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// About half a minute: fewer orders, and the clients open within 20 s, which
    /// is little time for an agent
    #[arg(long)]
    quick: bool,
    /// Orders as they come [default: 5; quick: 2]
    #[arg(long, value_name = "N")]
    orders: Option<usize>,
    /// Orders in which leastconn alone ends badly [default: 5; quick: 2]
    #[arg(long, value_name = "N")]
    hard: Option<usize>,
    /// The first seed
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Time in which the clients open [default: 60; quick: 20]
    #[arg(long, value_name = "SECONDS")]
    opening: Option<u64>,
    /// How long is measured then
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Heavy clients
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..=100))]
    heavy: u16,
    /// Light clients
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u16).range(..=500))]
    light: u16,
    /// What a heavy one uploads
    #[arg(long, value_name = "RATE", default_value = "4mbit")]
    heavy_rate: Rate,
    /// What a light one uploads
    #[arg(long, value_name = "RATE", default_value = "200kbit")]
    light_rate: Rate,
    /// How often our daemon asks HAProxy
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    poll: u64,
    /// Labs at a time
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    jobs: u16,
    /// The HAProxy to run; default: SHAPER_HAPROXY, else the newest here
    #[arg(long, value_name = "PATH")]
    haproxy: Option<PathBuf>,
    /// Write the results here, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Args {
    fn opening(&self) -> Duration {
        Duration::from_secs(self.opening.unwrap_or(if self.quick { 20 } else { 60 }))
    }

    fn rates(&self) -> [f64; 2] {
        [self.light_rate.bps() as f64, self.heavy_rate.bps() as f64]
    }
}

/// An order, and what came of it.
#[derive(Debug)]
struct Row {
    order: Order,
    /// Of the set that is hard beforehand.
    hard: bool,
    /// Leastconn alone, and with our agent.
    measured: [Measured; 2],
}

/// Runs it and prints the table.
///
/// # Errors
/// When something could not be set up, or broke.
pub fn run(args: &Args) -> Result<()> {
    let haproxy = haproxy::choose(args.haproxy.as_deref())?;
    let mut rows = rows(args)?;
    let mut cases: Vec<(&Order, bool, &mut Measured)> = rows
        .iter_mut()
        .flat_map(|row| {
            let [alone, ours] = &mut row.measured;
            [(&row.order, false, alone), (&row.order, true, ours)]
        })
        .collect();
    let jobs = usize::from(args.jobs);
    let seconds = args.opening().as_secs() + args.seconds + 6;
    eprintln!(
        "balance: {haproxy}, {} orders, alone and with our agent, {jobs} labs at a time, about {} \
         minutes",
        cases.len() / 2,
        (cases.len().div_ceil(jobs) as u64 * seconds).div_ceil(60)
    );
    for batch in cases.chunks_mut(jobs) {
        thread::scope(|scope| {
            let labs: Vec<_> = batch
                .iter_mut()
                .map(|(order, ours, result)| {
                    let haproxy = &haproxy;
                    scope.spawn(move || {
                        **result = measure::case(args, haproxy, order, *ours)
                            .with_context(|| format!("seed {}", order.seed))?;
                        anyhow::Ok(())
                    })
                })
                .collect();
            labs.into_iter()
                .try_for_each(|lab| lab.join().map_err(|_| anyhow!("panic in a lab"))?)
        })?;
    }
    report::print(args, &haproxy, &rows)
}

fn rows(args: &Args) -> Result<Vec<Row>> {
    let default = if args.quick { 2 } else { 5 };
    let (orders, hard) = (args.orders.unwrap_or(default), args.hard.unwrap_or(default));
    ensure!(orders + hard > 0, "no order to run");
    let order = |seed| Order::new(seed, args.heavy, args.light);
    let row = |order, hard| Row {
        order,
        hard,
        measured: Default::default(),
    };
    let first = args.seed..args.seed.saturating_add(orders as u64);
    let mut rows: Vec<Row> = first.clone().map(|seed| row(order(seed), false)).collect();
    let bad = (first.end..first.end.saturating_add(SEEDS))
        .map(order)
        .filter(|order| order.taking_turns(args.rates()) >= HARD)
        .take(hard);
    rows.extend(bad.map(|order| row(order, true)));
    ensure!(
        rows.len() == orders + hard,
        "leastconn alone reaches {HARD} in too few orders of these clients"
    );
    Ok(rows)
}
