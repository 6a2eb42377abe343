use super::super::tests::{sample, sampler};
use super::*;
use crate::haproxy::View;
use crate::testing::{NOW, at, client, flow, secs, view};
use shaper_common::flow::Flow;
use shaper_common::key::{TCP, UDP};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A flow that passed so many bytes up and down.
fn passed(ip: &str, port: u16, up: u64, down: u64) -> (FlowKey, Flow) {
    let mut flow = flow(ip, port, TCP);
    for (traffic, bytes) in flow.1.traffic.iter_mut().zip([up, down]) {
        traffic.bytes = bytes;
        traffic.packets = bytes / 1000;
        traffic.dropped_bytes = bytes / 10;
        traffic.dropped_packets = bytes / 10_000;
    }
    flow
}

/// Two samples, a second apart, both joined with the view.
fn two(view: &Arc<View>, flows: [Vec<(FlowKey, Flow)>; 2]) -> Sampler {
    let mut sampler = sampler();
    let [before, now] = flows;
    sampler.observe(sample(0, before, vec![]), at(0));
    sampler.set_view(view.clone());
    sampler.observe(sample(1, now, vec![]), at(1));
    sampler
}

fn ask(sampler: &Sampler, sort: SortKey, filter: &str) -> model::Servers {
    let query = Query {
        sort,
        filter: filter.to_owned(),
        ..Query::default()
    };
    sampler.servers(&query).unwrap()
}

fn all(sampler: &Sampler) -> model::Servers {
    ask(sampler, SortKey::Client, "")
}

fn names(servers: &model::Servers) -> Vec<String> {
    let name = |row: &model::Server| format!("{}/{}", row.backend, row.server);
    servers.servers.iter().map(name).collect()
}

/// `connections`, bytes and rate up of the only row.
fn up(sampler: &Sampler) -> (u64, u64, u64) {
    let rows = all(sampler).servers;
    assert_eq!(rows.len(), 1);
    let row = &rows[0];
    (row.connections, row.upload.bytes, row.upload.rate_bps)
}

fn about(value: Option<f64>, expected: f64) {
    let value = value.unwrap();
    assert!((value - expected).abs() < 1e-9, "{value}, not {expected}");
}

/// Two backends: `be_a` with two servers under load and one without a flow,
/// `be_b` with one.
fn two_backends() -> Sampler {
    let view = view(&[
        ("192.0.2.1:4000", "be_a/s1"),
        ("192.0.2.2:4000", "be_a/s1"),
        ("192.0.2.3:4000", "be_a/s2"),
        ("198.51.100.99:9", "be_a/s3"),
        ("203.0.113.9:4000", "be_b/s1"),
    ]);
    let flows = |n: u64| {
        vec![
            passed("192.0.2.1", 4000, n * 700_000, n * 200_000),
            passed("192.0.2.2", 4000, n * 100_000, 0),
            passed("192.0.2.3", 4000, 5_000_000, n * 500_000),
            passed("203.0.113.9", 4000, n * 30_000, n * 10_000),
            passed("192.0.2.7", 4000, n * 9_000_000, 0),
        ]
    };
    two(&view, [flows(1), flows(2)])
}

#[test]
fn each_server_has_its_flows_its_rates_and_its_top_client() {
    let sampler = two_backends();
    let answer = all(&sampler);
    assert_eq!((answer.interval_ms, answer.matched), (1000, 4));
    assert_eq!(names(&answer), ["be_a/s1", "be_a/s2", "be_a/s3", "be_b/s1"]);
    let [s1, s2, s3, other] = &answer.servers[..] else {
        panic!("four rows");
    };
    assert_eq!(s1.connections, 2);
    assert_eq!(s1.upload.rate_bps, 8 * 800_000);
    assert_eq!(s1.download.rate_bps, 8 * 200_000);
    // What passed before the view came is in it.
    assert_eq!(s1.upload.bytes, 1_600_000);
    assert_eq!(s1.upload.packets, 1_600);
    assert_eq!(s1.upload.dropped_bytes, 160_000);
    assert_eq!(s1.upload.dropped_packets, 160);
    assert_eq!(s1.top_client.as_deref(), Some("192.0.2.1"));
    about(s1.top_client_share, 0.9);
    // A byte up that is not of this interval makes no rate.
    assert_eq!((s2.upload.rate_bps, s2.upload.bytes), (0, 5_000_000));
    about(s2.top_client_share, 1.0);
    // Known by a session that is no flow here.
    assert_eq!((s3.connections, s3.upload.bytes), (0, 0));
    assert_eq!((&s3.top_client, s3.top_client_share), (&None, None));
    assert_eq!(other.top_client.as_deref(), Some("203.0.113.9"));

    let [a, b] = &answer.backends[..] else {
        panic!("two backends");
    };
    assert_eq!((a.backend.as_str(), a.servers), ("be_a", 3));
    assert_eq!(a.rate_bps, 8 * 1_500_000);
    // 8, 4 and 0 Mbit/s: the busiest has twice the mean.
    about(a.imbalance, 8.0 * 1_000_000.0 / (8.0 * 500_000.0));
    assert_eq!((b.backend.as_str(), b.servers), ("be_b", 1));
    about(b.imbalance, 1.0);
}

#[test]
fn loads_are_of_servers_with_flows() {
    let mut loads = two_backends().loads();
    loads.sort_by_key(|load| (load.backend.clone(), load.server.clone()));
    let loads: Vec<_> = loads
        .iter()
        .map(|load| (&*load.backend, &*load.server, load.connections, load.rates))
        .collect();
    assert_eq!(
        loads,
        [
            ("be_a", "s1", 2, [6_400_000, 1_600_000]),
            ("be_a", "s2", 1, [0, 4_000_000]),
            ("be_b", "s1", 1, [240_000, 80_000]),
        ]
    );
}

#[test]
fn servers_are_sorted_cut_and_reversed() {
    let sampler = two_backends();
    let name = |short: &str| {
        let (backend, server) = short.split_at(1);
        format!("be_{backend}/s{server}")
    };
    for (sort, order) in [
        (SortKey::Upload, ["a1", "b1", "a2", "a3"]),
        (SortKey::Download, ["a2", "a1", "b1", "a3"]),
        (SortKey::Total, ["a1", "a2", "b1", "a3"]),
        (SortKey::Client, ["a1", "a2", "a3", "b1"]),
        (SortKey::Age, ["a1", "a2", "a3", "b1"]),
        // Dropped: 200 kB, 600 kB, 8 kB, none.
        (SortKey::Limited, ["a2", "a1", "b1", "a3"]),
    ] {
        for reverse in [false, true] {
            for limit in [None, Some(2), Some(0)] {
                let query = Query {
                    sort,
                    reverse,
                    limit,
                    filter: String::new(),
                };
                let answer = sampler.servers(&query).unwrap();
                let mut expected = order.map(name).to_vec();
                if reverse {
                    expected.reverse();
                }
                let rows = limit.unwrap_or(4);
                assert_eq!(names(&answer), expected[..rows], "{sort:?} {reverse}");
                assert_eq!(answer.matched, 4);
            }
        }
    }
}

#[test]
fn a_filter_names_servers_or_finds_them_by_their_flows() {
    let sampler = two_backends();
    for (filter, expected) in [
        ("backend:be_b", &["be_b/s1"][..]),
        ("server:s1", &["be_a/s1", "be_b/s1"]),
        ("server:be_a/s3", &["be_a/s3"]),
        ("BE_A", &["be_a/s1", "be_a/s2", "be_a/s3"]),
        ("client:192.0.2.3", &["be_a/s2"]),
        ("rule:partners", &["be_b/s1"]),
        ("backend:be_a port:4000", &["be_a/s1", "be_a/s2"]),
        ("server:s1 client:192.0.2.3", &[]),
        // The text of a client's address.
        ("203.0.113", &["be_b/s1"]),
        ("nobody", &[]),
    ] {
        let answer = ask(&sampler, SortKey::Client, filter);
        assert_eq!(names(&answer), expected, "{filter}");
        assert_eq!(answer.matched, expected.len() as u64);
    }
    // Neither the rows nor the backend lose what the filter does not show.
    let answer = ask(&sampler, SortKey::Client, "client:192.0.2.2");
    assert_eq!(answer.servers[0].connections, 2);
    assert_eq!(answer.backends.len(), 1);
    about(answer.backends[0].imbalance, 2.0);
    let query = Query {
        filter: "server:".to_owned(),
        ..Query::default()
    };
    assert!(sampler.servers(&query).is_err());
}

#[test]
fn flows_and_clients_are_found_by_their_server() {
    let mut sampler = two_backends();
    let ips = [
        "192.0.2.1",
        "192.0.2.2",
        "192.0.2.3",
        "203.0.113.9",
        "192.0.2.7",
    ];
    let flows: Vec<_> = ips.iter().map(|ip| flow(ip, 4000, TCP)).collect();
    let clients = ips.iter().map(|ip| client(ip)).collect();
    sampler.observe(sample(2, flows, clients), at(2));
    let ask = |filter: &str| {
        let query = Query {
            sort: SortKey::Client,
            filter: filter.to_owned(),
            ..Query::default()
        };
        let flows = sampler.flows(&query).unwrap().flows;
        let clients = sampler.clients(&query, &[], &[]).unwrap().clients;
        let flows: Vec<_> = flows.iter().map(|row| row.client.to_string()).collect();
        let clients: Vec<_> = clients.into_iter().map(|row| row.client).collect();
        (flows, clients)
    };
    for (filter, found) in [
        ("backend:be_a", &ips[..3]),
        ("server:be_a/s1", &ips[..2]),
        (
            "server:s1 port:4000",
            &["192.0.2.1", "192.0.2.2", "203.0.113.9"][..],
        ),
        ("server:be_a/s1 client:192.0.2.2", &["192.0.2.2"]),
        ("server:s3", &[]),
    ] {
        let (flows, clients) = ask(filter);
        assert_eq!(flows, found, "{filter}");
        assert_eq!(clients, found, "{filter}");
    }
    // Text finds the server of a flow; a client has several.
    assert_eq!(ask("be_B").0, ["203.0.113.9"]);
    assert!(ask("be_B").1.is_empty());
}

#[test]
fn a_client_lists_the_servers_of_its_flows() {
    let mut sampler = sampler();
    sampler.set_view(view(&[
        ("192.0.2.1:1", "be_b/s1"),
        ("192.0.2.1:2", "be_a/s9"),
        ("192.0.2.1:3", "be_a/s9"),
        ("192.0.2.2:1", "be_a/s1"),
    ]));
    let mut flows: Vec<_> = (1..=4).map(|port| flow("192.0.2.1", port, TCP)).collect();
    flows.push(flow("192.0.2.2", 1, TCP));
    let ips = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];
    let clients = ips.iter().map(|ip| client(ip)).collect();
    sampler.observe(sample(0, flows, clients), at(0));
    let query = Query {
        sort: SortKey::Client,
        ..Query::default()
    };
    let rows = sampler.clients(&query, &[], &[]).unwrap().clients;
    assert_eq!(rows[0].servers, ["be_a/s9", "be_b/s1"]);
    assert_eq!(rows[1].servers, ["be_a/s1"]);
    assert!(rows[2].servers.is_empty());
}

#[test]
fn what_a_server_passed_never_falls_when_flows_close() {
    let view = view(&[("192.0.2.1:1", "be/s"), ("192.0.2.1:2", "be/s")]);
    let flows = |a, b| vec![passed("192.0.2.1", 1, a, 0), passed("192.0.2.1", 2, b, 0)];
    let mut sampler = two(&view, [flows(100_000, 1_000), flows(200_000, 2_000)]);
    assert_eq!(up(&sampler), (2, 202_000, 808_000));
    // The heavy one closes, the other goes on.
    sampler.observe(
        sample(2, vec![passed("192.0.2.1", 2, 3_000, 0)], vec![]),
        at(2),
    );
    assert_eq!(up(&sampler), (1, 203_000, 8_000));
    // The same ports again are another connection.
    let mut again = passed("192.0.2.1", 1, 500, 0);
    again.1.created = NOW + secs(2) + 1;
    sampler.observe(sample(3, vec![again], vec![]), at(3));
    assert_eq!(up(&sampler), (1, 203_500, 4_000));
    sampler.observe(sample(4, vec![], vec![]), at(4));
    assert_eq!(up(&sampler), (0, 203_500, 0));
    assert_nothing_moves(&all(&sampler));
}

fn assert_nothing_moves(answer: &model::Servers) {
    assert_eq!(answer.backends[0].imbalance, None);
    assert_eq!(answer.servers[0].top_client, None);
}

#[test]
fn bytes_count_to_the_server_that_a_flow_is_at() {
    let mut sampler = sampler();
    let bytes = |bytes| vec![passed("192.0.2.1", 1, bytes, 0)];
    let sums = |sampler: &Sampler| {
        let rows = all(sampler).servers;
        let sums: Vec<_> = rows
            .iter()
            .map(|row| (row.connections, row.upload.bytes))
            .collect();
        sums
    };
    let [one, two] = ["be/s1", "be/s2"].map(|place| view(&[("192.0.2.1:1", place)]));
    sampler.observe(sample(0, bytes(1_000), vec![]), at(0));
    assert!(all(&sampler).servers.is_empty());
    sampler.set_view(one.clone());
    // Without waiting for a sample, and twice is once.
    assert_eq!(sums(&sampler), [(1, 1_000)]);
    sampler.set_view(Arc::new(View::clone(&one)));
    assert_eq!(sums(&sampler), [(1, 1_000)]);
    sampler.observe(sample(1, bytes(1_500), vec![]), at(1));
    // Another server takes it over: what it passed before stays with the first.
    sampler.set_view(two);
    sampler.observe(sample(2, bytes(1_700), vec![]), at(2));
    assert_eq!(sums(&sampler), [(0, 1_500), (1, 200)]);
    // Between two streams what passes is nobody's, and is not counted later.
    sampler.set_view(view(&[]));
    assert_eq!(sums(&sampler), [(0, 1_500), (0, 200)]);
    sampler.observe(sample(3, bytes(1_800), vec![]), at(3));
    sampler.set_view(one);
    sampler.observe(sample(4, bytes(1_900), vec![]), at(4));
    assert_eq!(sums(&sampler), [(1, 1_600), (0, 200)]);
}

#[test]
fn a_new_flow_is_found_in_the_view_that_is_there() {
    let mut sampler = sampler();
    sampler.set_view(view(&[("192.0.2.1:1", "be/s")]));
    sampler.observe(sample(0, vec![], vec![]), at(0));
    assert_eq!(up(&sampler), (0, 0, 0));
    let mut new = passed("192.0.2.1", 1, 1_000, 0);
    new.1.created = NOW + 1;
    // HAProxy speaks of TCP, whatever else has the same address and port.
    let mut udp = passed("192.0.2.1", 1, 1_000, 0);
    udp.0.protocol = UDP;
    sampler.observe(sample(1, vec![new, udp], vec![]), at(1));
    assert_eq!(up(&sampler), (1, 1_000, 8_000));
    assert!(sampler.session(&udp.0, &udp.1).is_none());
    let rows = sampler.flows(&Query::default()).unwrap().flows;
    let joined = rows.iter().filter(|row| row.haproxy.is_some());
    assert_eq!(joined.count(), 1);
}

#[test]
fn a_stale_session_still_pins_its_flow() {
    let mut stale = View::clone(&view(&[("192.0.2.1:1", "be/s")]));
    for session in stale.sessions.values_mut() {
        session.stale = true;
    }
    let flows = |bytes| vec![passed("192.0.2.1", 1, bytes, 0)];
    let sampler = two(&Arc::new(stale), [flows(0), flows(1_000)]);
    assert_eq!(up(&sampler), (1, 1_000, 8_000));
    let row = &sampler.flows(&Query::default()).unwrap().flows[0];
    let haproxy = row.haproxy.as_ref().unwrap();
    assert!(haproxy.stale);
    assert_eq!(
        (haproxy.session.as_str(), haproxy.worker_pid),
        ("0x55df672d6cc0", 4242)
    );
}

#[test]
fn a_server_without_sessions_stays_a_minute() {
    let flows = |bytes| vec![passed("192.0.2.1", 1, bytes, 0)];
    let here = view(&[("192.0.2.1:1", "be/s")]);
    let mut sampler = two(&here, [flows(0), flows(1_000)]);
    sampler.set_view(Arc::default());
    sampler.observe(sample(61, flows(2_000), vec![]), at(61));
    assert_eq!(up(&sampler), (0, 1_000, 0));
    sampler.observe(sample(62, flows(2_000), vec![]), at(62));
    assert!(all(&sampler).servers.is_empty() && all(&sampler).backends.is_empty());
    // It comes back as new; nothing is left of others.
    sampler.set_view(here);
    assert_eq!(up(&sampler), (1, 0, 0));
    sampler.set_view(Arc::default());
    sampler.observe(sample(123, vec![], vec![]), at(123));
    sampler.set_view(Arc::default());
    assert!(sampler.pinned.next(&View::default(), 0, 0).is_none());
}

#[test]
fn when_nothing_moves_the_bytes_tell_the_top_client() {
    let places = view(&[
        ("[2001:db8:1:2::1]:1", "be/s"),
        ("[2001:db8:1:2::2]:1", "be/s"),
        ("192.0.2.1:1", "be/s"),
    ]);
    let flows = vec![
        passed("2001:db8:1:2::1", 1, 200, 0),
        passed("2001:db8:1:2::2", 1, 0, 100),
        passed("192.0.2.1", 1, 0, 200),
    ];
    let sampler = two(&places, [flows.clone(), flows]);
    let row = &all(&sampler).servers[0];
    // Two addresses of one client.
    assert_eq!(row.top_client.as_deref(), Some("2001:db8:1:2::/64"));
    about(row.top_client_share, 0.6);
    // Of equals always the first.
    let ips: Vec<_> = (1..=20).map(|n| format!("192.0.2.{n}")).collect();
    let ends: Vec<_> = ips.iter().map(|ip| format!("{ip}:1")).collect();
    let equals = ends.iter().map(|end| (end.as_str(), "be/s"));
    let equals = view(&equals.collect::<Vec<_>>());
    let flows: Vec<_> = ips.iter().map(|ip| passed(ip, 1, 100, 0)).collect();
    let sampler = two(&equals, [flows.clone(), flows]);
    let row = &all(&sampler).servers[0];
    assert_eq!(row.top_client.as_deref(), Some("192.0.2.1"));
    about(row.top_client_share, 0.05);

    let silent = vec![flow("192.0.2.1", 1, TCP)];
    let sampler = two(&places, [silent.clone(), silent]);
    assert_eq!(all(&sampler).servers[0].connections, 1);
    assert_eq!(all(&sampler).servers[0].top_client, None);
}

/// Fifty thousand flows at a hundred servers, each sampled twice.
#[test]
fn fifty_thousand_flows_are_joined_in_time() {
    let flows = |bytes: u64| -> Vec<_> {
        let one = |n: u32| {
            let [_, a, b, c] = (n / 4).to_be_bytes();
            passed(
                &format!("10.{a}.{b}.{c}"),
                40_000 + (n % 4) as u16,
                bytes,
                0,
            )
        };
        (0..50_000).map(one).collect()
    };
    let (before, now) = (flows(1_000), flows(2_000));
    let sessions: Vec<_> = (0..50_000_u32)
        .map(|n| {
            let [_, a, b, c] = (n / 4).to_be_bytes();
            let client = format!("10.{a}.{b}.{c}:{}", 40_000 + n % 4);
            (client, format!("be{}/s{}", n % 10, n % 100))
        })
        .collect();
    let sessions: Vec<_> = sessions
        .iter()
        .map(|(client, place)| (client.as_str(), place.as_str()))
        .collect();
    let view = view(&sessions);
    let began = Instant::now();
    let sampler = two(&view, [before, now]);
    let answer = ask(&sampler, SortKey::Total, "client:10.0.0.0/8");
    let took = began.elapsed();
    assert_eq!((answer.servers.len(), answer.backends.len()), (100, 10));
    assert!(answer.servers.iter().all(|row| row.connections == 500));
    // Unoptimised, on a machine that does other things too.
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[test]
fn a_flow_that_began_after_the_answer_is_not_the_one_it_speaks_of() {
    let mut view = View::clone(&view(&[("192.0.2.1:1", "be/srv1")]));
    for session in view.sessions.values_mut() {
        session.answered = NOW + 5;
    }
    let mut sampler = sampler();
    sampler.set_view(Arc::new(view));
    let before = passed("192.0.2.1", 1, 1_000, 0);
    let mut again = before;
    again.1.created = NOW + 6;
    for (flow, joined) in [(before, true), (again, false)] {
        sampler.observe(sample(1, vec![flow], vec![]), at(1));
        let rows = sampler.flows(&Query::default()).unwrap().flows;
        assert_eq!(rows[0].haproxy.is_some(), joined, "{}", flow.1.created);
    }
}
