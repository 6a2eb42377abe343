//! What `join` prints.

use super::Args;
use super::measure::Case;
use crate::bench::report::{line, table, write_json};
use crate::haproxy::Installed;
use anyhow::Result;
use serde_json::{Value, json};

/// HAProxy may be held for so many ms of a minute: the daemon asks for at most
/// one part in a hundred of its time.
const BOUND_MS: f64 = 600.0;
const HEADER: [&str; 8] = [
    "case",
    "haproxy %",
    "daemon %",
    "answers",
    "ms each",
    "held ms/min",
    "open p50 ms",
    "open p99 ms",
];

/// Prints table and verdict, and writes the JSON file.
pub(super) fn print(
    args: &Args,
    haproxy: &Installed,
    connections: u32,
    cases: &[Case; 2],
) -> Result<()> {
    let [without, with] = cases;
    let rows = ["without the join", "with the join"]
        .into_iter()
        .zip(cases)
        .map(|(name, case)| {
            let [p50, p99, _] = opening(case);
            let each = case.held_ms() / case.answers.len().max(1) as f64;
            vec![
                name.to_owned(),
                format!("{:.2}", case.percent(case.haproxy)),
                format!("{:.2}", case.percent(case.daemon)),
                case.answers.len().to_string(),
                format!("{each:.1}"),
                format!("{:.0}", case.held_ms_a_minute()),
                format!("{p50:.1}"),
                format!("{p99:.1}"),
            ]
        })
        .collect();
    println!(
        "join: {connections} idle WebSockets through {haproxy}, asked every {} s; {} s a case in {} \
         rounds. Percent of\none core.\n",
        args.poll, args.seconds, args.rounds
    );
    println!("{}\n", table(&HEADER, rows).trim_fmt());
    println!(
        "haproxy, daemon: their threads, user and system. answers, ms each, held: what our questions \
         took,\nfrom asking to the end of the answer. open: how long a WebSocket took to open \
         meanwhile, ten a second.\n"
    );
    let held = with.held_ms_a_minute();
    println!(
        "{}",
        line(
            held <= BOUND_MS && !with.answers.is_empty(),
            &format!("HAProxy was held for {held:.0} ms a minute (at most {BOUND_MS:.0})")
        )
    );
    let more = |part: fn(&Case) -> f64| part(with) - part(without);
    println!(
        "        CPU of HAProxy: {:+.2} % of a core by our questions; of the daemon: {:+.2} %",
        more(|case| case.percent(case.haproxy)),
        more(|case| case.percent(case.daemon))
    );
    println!(
        "        {} sessions in the last answer, {} ms between two questions",
        with.sessions, with.poll_ms
    );
    write_json(
        args.json.as_deref(),
        &json!({
            "benchmark": "join", "haproxy": haproxy.version, "connections": connections,
            "seconds": args.seconds, "rounds": args.rounds, "poll_s": args.poll,
            "bound_held_ms_per_minute": BOUND_MS,
            "without": result(without), "with": result(with),
        }),
    )
}

fn result(case: &Case) -> Value {
    let [p50, p99, max] = opening(case);
    json!({
        "haproxy_percent": case.percent(case.haproxy), "daemon_percent": case.percent(case.daemon),
        "answers_ms": case.answers, "held_ms_per_minute": case.held_ms_a_minute(),
        "sessions": case.sessions, "poll_ms": case.poll_ms,
        "open_p50_ms": p50, "open_p99_ms": p99, "open_max_ms": max,
        "seconds": case.time.as_secs_f64(),
    })
}

/// Median, 99th percentile and the longest time to open.
fn opening(case: &Case) -> [f64; 3] {
    let mut all = case.opening.clone();
    all.sort_unstable_by(f64::total_cmp);
    let last = all.len().saturating_sub(1);
    [0.5, 0.99, 1.0].map(|share| {
        let at = (last as f64 * share) as usize;
        all.get(at).copied().unwrap_or_default()
    })
}
