//! What `isolation` prints.

use super::{Args, Case, Limiter, link};
use crate::bench::report::{line, no_bwlim, table, write_json};
use crate::haproxy::Installed;
use crate::ws::Recorder;
use anyhow::Result;
use serde_json::json;

/// At most so many times the idle p99 when ours limits.
const BOUND: f64 = 1.1;
const QUANTILES: [f64; 3] = [0.5, 0.99, 0.999];
const HEADER: [&str; 9] = [
    "case",
    "cc",
    "p50 ms",
    "p99 ms",
    "p99.9 ms",
    "p99/idle",
    "heavy Mbit/s",
    "resent %",
    "echoes",
];

/// Prints table and verdict, and writes the JSON file.
pub(super) fn print(
    args: &Args,
    haproxy: &Installed,
    cases: &[Case],
    recorder: &Recorder,
) -> Result<()> {
    let idle_p99 = recorder.quantile_ms(0, QUANTILES[1]).0;
    let mut rows = Vec::new();
    let mut results = Vec::new();
    let mut closing = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        let [p50, p99, p999] = QUANTILES.map(|q| recorder.quantile_ms(index, q).0);
        let echoes = recorder.quantile_ms(index, 0.5).1;
        let ratio = p99 / idle_p99.max(f64::MIN_POSITIVE);
        let (name, cc) = match &case.heavy {
            None => ("idle", "-"),
            Some((limiter, cc)) => (limiter.name(), cc.as_str()),
        };
        let measured = &case.result;
        let heavy = case.heavy.is_some();
        let rate = heavy.then(|| measured.rate_bps());
        let again = heavy.then(|| measured.segments.percent_again());
        let number = |value: Option<f64>| value.map_or_else(|| "-".into(), |v| format!("{v:.2}"));
        rows.push(vec![
            name.to_owned(),
            cc.to_owned(),
            format!("{p50:.1}"),
            format!("{p99:.1}"),
            format!("{p999:.1}"),
            format!("{ratio:.2}"),
            number(rate.map(|bps| bps / 1e6)),
            number(again),
            echoes.to_string(),
        ]);
        results.push(json!({
            "case": name, "cc": case.heavy.as_ref().map(|_| cc),
            "p50_ms": p50, "p99_ms": p99, "p99_9_ms": p999, "p99_to_idle": ratio,
            "echoes": echoes, "heavy_bps": rate,
            "segments_sent": measured.segments.sent, "segments_resent": measured.segments.again,
            "frames_lost_by_the_path": measured.lost,
        }));
        if measured.lost > 0 {
            closing.push(format!(
                "void    {name} {cc}: the path lost {} frames by itself, this machine is too busy",
                measured.lost
            ));
        }
        if matches!(&case.heavy, Some((Limiter::Ours, _))) {
            closing.push(line(
                ratio <= BOUND && echoes > 0 && measured.lost == 0,
                &format!("{name}, {cc}: p99 is {ratio:.2} times that of idle (at most {BOUND})"),
            ));
        }
        if matches!(&case.heavy, Some((Limiter::Unlimited, _))) && ratio < 1.5 {
            closing.push(format!(
                "void    {cc}: without a limit the light clients hardly suffer ({ratio:.2} times \
                 idle), so that this run shows nothing"
            ));
        }
    }
    if args.limiter.contains(&Limiter::Bwlim) && !haproxy.has_bwlim() {
        closing.push(format!("bwlim-in: {}", no_bwlim(haproxy)));
    }
    println!(
        "isolation: {} light WebSockets echo every 100 ms through {haproxy}; one uploads without end.\n\
         Round trip {} ms, backend link {:.0} Mbit/s with {} ms of queue, heavy client limited to \
         {:.1} Mbit/s\nat the IP level; {} s a case in {} rounds.\n",
        args.light,
        args.rtt,
        args.backend.bps() as f64 / 1e6,
        link::QUEUE_MS,
        args.limit.bps() as f64 / 1e6,
        args.seconds,
        args.rounds,
    );
    println!("{}\n", table(&HEADER, rows).trim_fmt());
    println!(
        "A client sends its next message after the echo, so latencies above 100 ms are seen \
         less often\nthan they are. resent: segments of the heavy client that TCP sent again, \
         in percent, its\nstart included.\n"
    );
    for text in &closing {
        println!("{text}");
    }
    write_json(
        args.json.as_deref(),
        &json!({
            "benchmark": "isolation", "haproxy": haproxy.version,
            "light_clients": args.light, "rtt_ms": args.rtt, "seconds": args.seconds,
            "rounds": args.rounds, "limit_bps": args.limit.bps(),
            "backend_bps": args.backend.bps(),
            "bwlim": haproxy.has_bwlim(), "bound_p99_to_idle": BOUND, "cases": results,
        }),
    )
}
