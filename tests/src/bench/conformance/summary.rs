//! The worst cells against what is asked, and ours beside the best incumbent.

use super::matrix::{Conditions, Direction, Limiter};
use super::outcome::{Bounds, COARSE, FIRST_SECOND, JAIN, MAIN, Measured, Outcome, bounds, misses};
use super::table::table;
use std::fmt::Write as _;

/// Points of goodput that can't be told apart: a cell begins and ends somewhere within
/// a step of delivery, 64 KiB at 50 mbit, five segments at 1 mbit. That is 0.1
/// point of what is measured, and two are compared.
const NOISE: f64 = 0.2;
/// Of the policers' loss.
const LOSS: f64 = 0.1;

type Numbers<'a> = (&'a Conditions, &'a Measured);

fn numbers<'a>(
    outcomes: &'a [Outcome],
    limiter: Limiter,
    direction: Direction,
) -> Vec<Numbers<'a>> {
    outcomes
        .iter()
        .filter(|o| o.cell.limiter == limiter && o.cell.conditions.direction == direction)
        .filter_map(|outcome| Some((&outcome.cell.conditions, outcome.valid()?)))
        .collect()
}

/// The worst cells of one limiter and direction, in each region.
pub fn worst(outcomes: &[Outcome], limiter: Limiter, direction: Direction) -> String {
    let all = numbers(outcomes, limiter, direction);
    let mut text = String::new();
    let regions: [(&str, Bounds); 2] = [
        ("2 to 200 ms, four segments and more per round trip", MAIN),
        ("shorter round trips, fewer segments", COARSE),
    ];
    for (name, region) in regions {
        let cells: Vec<Numbers> = all
            .iter()
            .copied()
            .filter(|(conditions, _)| bounds(conditions) == region)
            .collect();
        if cells.is_empty() {
            continue;
        }
        let good = cells.iter().filter(|(c, m)| misses(c, m).is_empty());
        // Infallible for a String, as below.
        let _ = writeln!(
            text,
            "\n{limiter}, {direction}: {name}: {} of {} cells hold",
            good.count(),
            cells.len()
        );
        let mut rows = Vec::new();
        let mut add = |what: &str,
                       asked: String,
                       value: fn(&Measured) -> f64,
                       highest: bool,
                       digits: usize| {
            let sign = if highest { 1.0 } else { -1.0 };
            let worst = cells
                .iter()
                .max_by(|(_, a), (_, b)| (sign * value(a)).total_cmp(&(sign * value(b))));
            if let Some((conditions, measured)) = worst {
                rows.push(vec![
                    what.to_owned(),
                    format!("{:.digits$}", value(measured)),
                    asked,
                    conditions.to_string(),
                ]);
            }
        };
        let (least, most) = region.goodput;
        add(
            "lowest goodput, %",
            format!("≥ {least}"),
            |m| m.goodput_percent,
            false,
            1,
        );
        add(
            "highest goodput, %",
            format!("≤ {most}"),
            |m| m.goodput_percent,
            true,
            1,
        );
        add(
            "first second, of burst + window",
            format!("≤ {FIRST_SECOND}"),
            Measured::first_second,
            true,
            2,
        );
        add(
            "segments sent again, %",
            format!("≤ {}", region.retransmitted),
            Measured::retransmitted_percent,
            true,
            3,
        );
        let asked = if region.no_drops { "0" } else { "" };
        add(
            "drops at the limiter",
            asked.to_owned(),
            |m| m.drops as f64,
            true,
            0,
        );
        add("Jain's index", format!("≥ {JAIN}"), |m| m.jain, false, 3);
        text += &table(&["worst of", "is", "asked", ""], rows);
    }
    text
}

/// Our cells that miss a bound, by name.
pub fn failing(outcomes: &[Outcome]) -> String {
    let mut text = String::new();
    for outcome in outcomes.iter().filter(|o| o.cell.limiter == Limiter::Ours) {
        let conditions = &outcome.cell.conditions;
        let misses = outcome
            .valid()
            .map_or_else(Vec::new, |measured| misses(conditions, measured));
        if !misses.is_empty() {
            // Infallible for a String, as below.
            let _ = writeln!(text, "  {conditions}: {}", misses.join(", "));
        }
    }
    if text.is_empty() {
        "\nours: no cell misses a bound\n".to_owned()
    } else {
        format!("\nours: cells that miss a bound\n{text}")
    }
}

/// Cells that say nothing, by name, with the reason.
pub fn void(outcomes: &[Outcome]) -> String {
    let mut text = String::new();
    for outcome in outcomes {
        if let Some(reason) = &outcome.void {
            let _ = writeln!(text, "  {}: {reason}", outcome.cell);
        }
    }
    if text.is_empty() {
        text
    } else {
        format!("\nvoid, no numbers\n{text}")
    }
}

/// Ours beside the best incumbent of each cell; empty where there is none.
pub fn comparison(outcomes: &[Outcome], direction: Direction) -> String {
    let others = |conditions: &Conditions| -> Vec<(Limiter, &Measured)> {
        outcomes
            .iter()
            .filter(|o| !matches!(o.cell.limiter, Limiter::Ours | Limiter::None))
            .filter(|o| o.cell.conditions == *conditions)
            .filter_map(|o| Some((o.cell.limiter, o.valid()?)))
            .collect()
    };
    let (mut rows, mut as_accurate, mut within_noise, mut tenth, mut policed) =
        (Vec::new(), 0, 0, 0, 0);
    for (conditions, ours) in numbers(outcomes, Limiter::Ours, direction) {
        let others = others(conditions);
        let Some((limiter, best)) = others
            .iter()
            .min_by(|(_, a), (_, b)| a.error().total_cmp(&b.error()))
        else {
            continue;
        };
        as_accurate += u32::from(ours.error() <= best.error());
        within_noise += u32::from(ours.error() <= best.error() + NOISE);
        let mut row = vec![
            conditions.rate.to_string(),
            conditions.rtt.to_string(),
            conditions.congestion.to_string(),
            conditions.flows.to_string(),
            format!("{:.2}", ours.error()),
            format!("{:.2}", best.error()),
            limiter.to_string(),
            ratio(ours.error(), best.error()),
            format!("{:.3}", ours.wasted_percent()),
        ];
        let policer = others
            .iter()
            .filter(|(limiter, _)| limiter.is_policer())
            .map(|(limiter, m)| (limiter, m.wasted_percent()))
            .min_by(|(_, a), (_, b)| a.total_cmp(b));
        if let Some((limiter, loss)) = policer {
            policed += 1;
            tenth += u32::from(ours.wasted_percent() <= LOSS * loss);
            row.extend([
                format!("{loss:.3}"),
                limiter.to_string(),
                ratio(ours.wasted_percent(), loss),
            ]);
        } else {
            row.extend(vec![String::new(); 3]);
        }
        rows.push(row);
    }
    if rows.is_empty() {
        return String::new();
    }
    let count = rows.len();
    let head = [
        "rate",
        "rtt",
        "cc",
        "flows",
        "off by",
        "best",
        "best incumbent",
        "ratio",
        "wasted",
        "best",
        "best policer",
        "ratio",
    ];
    format!(
        "\nours beside the best incumbent, {direction}: points of goodput off 100 %,\nand segments sent for nothing, %\n{}\
         at least as accurate in {as_accurate} of {count} cells, within {NOISE} points in {within_noise}; \
         at most a tenth of the policers' loss in {tenth} of {policed}\n",
        table(&head, rows)
    )
}

fn ratio(ours: f64, other: f64) -> String {
    if other > 0.0 {
        format!("{:.2}", ours / other)
    } else if ours > 0.0 {
        "∞".to_owned()
    } else {
        "-".to_owned()
    }
}
