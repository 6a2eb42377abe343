//! What a flood from a million sources costs, and whom it hurts: without us, with
//! the TC hooks alone, and with the shield on top.

use super::cpu::{of_process, receive_by_threads};
use super::report::{line, table, write_json};
use crate::flood::Kind;
use crate::flood::scene::{LIMIT, Outcome, Scene};
use crate::lab::INTERFACE;
use anyhow::Result;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

/// Nobody may wait longer for an echo than this, but for one in a hundred.
const BOUND: Duration = Duration::from_millis(50);

/// Options of `flood`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Packets of each flood, each from another source
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1000..))]
    packets: u64,
    /// Packets a second
    #[arg(long, value_name = "N", default_value_t = 150_000, value_parser = clap::value_parser!(u64).range(1000..))]
    rate: u64,
    /// Write the results here, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

struct Cell {
    mode: &'static str,
    kind: Kind,
    /// Nanoseconds of the receiving CPU for a packet of the flood.
    nanos: f64,
    /// Its share of that CPU.
    percent: f64,
    outcome: Outcome,
}

impl Cell {
    fn echo(&self, percent: usize) -> f64 {
        let times = &self.outcome.echoes;
        let index = (times.len() * percent / 100).min(times.len().saturating_sub(1));
        times.get(index).map_or(0.0, Duration::as_secs_f64) * 1e3
    }
}

const MODES: [(&str, Option<&str>); 4] = [
    ("no shaper", None),
    ("TC", Some("off")),
    ("generic XDP", Some("generic")),
    ("native XDP", Some("native")),
];

/// Runs it and prints the table.
///
/// # Errors
/// When something could not be set up, or a connection broke.
pub fn run(args: &Args) -> Result<()> {
    let mut cells = Vec::new();
    for (mode, xdp) in MODES {
        eprintln!("flood: {mode}");
        let scene = Scene::new(xdp)?;
        let threads = receive_by_threads(&scene.lab.proxy, INTERFACE, 0)?;
        let used =
            || -> Result<Duration> { threads.iter().map(|thread| of_process(*thread)).sum() };
        for kind in Kind::ALL {
            // What the connections cost by themselves.
            let before = used()?;
            sleep(Duration::from_secs(1));
            let idle = (used()? - before).as_secs_f64();
            let before = used()?;
            let outcome = scene.flood(kind, args.packets, args.rate)?;
            let took = outcome.took.as_secs_f64();
            let flood = (used()? - before).as_secs_f64() - idle * took;
            cells.push(Cell {
                mode,
                kind,
                nanos: flood * 1e9 / outcome.arrived as f64,
                percent: flood * 100.0 / took,
                outcome,
            });
        }
    }
    print(args, &cells)
}

fn print(args: &Args, cells: &[Cell]) -> Result<()> {
    let alone = |kind| {
        let found = cells.iter().find(|cell| cell.kind == kind);
        found.map_or(f64::NAN, |cell| cell.nanos)
    };
    let rows = cells.iter().map(|cell| {
        let with = cell.mode != MODES[0].0;
        vec![
            format!("{}, {}", cell.kind.name(), cell.mode),
            format!(
                "{:.0}",
                cell.outcome.arrived as f64 / cell.outcome.took.as_secs_f64() / 1e3
            ),
            format!("{:.0}", cell.percent),
            format!("{:.0}", cell.nanos),
            format!("{:.2}", cell.nanos / alone(cell.kind)),
            if with {
                format!("{:.1}", cell.outcome.limited * 100.0 / LIMIT)
            } else {
                "-".to_owned()
            },
            format!("{:.1}", cell.echo(50)),
            format!("{:.1}", cell.echo(99)),
            match (with, cell.outcome.wrong.is_empty()) {
                (false, _) => "-",
                (true, true) => "exact",
                (true, false) => "WRONG",
            }
            .to_owned(),
        ]
    });
    println!(
        "flood: {} packets of each kind, each from another source, {} a second offered, to a host \
         with one limited and\nthree light TCP connections.\n",
        args.packets, args.rate
    );
    let header = [
        "flood", "kpps", "cpu %", "ns each", "x alone", "limit %", "echo p50", "echo p99",
        "counters",
    ];
    println!("{}\n", table(&header, rows.collect()).trim_fmt());
    println!(
        "cpu, ns: of the thread that receives for the interface, less what the connections cost without \
         a flood.\nx alone: the same without shaper, in this run. limit: what the limited connection \
         got. echo: ms.\ncounters: of the light connections, against their sockets.\n"
    );
    let with = || cells.iter().filter(|cell| cell.mode != MODES[0].0);
    let exact = with().all(|cell| cell.outcome.wrong.is_empty());
    println!(
        "{}",
        line(exact, "every light connection is counted to the byte")
    );
    let held = with().all(|cell| cell.outcome.limited <= 1.06 * LIMIT);
    println!("{}", line(held, "the limit holds in every flood"));
    let soon = with().all(|cell| cell.echo(99) <= BOUND.as_secs_f64() * 1e3);
    println!("{}", line(soon, "99 of 100 echoes come within 50 ms"));
    for cell in with().filter(|cell| !cell.outcome.wrong.is_empty()) {
        println!(
            "{}, {}: {:?}",
            cell.kind.name(),
            cell.mode,
            cell.outcome.wrong
        );
    }
    let cells: Vec<Value> = cells
        .iter()
        .map(|cell| {
            json!({
                "flood": cell.kind.name(),
                "mode": cell.mode,
                "arrived": cell.outcome.arrived,
                "seconds": cell.outcome.took.as_secs_f64(),
                "cpu_percent": cell.percent,
                "ns_per_packet": cell.nanos,
                "ratio": cell.nanos / alone(cell.kind),
                "limited_bps": cell.outcome.limited,
                "echo_ms": { "p50": cell.echo(50), "p99": cell.echo(99), "max": cell.echo(100) },
                "wrong": cell.outcome.wrong,
            })
        })
        .collect();
    let value =
        json!({ "packets": args.packets, "rate": args.rate, "limit_bps": LIMIT, "cells": cells });
    write_json(args.json.as_deref(), &value)
}
