use super::*;
use crate::policy::Override;
use crate::protocol::{Query, SortKey};
use crate::testing::{NOW, at, client, compiled, flow, limit, secs};
use shaper_common::flow::{DOWNLOAD, UPLOAD};
use shaper_common::key::TCP;

const UP: usize = UPLOAD as usize;
const DOWN: usize = DOWNLOAD as usize;

pub(super) fn sampler() -> Sampler {
    Sampler::new(Arc::new(compiled()), 1, at(0))
}

/// A sample at `NOW` + `seconds`.
pub(super) fn sample(
    seconds: u64,
    flows: Vec<(FlowKey, Flow)>,
    clients: Vec<(ClientKey, Client)>,
) -> Sample {
    Sample {
        now: NOW + secs(seconds),
        flows,
        clients,
        ..Sample::default()
    }
}

/// A client with these bytes up, that has just sent.
fn sent(ip: &str, seconds: u64, bytes: u64) -> (ClientKey, Client) {
    let mut entry = client(ip);
    entry.1.traffic[UP].bytes = bytes;
    entry.1.last_seen = NOW + secs(seconds);
    entry
}

fn names(clients: &crate::model::Clients) -> Vec<&str> {
    clients.clients.iter().map(|c| c.client.as_str()).collect()
}

fn sorted(sort: SortKey) -> Query {
    Query {
        sort,
        ..Query::default()
    }
}

#[test]
fn rates_are_over_the_measured_interval() {
    let mut sampler = sampler();
    let mut one = flow("192.0.2.1", 4000, TCP);
    one.1.traffic[UP].bytes = 1_000_000;
    sampler.observe(
        sample(0, vec![one], vec![sent("192.0.2.1", 0, 1_000_000)]),
        at(0),
    );
    let rows = sampler.flows(&Query::default()).unwrap();
    assert_eq!((rows.interval_ms, rows.flows[0].upload.rate_bps), (0, 0));

    one.1.traffic[UP].bytes = 2_000_000;
    one.1.traffic[DOWN].bytes = 500;
    sampler.observe(
        sample(2, vec![one], vec![sent("192.0.2.1", 2, 3_000_000)]),
        at(2),
    );
    let rows = sampler.flows(&Query::default()).unwrap();
    assert_eq!(rows.interval_ms, 2000);
    assert_eq!(rows.flows[0].upload.rate_bps, 4_000_000);
    assert_eq!(rows.flows[0].download.rate_bps, 2_000);
    let clients = sampler.clients(&Query::default(), &[], &[]).unwrap();
    assert_eq!(clients.clients[0].upload.traffic.rate_bps, 8_000_000);
    assert_eq!(sampler.totals().traffic[UP].rate_bps, 8_000_000);
}

#[test]
fn an_entry_that_was_replaced_counts_from_zero() {
    let mut sampler = sampler();
    let mut one = flow("192.0.2.1", 4000, TCP);
    one.1.traffic[UP].bytes = 5_000_000;
    sampler.observe(
        sample(0, vec![one], vec![sent("192.0.2.1", 0, 5_000_000)]),
        at(0),
    );
    // The same ports, opened anew within the interval.
    one.1.traffic[UP].bytes = 1_000;
    one.1.created = NOW + 1;
    sampler.observe(
        sample(1, vec![one], vec![sent("192.0.2.1", 1, 1_000)]),
        at(1),
    );
    let rows = sampler.flows(&Query::default()).unwrap();
    assert_eq!(rows.flows[0].upload.rate_bps, 8_000);
    let totals = sampler.totals();
    assert_eq!(totals.traffic[UP].rate_bps, 8_000);
    assert_eq!(totals.traffic[UP].bytes, 5_001_000, "totals never fall");

    sampler.observe(sample(2, vec![], vec![]), at(2));
    assert_eq!(sampler.totals().traffic[UP].bytes, 5_001_000);
    assert!(sampler.flow_index.is_empty() && sampler.client_index.is_empty());
}

#[test]
fn a_flow_that_is_new_to_us_but_old_has_no_rate_yet() {
    let mut sampler = sampler();
    sampler.observe(sample(0, vec![], vec![]), at(0));
    let mut old = flow("192.0.2.1", 4000, TCP);
    old.1.traffic[UP].bytes = 1_000_000;
    let mut new = flow("192.0.2.1", 4001, TCP);
    new.1.traffic[UP].bytes = 1_000;
    new.1.created = NOW + 5;
    sampler.observe(sample(1, vec![old, new], vec![]), at(1));
    let rows = sampler.flows(&sorted(SortKey::Upload)).unwrap().flows;
    assert_eq!(
        (rows[0].client_port, rows[0].upload.rate_bps),
        (4001, 8_000)
    );
    assert_eq!((rows[1].client_port, rows[1].upload.rate_bps), (4000, 0));
}

#[test]
fn the_class_is_the_kernels_only_within_its_generation() {
    let mut sampler = sampler();
    let mut stale = client("203.0.113.9");
    stale.1.generation = 0;
    stale.1.class = 7;
    let current = client("198.51.100.7");
    sampler.observe(sample(0, vec![], vec![stale, current]), at(0));
    let rows = sampler.clients(&sorted(SortKey::Client), &[], &[]).unwrap();
    assert_eq!(names(&rows), ["198.51.100.7", "203.0.113.9"]);
    // By its class index, although the prefix is the rule of another.
    assert_eq!(rows.clients[0].rule, "default");
    assert_eq!(rows.clients[1].rule, "partners");
    assert_eq!(rows.clients[1].upload.limit_bps, Some(50_000_000));

    sampler.set_policy(Arc::new(compiled()), 2);
    let rows = sampler.clients(&sorted(SortKey::Client), &[], &[]).unwrap();
    assert_eq!(rows.clients[0].rule, "abuser");
    assert!(rows.clients[0].blocked);
}

#[test]
fn limited_needs_the_flag_and_a_debt() {
    let now = NOW + secs(1);
    let tau = compiled().classes[0].class.upload.tau;
    let states = [
        ("192.0.2.1", CLIENT_LIMITED << UPLOAD, now + 1, true),
        ("192.0.2.2", CLIENT_LIMITED << UPLOAD, now, false),
        (
            "192.0.2.3",
            CLIENT_LIMITED << DOWNLOAD,
            now + 2 * tau,
            false,
        ),
        ("192.0.2.4", 0, now + 2 * tau, false),
    ];
    let clients = states.map(|(ip, flags, tat, _)| {
        let mut entry = client(ip);
        entry.1.flags = flags;
        entry.1.traffic[UP].tat = tat;
        entry.1.held[UP] = 1_500_000_000;
        entry
    });
    let mut sampler = sampler();
    sampler.observe(sample(1, vec![], clients.to_vec()), at(1));
    let rows = sampler.clients(&sorted(SortKey::Client), &[], &[]).unwrap();
    for (row, (ip, _, _, limited)) in rows.clients.iter().zip(states) {
        assert_eq!((row.client.as_str(), row.upload.limited), (ip, limited));
        assert!(!row.download.limited);
        assert_eq!(row.upload.limited_ms, 1500);
    }
    assert_eq!(sampler.totals().limited, 1);
    let query = Query {
        filter: "state:limited".to_owned(),
        ..Query::default()
    };
    let rows = sampler.clients(&query, &[], &[]).unwrap();
    assert_eq!(names(&rows), ["192.0.2.1"]);
}

#[test]
fn exempt_clients_show_no_limit() {
    let mut sampler = sampler();
    let mut monitor = client("192.0.2.10");
    monitor.1.generation = 0;
    monitor.1.flags = CLIENT_LIMITED << UPLOAD;
    monitor.1.traffic[UP].tat = NOW + secs(3600);
    sampler.observe(sample(0, vec![], vec![monitor]), at(0));
    let row = sampler
        .clients(&Query::default(), &[], &[])
        .unwrap()
        .clients[0]
        .clone();
    assert_eq!((row.rule.as_str(), row.exempt), ("monitoring", true));
    assert_eq!(row.upload.limit_bps, None);
    assert!(!row.upload.limited);
}

#[test]
fn connections_are_tcp_and_live_udp() {
    let mut sampler = sampler();
    let mut entry = client("192.0.2.1");
    entry.1.connections = 2;
    let mut flows = vec![
        flow("192.0.2.1", 1, TCP),
        flow("192.0.2.1", 2, UDP),
        flow("192.0.2.1", 3, UDP),
    ];
    flows[1].1.last_seen = NOW + secs(70);
    sampler.observe(sample(70, flows, vec![entry]), at(70));
    let rows = sampler.clients(&Query::default(), &[], &[]).unwrap();
    assert_eq!(rows.clients[0].connections, 3);
    // The idle UDP flow is not listed, the idle TCP flow is.
    let rows = sampler.flows(&sorted(SortKey::Client)).unwrap();
    let ports: Vec<_> = rows.flows.iter().map(|row| row.client_port).collect();
    assert_eq!(ports, [1, 2]);
    assert_eq!(sampler.totals().flows, 2);
}

#[test]
fn a_client_stays_a_minute_and_as_long_as_it_owes() {
    let mut sampler = sampler();
    let quiet = sent("192.0.2.1", 0, 10);
    let mut owing = sent("192.0.2.2", 0, 10);
    owing.1.traffic[DOWN].tat = NOW + secs(100);
    let mut open = sent("192.0.2.3", 0, 10);
    open.1.connections = 1;
    let all = vec![quiet, owing, open];
    assert_eq!(sampler.observe(sample(60, vec![], all.clone()), at(60)), []);
    assert_eq!(
        sampler.observe(sample(61, vec![], all.clone()), at(61)),
        [quiet.0]
    );
    let rows = sampler.clients(&sorted(SortKey::Client), &[], &[]).unwrap();
    assert_eq!(names(&rows), ["192.0.2.2", "192.0.2.3"]);
    assert_eq!(sampler.totals().clients, 2);

    // The connection ends without a packet: a minute from then on.
    let mut closed = open;
    closed.1.connections = 0;
    assert_eq!(
        sampler.observe(sample(100, vec![], vec![owing, closed]), at(100)),
        [owing.0]
    );
    assert_eq!(
        sampler.observe(sample(121, vec![], vec![closed]), at(121)),
        []
    );
    assert_eq!(
        sampler.observe(sample(122, vec![], vec![closed]), at(122)),
        [open.0]
    );
}

#[test]
fn overrides_are_shown_with_their_client_and_alone() {
    let mut sampler = sampler();
    sampler.observe(sample(0, vec![], vec![sent("192.0.2.1", 0, 10)]), at(0));
    let overrides = [
        Override {
            client: "192.0.2.1/32".parse().unwrap(),
            limit: Some(limit("1mbit", Some(at(90)))),
            block: None,
        },
        Override {
            client: "10.9.0.0/16".parse().unwrap(),
            limit: None,
            block: Some(None),
        },
    ];
    let rows = sampler.clients(&Query::default(), &overrides, &[]).unwrap();
    assert_eq!(names(&rows), ["192.0.2.1", "10.9.0.0/16"]);
    let set = rows.clients[0].runtime.as_ref().unwrap();
    assert_eq!(set.upload_bps, Some(1_000_000));
    assert_eq!(set.limit_expires, Some(at(90)));
    assert!(rows.clients[1].runtime.as_ref().unwrap().blocked);
    assert_eq!(rows.clients[1].connections, 0);
}

#[test]
fn rows_are_sorted_cut_and_reversed() {
    let mut sampler = sampler();
    let clients: Vec<_> = (1..=9)
        .map(|i| sent(&format!("192.0.2.{i}"), 0, i * 10))
        .collect();
    sampler.observe(sample(0, vec![], clients), at(0));
    let ask = |sort, reverse, limit| {
        let query = Query {
            sort,
            reverse,
            limit,
            filter: String::new(),
        };
        let rows = sampler.clients(&query, &[], &[]).unwrap();
        assert_eq!(rows.matched, 9);
        rows.clients
            .iter()
            .map(|row| row.client.trim_start_matches("192.0.2.").to_owned())
            .collect::<String>()
    };
    assert_eq!(ask(SortKey::Client, false, None), "123456789");
    assert_eq!(ask(SortKey::Client, true, Some(2)), "98");
    // Without a rate the bytes decide.
    assert_eq!(ask(SortKey::Upload, false, Some(3)), "987");
    assert_eq!(ask(SortKey::Total, true, Some(3)), "123");
    assert_eq!(ask(SortKey::Total, false, Some(0)), "");
    assert_eq!(ask(SortKey::Total, false, Some(100)), "987654321");
}

#[test]
fn port_terms_find_clients_by_their_flows() {
    let mut sampler = sampler();
    let flows = vec![flow("192.0.2.1", 4000, TCP), flow("192.0.2.2", 4001, TCP)];
    let clients = vec![client("192.0.2.1"), client("192.0.2.2")];
    sampler.observe(sample(0, flows, clients), at(0));
    let query = Query {
        filter: "port:4001".to_owned(),
        ..Query::default()
    };
    let rows = sampler.clients(&query, &[], &[]).unwrap();
    assert_eq!(names(&rows), ["192.0.2.2"]);
    let rows = sampler.flows(&query).unwrap();
    assert_eq!((rows.matched, rows.flows[0].client_port), (1, 4001));
}
