//! The servers of the made-up daemon, out of its flows.

use super::World;
use crate::model::{Backend, Flow, Haproxy, HaproxySocket, Server};
use std::collections::BTreeMap;

/// Where HAProxy sends a flow.
pub fn at(backend: &str, server: &str) -> Haproxy {
    Haproxy {
        frontend: "fe_ws".to_owned(),
        backend: backend.to_owned(),
        server: server.to_owned(),
        session: "0x55df672d6cc0".to_owned(),
        worker_pid: 4243,
        stale: false,
    }
}

/// A socket that answers.
pub fn socket() -> HaproxySocket {
    HaproxySocket {
        path: "/run/haproxy/admin.sock".to_owned(),
        kind: Some("stats".to_owned()),
        version: Some("3.0.5".to_owned()),
        level: Some("admin".to_owned()),
        sessions: 21,
        workers: 1,
        age_ms: Some(800),
        cost_ms: Some(0.4),
        poll_ms: 5_000,
        error: None,
    }
}

fn round(part: u64, whole: u64) -> f64 {
    (part as f64 / whole as f64 * 10_000.0).round() / 10_000.0
}

fn rate(flow: &Flow) -> u64 {
    flow.upload.rate_bps + flow.download.rate_bps
}

impl World {
    /// Its servers and backends.
    pub(super) fn load(&self) -> (Vec<Server>, Vec<Backend>) {
        let mut flows: BTreeMap<_, Vec<&Flow>> = BTreeMap::new();
        for flow in &self.flows {
            if let Some(at) = &flow.haproxy {
                let key = (at.backend.as_str(), at.server.as_str());
                flows.entry(key).or_default().push(flow);
            }
        }
        let mut backends: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        let servers = flows
            .into_iter()
            .map(|((backend, server), flows)| {
                let total: u64 = flows.iter().map(|flow| rate(flow)).sum();
                backends.entry(backend).or_default().push(total);
                let top = flows.iter().max_by_key(|flow| rate(flow)).copied();
                let mut row = Server {
                    backend: backend.to_owned(),
                    server: server.to_owned(),
                    connections: flows.len() as u64,
                    upload: super::direction(0),
                    download: super::direction(0),
                    top_client: top.map(|flow| flow.client.to_string()),
                    top_client_share: top.map(|flow| round(rate(flow), total.max(1))),
                    limit_upload_bps: None,
                    limit_download_bps: None,
                };
                for flow in &flows {
                    for (sum, way) in [
                        (&mut row.upload, &flow.upload),
                        (&mut row.download, &flow.download),
                    ] {
                        sum.rate_bps += way.rate_bps;
                        sum.bytes += way.bytes;
                        sum.dropped_bytes += way.dropped_bytes;
                    }
                }
                row
            })
            .collect();
        let backends = backends
            .into_iter()
            .map(|(backend, rates)| {
                let sum: u64 = rates.iter().sum();
                let busiest = rates.iter().max().copied().unwrap_or(0);
                Backend {
                    backend: backend.to_owned(),
                    servers: rates.len() as u64,
                    rate_bps: sum,
                    imbalance: (sum > 0).then(|| round(busiest * rates.len() as u64, sum)),
                }
            })
            .collect();
        (servers, backends)
    }
}
