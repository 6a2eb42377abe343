//! The last hours of the made-up daemon: four, with one noisy half hour.

use super::{World, start};
use crate::model::{History, HistoryDirection, HistoryFlow, HistoryStep};
use crate::protocol::HistoryQuery;
use jiff::{SignedDuration, Timestamp};

/// Minutes that are kept.
const KEPT: i64 = 240;

fn passed(rate_bps: u64) -> HistoryDirection {
    HistoryDirection {
        bytes: rate_bps * 60 / 8,
        dropped_bytes: rate_bps / 100,
        rate_bps: Some(rate_bps),
    }
}

fn step(n: i64) -> HistoryStep {
    let wave = (n % 20).unsigned_abs();
    let noisy = (60..90).contains(&n);
    HistoryStep {
        at: start() - SignedDuration::from_mins(n),
        ms: 60_000,
        upload: passed(200_000 + wave * 40_000 + if noisy { 7_000_000 } else { 0 }),
        download: passed(900_000 + (20 - wave) * 110_000),
        clients: Some(20 + wave),
    }
}

impl World {
    /// What it answers to both questions of the history tab.
    pub(super) fn history(&self, query: &HistoryQuery) -> Result<History, String> {
        if let Some(why) = self.no_history {
            return Err(why.to_owned());
        }
        let since = query.since.unwrap_or(Timestamp::MIN);
        let until = query.until.unwrap_or(Timestamp::MAX);
        let minutes: Vec<_> = (1..=KEPT)
            .rev()
            // The daemon was away.
            .filter(|n| !(30..36).contains(n))
            .map(step)
            .filter(|step| since <= step.at && step.at < until)
            .collect();
        let flows = match query.limit {
            Some(0) => Vec::new(),
            _ => minutes.iter().flat_map(flows).collect(),
        };
        Ok(History {
            since,
            until,
            oldest: Some(step(KEPT).at),
            step_ms: 60_000,
            minutes,
            clients_matched: 0,
            clients: Vec::new(),
            others_bytes: 0,
            servers_matched: 0,
            servers: Vec::new(),
            flows_matched: flows.len() as u64,
            flows_cut: 0,
            flows,
        })
    }
}

fn flows(step: &HistoryStep) -> Vec<HistoryFlow> {
    let flow = |client: &str, port, server: Option<&str>, closed| HistoryFlow {
        client: client.parse().unwrap(),
        client_port: port,
        local: "10.0.0.1".parse().unwrap(),
        local_port: 443,
        protocol: "tcp".to_owned(),
        backend: server.map(|_| "be_ws".to_owned()),
        server: server.map(str::to_owned),
        opened: start() - SignedDuration::from_mins(300),
        last: step.at,
        closed,
        upload: passed(step.upload.bytes / 10),
        download: passed(step.download.bytes / 20),
    };
    vec![
        flow("203.0.113.7", 40_112, Some("srv1"), false),
        flow("2001:db8:1:2:aaaa:bbbb:cccc:dddd", 50_001, None, true),
        flow("198.51.100.23", 40_113, Some("srv2"), false),
    ]
}
