//! The cells of a row.

use super::bars::{bar, sparkline};
use super::columns::{Placed, What};
use super::theme::Theme;
use crate::model::{Backend, Client, Direction, Flow, Haproxy, Limited, Server};
use crate::render;
use crate::top::state::history::Past;
use crate::top::state::row::{FlowKey, Row};
use crate::top::units;
use jiff::Timestamp;
use ratatui::style::{Color, Style};
use ratatui::text::{Line, Span};

/// A server that carries so many times the mean of its backend wants a look.
const UNEVEN: f64 = 2.0;

/// A client's cell.
pub fn client(
    row: &Client,
    past: Option<&Past>,
    at: &Placed,
    observing: bool,
    theme: Theme,
) -> Line<'static> {
    let width = usize::from(at.width);
    match at.column.what {
        What::Client => Line::raw(fit(&row.client, width)),
        What::Rule => Line::raw(fit(&row.rule, width)),
        What::Connections => Line::raw(row.connections.to_string()),
        What::Up => rate(row.upload.traffic.rate_bps, theme.upload(), theme),
        What::Down => rate(row.download.traffic.rate_bps, theme.download(), theme),
        What::Limit => limit(row, width, theme),
        What::Use => usage(row, width, theme),
        What::Held => Line::from(held(row, observing, theme)),
        What::Dropped => bytes(
            dropped(&row.upload.traffic, &row.download.traffic),
            theme.warn(),
            theme,
        ),
        What::Total => bytes(
            row.upload
                .traffic
                .bytes
                .saturating_add(row.download.traffic.bytes),
            Style::new(),
            theme,
        ),
        What::Age => Line::raw(units::duration(row.age_ms)),
        What::Idle => Line::raw(units::duration(row.idle_ms)),
        What::Minute => minute(past, width, theme),
        _ => Line::default(),
    }
}

/// How much of its quota a client has used, and how long until it resets.
pub fn quota(row: &Client, at: &Placed, now: Timestamp, theme: Theme) -> Line<'static> {
    let Some(quota) = &row.quota else {
        return Line::styled("-", theme.dim());
    };
    let percent = render::quota::percent(quota);
    let left = quota.resets_at.map(|at| render::quota::left(at, now));
    let number = format!(" {:>3}% {:>4}", percent.min(999), left.unwrap_or_default());
    let width = usize::from(at.width).saturating_sub(number.chars().count());
    let [full, rest] = bar(percent, width, theme);
    Line::from(vec![full, rest, Span::raw(number)])
}

/// A flow's cell.
pub fn flow(
    row: &Flow,
    key: &FlowKey,
    past: Option<&Past>,
    at: &Placed,
    theme: Theme,
) -> Line<'static> {
    let width = usize::from(at.width);
    match at.column.what {
        What::Client => Line::raw(fit(&key.client.to_string(), width)),
        What::Local => {
            let mark = if row.is_only_dropped() { "!" } else { "" };
            let whole = format!("{}/{}{mark}", key.local, key.protocol);
            if whole.len() <= width {
                Line::raw(whole)
            } else {
                Line::raw(format!("{}/{}{mark}", key.local.port(), key.protocol))
            }
        }
        What::Rule => Line::raw(fit(&row.rule, width)),
        What::Up => rate(row.upload.rate_bps, theme.upload(), theme),
        What::Down => rate(row.download.rate_bps, theme.download(), theme),
        What::Dropped => bytes(dropped(&row.upload, &row.download), theme.warn(), theme),
        What::Total => bytes(
            row.upload.bytes.saturating_add(row.download.bytes),
            Style::new(),
            theme,
        ),
        What::Age => Line::raw(units::duration(row.age_ms)),
        What::Idle => Line::raw(units::duration(row.idle_ms)),
        What::Minute => minute(past, width, theme),
        What::Server => match &row.haproxy {
            Some(at) if at.stale => Line::styled(fit(&place(at), width), theme.dim()),
            Some(at) => Line::raw(fit(&place(at), width)),
            None => Line::styled("-", theme.dim()),
        },
        _ => Line::default(),
    }
}

/// `backend/server`, marked when HAProxy has not confirmed it lately.
pub fn place(at: &Haproxy) -> String {
    let mark = if at.stale { "~" } else { "" };
    format!("{mark}{}/{}", at.backend, at.server)
}

/// A server's cell.
pub fn server(
    row: &Server,
    backend: Option<&Backend>,
    past: Option<&Past>,
    at: &Placed,
    theme: Theme,
) -> Line<'static> {
    let width = usize::from(at.width);
    match at.column.what {
        What::Name => Line::raw(fit(&row.key().to_string(), width)),
        What::Connections => Line::raw(row.connections.to_string()),
        What::Up => rate(row.upload.rate_bps, theme.upload(), theme),
        What::Down => rate(row.download.rate_bps, theme.download(), theme),
        What::Load => {
            let [up, down] = row.rates();
            let of = backend.map_or(0, |backend| backend.rate_bps);
            let percent = percent(up.saturating_add(down), of);
            let [full, rest] = bar(percent, width.saturating_sub(5), theme);
            // All of a backend is nothing to be warned of.
            let number = format!(" {:>3}%", percent.min(999));
            Line::from(vec![full.style(theme.good()), rest, Span::raw(number)])
        }
        What::Imbalance => match backend.and_then(|backend| backend.imbalance) {
            None => Line::styled("-", theme.dim()),
            Some(imbalance) if imbalance >= UNEVEN => {
                Line::styled(format!("{imbalance:.2}"), theme.warn())
            }
            Some(imbalance) => Line::raw(format!("{imbalance:.2}")),
        },
        What::Top => match &row.top_client {
            Some(client) => Line::raw(fit(client, width)),
            None => Line::styled("-", theme.dim()),
        },
        What::Share => match row.top_client_share {
            Some(share) => Line::raw(format!("{:.0}%", share * 100.0)),
            None => Line::styled("-", theme.dim()),
        },
        What::Dropped => bytes(dropped(&row.upload, &row.download), theme.warn(), theme),
        What::Total => bytes(
            row.upload.bytes.saturating_add(row.download.bytes),
            Style::new(),
            theme,
        ),
        What::Minute => minute(past, width, theme),
        _ => Line::default(),
    }
}

fn dropped(upload: &Direction, download: &Direction) -> u64 {
    upload.dropped_bytes.saturating_add(download.dropped_bytes)
}

/// A text cut to its cell, with a mark that it was cut.
pub fn fit(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

fn rate(bps: u64, style: Style, theme: Theme) -> Line<'static> {
    if bps == 0 {
        return Line::styled("-", theme.dim());
    }
    Line::styled(units::rate(bps), style)
}

fn bytes(n: u64, style: Style, theme: Theme) -> Line<'static> {
    if n == 0 {
        return Line::styled("-", theme.dim());
    }
    Line::styled(units::bytes(n), style)
}

/// The direction that is nearest to its limit: its arrow, the limit, percent.
pub fn nearest(row: &Client) -> Option<(char, u64, u64)> {
    let of = |arrow, way: &Limited| {
        let limit = way.limit_bps?;
        Some((arrow, limit, percent(way.traffic.rate_bps, limit)))
    };
    let up = of('↑', &row.upload);
    let down = of('↓', &row.download);
    // `max_by_key` would take the last of equals.
    match (up, down) {
        (Some(up), Some(down)) if down.2 > up.2 => Some(down),
        (up, down) => up.or(down),
    }
}

/// How much of a limit is used.
pub fn percent(rate: u64, limit: u64) -> u64 {
    let percent = u128::from(rate) * 100 / u128::from(limit.max(1));
    u64::try_from(percent).unwrap_or(u64::MAX)
}

/// Whether a limit of the client was set at runtime.
fn at_runtime(row: &Client) -> bool {
    row.runtime
        .as_ref()
        .is_some_and(|r| r.upload_bps.is_some() || r.download_bps.is_some())
}

fn limit(row: &Client, width: usize, theme: Theme) -> Line<'static> {
    let Some((arrow, limit, _)) = nearest(row) else {
        return Line::from(vec![Span::styled("-", theme.dim()), Span::raw(" ")]);
    };
    let text = if width >= 13 {
        units::rate(limit)
    } else {
        units::short_rate(limit)
    };
    let mark = if at_runtime(row) { "*" } else { " " };
    Line::raw(format!("{arrow}{text}{mark}"))
}

fn usage(row: &Client, width: usize, theme: Theme) -> Line<'static> {
    let Some((_, _, percent)) = nearest(row) else {
        return Line::styled(fit("no limit", width), theme.dim());
    };
    let [full, rest] = bar(percent, width.saturating_sub(5), theme);
    let number = format!(" {:>3}%", percent.min(999));
    Line::from(vec![full, rest, Span::raw(number)])
}

/// What is done to a client, in words: the colour only repeats it.
pub fn held(row: &Client, observing: bool, theme: Theme) -> Vec<Span<'static>> {
    if row.blocked {
        return vec![Span::styled(" BLOCK ", theme.loud(Color::Red))];
    }
    if row.exempt {
        return vec![Span::styled("exempt", theme.dim())];
    }
    let ms = row
        .upload
        .limited_ms
        .saturating_add(row.download.limited_ms);
    let time = units::duration(ms);
    match (row.upload.limited || row.download.limited, ms) {
        // Nothing is held while only watching.
        (true, _) if observing => vec![Span::styled(format!("over {time}"), theme.warn())],
        (true, _) => vec![Span::styled(format!("held {time}"), theme.bad())],
        (false, 0) => vec![Span::styled("-", theme.dim())],
        (false, _) => vec![Span::styled(format!("     {time}"), theme.dim())],
    }
}

fn minute(past: Option<&Past>, width: usize, theme: Theme) -> Line<'static> {
    let Some(past) = past else {
        return Line::default();
    };
    let cells = past.cells(width, |[up, down]| up.saturating_add(down));
    Line::styled(sparkline(&cells), theme.good())
}
