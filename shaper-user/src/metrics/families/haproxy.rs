//! HAProxy's sockets and servers.

use super::{All, MOST, by_direction, number, one, rate, seconds};
use crate::model;

pub(super) fn haproxy(all: &mut All, sockets: &[model::HaproxySocket]) {
    let each = |value: fn(&model::HaproxySocket) -> Option<f64>| {
        let values: Vec<_> = sockets
            .iter()
            .filter_map(|socket| {
                let labels = vec![("socket", socket.path.clone())];
                Some((labels, value(socket)?))
            })
            .collect();
        values
    };
    all.gauge(
        "shaper_haproxy_up",
        "1 where the socket of HAProxy answers",
        each(|socket| {
            let up = socket.error.is_none() && socket.age_ms.is_some();
            Some(number(up.into()))
        }),
    );
    all.gauge(
        "shaper_haproxy_sessions",
        "Sessions in the last answer of the socket",
        each(|socket| Some(number(socket.sessions))),
    );
    all.gauge(
        "shaper_haproxy_answer_age_seconds",
        "Time since the last answer of the socket",
        each(|socket| socket.age_ms.map(seconds)),
    );
    all.gauge(
        "shaper_haproxy_answer_duration_seconds",
        "What the last answer took HAProxy",
        each(|socket| socket.cost_ms.map(|ms| ms / 1000.0)),
    );
}

pub(super) fn servers(all: &mut All, servers: &model::Servers) {
    let shown: Vec<_> = servers.servers.iter().take(MOST).collect();
    let named = |server: &model::Server| {
        vec![
            ("backend", server.backend.clone()),
            ("server", server.server.clone()),
        ]
    };
    let passed = |value: fn(&model::Direction) -> u64| {
        let values: Vec<_> = shown
            .iter()
            .flat_map(|server| {
                let both = [&server.upload, &server.download].map(|d| number(value(d)));
                by_direction(&named(server), both)
            })
            .collect();
        values
    };
    all.gauge(
        "shaper_server_connections",
        "Connections that HAProxy has pinned to the server",
        shown
            .iter()
            .map(|server| (named(server), number(server.connections)))
            .collect::<Vec<_>>(),
    );
    all.counter(
        "shaper_server_bytes",
        "Bytes of connections at the server",
        passed(|d| d.bytes),
    );
    all.counter(
        "shaper_server_packets",
        "Packets of connections at the server",
        passed(|d| d.packets),
    );
    all.counter(
        "shaper_server_dropped_bytes",
        "Bytes of connections at the server that were dropped",
        passed(|d| d.dropped_bytes),
    );
    all.gauge(
        "shaper_server_limit_bytes_per_second",
        "What all clients together may have of the server",
        shown
            .iter()
            .flat_map(|server| {
                let limits = [server.limit_upload_bps, server.limit_download_bps];
                by_direction(&named(server), limits.map(|bps| bps.map(rate)))
            })
            .collect::<Vec<_>>(),
    );
    all.gauge(
        "shaper_server_top_client_ratio",
        "The part of the busiest client in what the server carries",
        shown
            .iter()
            .filter_map(|server| Some((named(server), server.top_client_share?)))
            .collect::<Vec<_>>(),
    );
    all.gauge(
        "shaper_backend_imbalance_ratio",
        "Rate of the busiest server over the mean of the backend; 1 is even",
        servers
            .backends
            .iter()
            .take(MOST)
            .filter_map(|b| Some((vec![("backend", b.backend.clone())], b.imbalance?)))
            .collect::<Vec<_>>(),
    );
    let left = servers.matched.saturating_sub(shown.len() as u64);
    all.gauge(
        "shaper_servers_left_out",
        "Servers without series of their own: there are too many",
        one(left),
    );
}
