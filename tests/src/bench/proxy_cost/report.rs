//! What `proxy-cost` prints.

use super::{Args, Case, Kind, Used};
use crate::bench::report::{line, no_bwlim, table, write_json};
use crate::haproxy::Installed;
use anyhow::Result;
use serde_json::json;
use std::time::Duration;

/// At most this share of what bwlim uses at its default.
const BOUND: f64 = 1.0 / 3.0;
/// A case counts when it delivered so much of what it should have.
const DELIVERED: std::ops::RangeInclusive<f64> = 0.93..=1.07;
/// Of the frames, the path itself may lose so many on a busy machine without
/// making another case of it.
const LOST: f64 = 0.001;
/// Above this share of a core for other programs, HAProxy often waits for them
/// and then does more at once.
const BUSY: f64 = 15.0;
const HEADER: [&str; 10] = [
    "case",
    "kB/s each",
    "haproxy %",
    "kernel %",
    "daemon %",
    "host %",
    "× paced",
    "programs %",
    "resent %",
    "others %",
];

/// Prints table and verdict, and writes the JSON file.
pub(super) fn print(args: &Args, haproxy: &Installed, cases: &[Case]) -> Result<()> {
    let find = |kind| cases.iter().find(|case| case.kind == kind);
    let paced = find(Kind::Paced).map(|case| case.used).unwrap_or_default();
    let mut rows = Vec::new();
    let mut results = Vec::new();
    let mut closing = Vec::new();
    let mut busiest = 0.0_f64;
    for Case { kind, used } in cases {
        let percent = |part: Duration| used.percent(part);
        let times = percent(used.host()) / paced.percent(paced.host()).max(1e-9);
        let ours = *kind == Kind::Ours;
        let only_ours = |text: String| if ours { text } else { "-".into() };
        let name = kind.name();
        rows.push(vec![
            name.clone(),
            format!("{:.1}", used.rate(args.clients) / 1e3),
            format!("{:.2}", percent(used.haproxy)),
            format!("{:.2}", percent(used.kernel)),
            only_ours(format!("{:.2}", percent(used.daemon))),
            format!("{:.2}", percent(used.host())),
            format!("{times:.2}"),
            only_ours(format!("{:.2}", percent(used.programs))),
            format!("{:.2}", used.segments.percent_again()),
            format!("{:.0}", percent(used.others)),
        ]);
        busiest = busiest.max(percent(used.others));
        results.push(json!({
            "case": name, "bytes_per_s_each": used.rate(args.clients),
            "haproxy_percent": percent(used.haproxy), "kernel_percent": percent(used.kernel),
            "host_percent": percent(used.host()), "others_percent": percent(used.others),
            "daemon_percent": ours.then(|| percent(used.daemon)),
            "programs_percent": ours.then(|| percent(used.programs)),
            "segments_sent": used.segments.sent, "segments_resent": used.segments.again,
            "frames_lost_by_the_path": used.lost, "seconds": used.time.as_secs_f64(),
        }));
        if let Some(why) = void(args, *kind, used) {
            closing.push(format!("void    {name}: {why}"));
        }
    }
    match (find(Kind::Ours), find(Kind::Bwlim(None))) {
        (Some(ours), Some(bwlim)) => {
            let valid = [ours, bwlim]
                .iter()
                .all(|case| void(args, case.kind, &case.used).is_none());
            closing.extend(verdicts(&ours.used, &bwlim.used, valid));
        }
        _ => closing.push(format!("bwlim-in: {}", no_bwlim(haproxy))),
    }
    println!(
        "proxy-cost: {} WebSockets × {} kB/s of payload, uploaded ({}) through {haproxy}, one \
         thread;\nround trip {} ms; {} s a case in {} rounds. Percent of one core.\n",
        args.clients, args.rate, args.cc, args.rtt, args.seconds, args.rounds
    );
    println!("{}\n", table(&HEADER, rows).trim_fmt());
    println!(
        "haproxy: its thread, user and system. kernel: its threads that receive from clients and \
         backend.\nhost: the sum with the daemon. programs: ours in the kernel, a part of kernel \
         and haproxy.\nothers: what else ran on that CPU. Clients, path and backend are on other \
         CPUs.\n"
    );
    if busiest > BUSY {
        closing.push(format!(
            "note    other programs took up to {busiest:.0} % of the proxy's CPU: an idle machine \
             gives truer numbers"
        ));
    }
    for text in &closing {
        println!("{text}");
    }
    write_json(
        args.json.as_deref(),
        &json!({
            "benchmark": "proxy-cost", "haproxy": haproxy.version, "clients": args.clients,
            "bytes_per_s": args.rate * 1000, "cc": args.cc, "rtt_ms": args.rtt,
            "seconds": args.seconds, "rounds": args.rounds, "bwlim": haproxy.has_bwlim(),
            "bound_ours_to_bwlim": BOUND, "cases": results,
        }),
    )
}

/// Why a case can't be compared.
fn void(args: &Args, kind: Kind, used: &Used) -> Option<String> {
    if used.lost as f64 > used.frames as f64 * LOST {
        return Some(format!(
            "the path lost {} frames by itself, this machine is too busy",
            used.lost
        ));
    }
    let share = used.rate(args.clients) / (f64::from(args.rate) * 1e3);
    (kind != Kind::Silent && !DELIVERED.contains(&share))
        .then(|| format!("delivered {:.1} % of what it should", share * 100.0))
}

fn verdicts(ours: &Used, bwlim: &Used, valid: bool) -> Vec<String> {
    let share = |of: fn(&Used) -> Duration| {
        ours.percent(of(ours)) / bwlim.percent(of(bwlim)).max(f64::MIN_POSITIVE)
    };
    let (process, host) = (share(|used| used.haproxy), share(Used::host));
    let bound = format!(
        "of bwlim-in's at its default (at most {:.0} %)",
        BOUND * 100.0
    );
    let bytes = ours.bytes as f64 / bwlim.bytes.max(1) as f64;
    let mut lines = vec![
        line(
            valid && process <= BOUND,
            &format!(
                "CPU of HAProxy with ours is {:.0} % {bound}",
                process * 100.0
            ),
        ),
        line(
            valid && host <= BOUND,
            &format!(
                "CPU of the whole host with ours is {:.0} % {bound}",
                host * 100.0
            ),
        ),
    ];
    if !valid {
        lines.push(format!(
            "        not comparable as it is: ours delivered {:.0} % of the bytes of bwlim-in",
            bytes * 100.0
        ));
    }
    lines
}
