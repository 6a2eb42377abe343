use super::*;
use crate::model::{Client, Direction, Limited, Runtime};
use crate::testing::at;

pub(crate) fn plain(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> String {
    let mut out = anstream::StripStream::new(Vec::new());
    write(&mut out).unwrap();
    String::from_utf8(out.into_inner()).unwrap()
}

pub(crate) fn traffic(bytes: u64, rate_bps: u64) -> Direction {
    Direction {
        bytes,
        packets: bytes / 1000,
        rate_bps,
        dropped_bytes: 0,
        dropped_packets: 0,
    }
}

fn client(name: &str) -> Client {
    let limited = |bytes, rate| Limited {
        traffic: traffic(bytes, rate),
        limit_bps: Some(8_000_000),
        burst_bytes: Some(65_536),
        limited_ms: 0,
        limited: false,
    };
    Client {
        client: name.to_owned(),
        rule: "default".to_owned(),
        connections: 1,
        exempt: false,
        blocked: false,
        upload: limited(12_345_678, 1_230_000),
        download: limited(1_000, 0),
        age_ms: 192_000,
        idle_ms: 0,
        runtime: None,
        quota: None,
        servers: Vec::new(),
    }
}

fn every_state() -> model::Clients {
    let mut held = client("198.51.100.200");
    held.upload.traffic.rate_bps = 7_990_000;
    held.upload.limited = true;
    held.upload.limited_ms = 61_000;
    let mut exempt = client("192.0.2.10");
    exempt.exempt = true;
    exempt.rule = "monitoring".to_owned();
    exempt.upload.limit_bps = None;
    exempt.download.limit_bps = None;
    let mut blocked = client("2001:db8:1:2::/64");
    blocked.blocked = true;
    blocked.runtime = Some(Runtime {
        upload_bps: None,
        download_bps: None,
        blocked: true,
        limit_expires: None,
        block_expires: Some(at(600)),
    });
    model::Clients {
        at: at(0),
        interval_ms: 1000,
        matched: 10,
        clients: vec![client("192.0.2.1"), held, exempt, blocked],
    }
}

#[test]
fn clients_in_every_state() {
    let answer = every_state();
    insta::assert_snapshot!("clients", plain(|out| clients(out, &answer, None)));
}

#[test]
fn a_plain_list_of_clients_fits_80_columns() {
    let mut answer = every_state();
    answer.clients.truncate(1);
    let text = plain(|out| clients(out, &answer, None));
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );
}

#[test]
fn rows_that_matter_are_coloured() {
    let mut out = Vec::new();
    clients(&mut out, &every_state(), None).unwrap();
    let text = String::from_utf8(out).unwrap();
    let starts = |line: usize, code: &str| text.lines().nth(line).unwrap().starts_with(code);
    assert!(starts(0, "\x1b[1m"), "{text:?}");
    assert!(starts(1, "192.0.2.1"));
    assert!(starts(2, "\x1b[33m"));
    assert!(starts(4, "\x1b[31m"));
}

fn flow(client: &str, port: u16) -> model::Flow {
    model::Flow {
        client: client.parse().unwrap(),
        client_port: port,
        local: "10.0.0.1".parse().unwrap(),
        local_port: 443,
        protocol: "tcp".to_owned(),
        rule: "default".to_owned(),
        age_ms: 7_500_000,
        idle_ms: 10,
        upload: traffic(12_345_678, 1_230_000),
        download: traffic(1_000, 100),
        backpressure: Some(model::FlowBackpressure {
            upload: true,
            download: true,
        }),
        own_limit: None,
        haproxy: None,
    }
}

#[test]
fn flows_of_both_families() {
    let mut answer = model::Flows {
        at: at(0),
        interval_ms: 1000,
        matched: 2,
        flows: vec![flow("203.0.113.10", 52482), flow("192.0.2.7", 1)],
    };
    let text = plain(|out| flows(out, &answer, None));
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );
    assert!(!text.contains("DROPPED"), "only where something was");
    assert!(!text.contains('*'), "{text}");
    answer.flows.push(flow("2001:db8:1:2:3:4:5:6", 52482));
    answer.flows[0].upload.dropped_bytes = 1_500;
    answer.flows[0].backpressure = Some(model::FlowBackpressure {
        upload: true,
        download: false,
    });
    insta::assert_snapshot!("flows", plain(|out| flows(out, &answer, None)));
    answer.flows.clear();
    answer.matched = 0;
    insta::assert_snapshot!("no_flows", plain(|out| flows(out, &answer, None)));
}

#[test]
fn servers_are_named_where_there_is_room() {
    let mut answer = every_state();
    answer.clients.truncate(2);
    answer.clients[0].servers = vec!["be_a/s1".to_owned(), "be_b/s2".to_owned()];
    let text = |width| plain(|out| clients(out, &answer, width));
    assert!(text(None).contains("be_a/s1, be_b/s2"));
    assert!(text(Some(200)).contains("SERVERS"));
    assert!(!text(Some(80)).contains("SERVERS"));
}

#[test]
fn a_flow_names_its_server() {
    let haproxy = |server: &str, stale| model::Haproxy {
        frontend: "fe_ws".to_owned(),
        backend: "be_ws".to_owned(),
        server: server.to_owned(),
        session: "0x55df672d6cc0".to_owned(),
        worker_pid: 4242,
        stale,
    };
    let mut joined = flow("203.0.113.10", 52482);
    joined.haproxy = Some(haproxy("srv1", false));
    let mut stale = flow("203.0.113.11", 52482);
    stale.haproxy = Some(haproxy("srv2", true));
    let mut answer = model::Flows {
        at: at(0),
        interval_ms: 1000,
        matched: 3,
        flows: vec![joined, stale, flow("192.0.2.7", 1)],
    };
    insta::assert_snapshot!("flows_at_servers", plain(|out| flows(out, &answer, None)));
    // In 80 columns the age has to go, and a long name does itself.
    let text = |answer: &_| plain(|out| flows(out, answer, Some(80)));
    let narrow = text(&answer);
    assert!(
        narrow.contains("~be_ws/srv2") && !narrow.contains("AGE"),
        "{narrow}"
    );
    assert!(
        narrow
            .lines()
            .all(|line| line.starts_with('~') || line.chars().count() <= 80)
    );
    let long = "websocket-server-of-the-south";
    answer.flows[0].haproxy = Some(haproxy(long, false));
    let narrow = text(&answer);
    assert!(
        !narrow.contains("SERVER") && narrow.contains("AGE"),
        "{narrow}"
    );
}
