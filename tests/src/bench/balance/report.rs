//! What `balance` prints.

use super::{Args, HARD, Measured, Row};
use crate::bench::report::{line, table, write_json};
use crate::haproxy::Installed;
use anyhow::Result;
use serde_json::{Value, json};

/// With the agent at most so much, where leastconn alone is at least [`HARD`].
const BOUND: f64 = 1.2;
const HEADER: [&str; 9] = [
    "seed",
    "chosen",
    "alone",
    "ours",
    "heavy alone",
    "heavy ours",
    "open alone",
    "open ours",
    "weights",
];

/// Prints table and verdict, and writes the JSON file.
pub(super) fn print(args: &Args, haproxy: &Installed, rows: &[Row]) -> Result<()> {
    let cells = rows
        .iter()
        .map(|row| {
            let [alone, ours] = &row.measured;
            vec![
                row.order.seed.to_string(),
                (if row.hard { "hard" } else { "as it came" }).to_owned(),
                format!("{:.2}", alone.imbalance()),
                format!("{:.2}", ours.imbalance()),
                join(&alone.heavy),
                join(&ours.heavy),
                join(&alone.connections),
                join(&ours.connections),
                ours.weights.join("/"),
            ]
        })
        .collect();
    println!(
        "balance: {} heavy ({:.1} Mbit/s) and {} light ({:.2} Mbit/s) WebSockets open within {} s \
         through\n{haproxy}, leastconn, two servers; bytes of {} s after that. Daemon asks HAProxy \
         every {} s,\nHAProxy its agent every second.\n",
        args.heavy,
        args.rates()[1] / 1e6,
        args.light,
        args.rates()[0] / 1e6,
        args.opening().as_secs(),
        args.seconds,
        args.poll
    );
    println!("{}\n", table(&HEADER, cells).trim_fmt());
    println!(
        "alone, ours: bytes of the busier server over the mean; 1 is even, 2 all on one. \
         hard: the first\nseeds in which servers that take turns come to {HARD} or more. heavy, \
         open: clients by server.\nweights: in the end, from 25.\n"
    );
    for text in verdicts(rows) {
        println!("{text}");
    }
    write_json(args.json.as_deref(), &results(args, haproxy, rows))
}

fn join(numbers: &[u64]) -> String {
    let texts: Vec<String> = numbers.iter().map(u64::to_string).collect();
    texts.join("/")
}

/// Leastconn alone and ours, over some rows.
fn medians<'a>(rows: impl Iterator<Item = &'a Row> + Clone) -> [f64; 2] {
    [0, 1].map(|which| {
        let mut all: Vec<f64> = rows
            .clone()
            .filter_map(|row| row.measured.get(which))
            .map(Measured::imbalance)
            .collect();
        all.sort_unstable_by(f64::total_cmp);
        all.get(all.len() / 2).copied().unwrap_or_default()
    })
}

fn is_bad(row: &&Row) -> bool {
    row.measured[0].imbalance() >= HARD
}

fn verdicts(rows: &[Row]) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, hard) in [("as they came", false), ("hard", true)] {
        let of = rows.iter().filter(|row| row.hard == hard);
        if of.clone().next().is_some() {
            let [alone, ours] = medians(of);
            lines.push(format!(
                "median  orders {name}: {alone:.2} alone, {ours:.2} with our agent"
            ));
        }
    }
    let bad = rows.iter().filter(is_bad);
    let count = bad.clone().count();
    if count == 0 {
        lines.push(format!(
            "void    leastconn alone came to {HARD} in none: this run shows nothing"
        ));
    } else {
        let [alone, ours] = medians(bad.clone());
        let held = bad.filter(|row| row.measured[1].imbalance() <= BOUND);
        let held = held.count();
        lines.push(line(
            ours <= BOUND,
            &format!(
                "where leastconn alone came to {HARD} or more: median {alone:.2} alone, {ours:.2} with \
                 our agent (at most {BOUND}); {held} of {count} orders within"
            ),
        ));
    }
    let lost: u64 = rows
        .iter()
        .flat_map(|row| &row.measured)
        .map(|measured| measured.lost)
        .sum();
    lines.push(line(
        lost == 0,
        &format!("{lost} connections failed or ended: nobody was moved by force"),
    ));
    lines
}

fn results(args: &Args, haproxy: &Installed, rows: &[Row]) -> Value {
    let one = |measured: &Measured| {
        json!({
            "max_to_mean": measured.imbalance(), "bytes": measured.bytes,
            "connections": measured.connections, "heavy": measured.heavy,
            "weights": measured.weights, "lost": measured.lost,
        })
    };
    let orders: Vec<Value> = rows
        .iter()
        .map(|row| {
            let [alone, ours] = &row.measured;
            json!({
                "seed": row.order.seed, "hard": row.hard,
                "taking_turns": row.order.taking_turns(args.rates()),
                "alone": one(alone), "ours": one(ours),
            })
        })
        .collect();
    let [all, bad] = [medians(rows.iter()), medians(rows.iter().filter(is_bad))];
    json!({
        "benchmark": "balance", "haproxy": haproxy.version, "heavy": args.heavy,
        "light": args.light, "heavy_bps": args.heavy_rate.bps(),
        "light_bps": args.light_rate.bps(), "opening_s": args.opening().as_secs(),
        "seconds": args.seconds, "poll_s": args.poll, "agent_inter_s": 1, "hard_from": HARD,
        "bound": BOUND, "median_alone": all[0], "median_ours": all[1],
        "median_alone_where_bad": bad[0], "median_ours_where_bad": bad[1], "orders": orders,
    })
}
