use crate::control::server::Answer;
use crate::daemon::core::Core;
use crate::daemon::lab::{ROOT, options};
use crate::haproxy::View;
use crate::haproxy::agent::agent;
use crate::model;
use crate::policy::RateLimit;
use crate::protocol::{Command, Query};
use crate::testing::{FakeKernel, at, client, flow, view};
use shaper_common::bucket::Limit;
use shaper_common::key::{FlowKey, TCP};
use std::fs;
use std::sync::Arc;
use tempfile::TempDir;

const POLICY: &str = r#"
ports = [443]
[[rule]]
name = "writers"
backends = ["be_ws"]
upload = { rate = "10mbit" }
flow_download = { rate = "2mbit" }
[[rule]]
name = "monitoring"
clients = ["192.0.2.99"]
exempt = true
"#;

const CAP: &str = r#"
[[server_limit]]
server = "be_ws/srv2"
upload = { rate = "8mbit" }
"#;

struct Lab {
    dir: TempDir,
    kernel: FakeKernel,
    core: Core<FakeKernel>,
}

/// Four flows, of which none is joined yet: port 4000 of 192.0.2.1, .2 and .99, and
/// a second of .2.
fn lab(policy: &str) -> Lab {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("policy.toml"), policy).unwrap();
    let options = options(&dir);
    let flows = [
        ("192.0.2.1", 4000),
        ("192.0.2.2", 4000),
        ("192.0.2.2", 4001),
        ("192.0.2.99", 4000),
    ];
    let flows = flows.map(|(ip, port)| flow(ip, port, TCP)).into();
    // Of an older generation, so that their class is looked for.
    let clients = ["192.0.2.1", "192.0.2.2", "192.0.2.99"].map(|ip| {
        let (key, mut client) = client(ip);
        client.generation = 0;
        (key, client)
    });
    let kernel = FakeKernel::new(flows, clients.into());
    let (policy, _) = options.load().unwrap();
    let core = Core::start(kernel.clone(), policy, options, agent().0, at(0)).unwrap();
    Lab { dir, kernel, core }
}

fn places(servers: [&str; 4]) -> Arc<View> {
    view(&[
        ("192.0.2.1:4000", servers[0]),
        ("192.0.2.2:4000", servers[1]),
        ("192.0.2.2:4001", servers[2]),
        ("192.0.2.99:4000", servers[3]),
    ])
}

fn stale(view: &View) -> Arc<View> {
    let mut view = view.clone();
    for session in view.sessions.values_mut() {
        session.stale = true;
    }
    Arc::new(view)
}

impl Lab {
    /// A second in which every flow sends `bytes`.
    fn tick(&mut self, bytes: u64) {
        for (_, flow) in &mut self.kernel.state().sample.flows {
            flow.traffic[0].bytes += bytes;
        }
        self.core.tick(at(1));
    }

    fn reload(&mut self, policy: &str) {
        fs::write(self.dir.path().join("policy.toml"), policy).unwrap();
        self.core.handle(Command::Reload, ROOT, at(10)).unwrap();
    }

    /// In kbit/s, by direction, in the order of the flows; and forgets what the
    /// kernel was told.
    fn told(&self) -> Vec<(FlowKey, [Option<u64>; 2])> {
        let mut state = self.kernel.state();
        let told = std::mem::take(&mut state.flow_limits);
        let mut told: Vec<_> = told
            .into_iter()
            .map(|(key, limits)| (key, limits.map(|l| l.map(|l| l.rate.bps() / 1000))))
            .collect();
        told.sort_unstable_by_key(|(key, _)| *key);
        told
    }

    fn limits(&self) -> Vec<[Option<u64>; 2]> {
        let state = self.kernel.state();
        let own = state.sample.flows.iter().map(|(_, flow)| flow.own);
        own.map(|own| own.map(|l| l.is_set().then(|| l.bits_per_sec() / 1000)))
            .collect()
    }

    fn flows(&mut self) -> Vec<model::Flow> {
        let query = Query {
            sort: crate::protocol::SortKey::Client,
            ..Query::default()
        };
        match self.core.handle(Command::Flows(query), ROOT, at(10)) {
            Ok(Answer::Flows(rows)) => rows.flows,
            other => panic!("{other:?}"),
        }
    }

    fn status(&mut self) -> model::Status {
        match self.core.handle(Command::Status, ROOT, at(10)).unwrap() {
            Answer::Status(status) => *status,
            other => panic!("{other:?}"),
        }
    }
}

const ALL: [&str; 4] = ["be_ws/srv1", "be_ws/srv1", "be_ws/srv1", "be_ws/srv1"];

#[test]
fn a_place_rule_holds_open_connections_once_haproxy_has_told_of_them() {
    let mut lab = lab(POLICY);
    lab.tick(0);
    assert!(lab.told().is_empty());
    lab.core.set_view(places(ALL));
    lab.tick(0);
    let each = Some(2_000);
    let expected = [
        [Some(10_000), each],
        [Some(5_000), each],
        [Some(5_000), each],
        [None, None],
    ];
    assert_eq!(lab.limits(), expected);
    assert_eq!(lab.told().len(), 3, "nobody who is exempt");
    let own = lab.flows()[0].own_limit.clone().unwrap();
    assert_eq!(
        (own.upload_bps, own.download_bps, own.by.as_str()),
        (Some(10_000_000), Some(2_000_000), "writers")
    );
    assert_eq!(lab.flows()[3].own_limit, None);
    assert_eq!(lab.status().counters["placed_flows"], 3);
    for _ in 0..3 {
        lab.tick(1000);
        assert!(lab.told().is_empty(), "nothing changes");
    }
}

#[test]
fn what_a_flow_wants_follows_what_it_sends() {
    let mut lab = lab(POLICY);
    lab.core.set_view(places(ALL));
    lab.tick(0);
    let mut state = lab.kernel.state();
    state.sample.flows[1].1.traffic[0].bytes += 625_000;
    drop(state);
    lab.tick(0);
    assert_eq!(
        lab.limits()[1..3],
        [[Some(10_000), Some(2_000)], [Some(64), Some(2_000)]]
    );
}

#[test]
fn a_client_at_two_servers_of_a_place_has_its_limit_once() {
    let mut lab = lab(POLICY);
    let servers = ["be_ws/srv1", "be_ws/srv1", "be_ws/srv2", "be_ws/srv2"];
    lab.core.set_view(places(servers));
    lab.tick(0);
    let each = Some(2_000);
    assert_eq!(lab.limits()[0], [Some(10_000), each]);
    assert_eq!(lab.limits()[1..3], [[Some(5_000), each]; 2]);
    lab.kernel.state().sample.flows[1].1.traffic[0].bytes += 625_000;
    lab.tick(0);
    assert_eq!(
        lab.limits()[1..3],
        [[Some(10_000), each], [Some(64), each]],
        "who is idle keeps what it can begin on"
    );
}

#[test]
fn a_server_limit_is_divided_among_its_clients() {
    let mut lab = lab(&format!("ports = [443]\n{CAP}"));
    lab.core.set_view(places(["be_ws/srv2"; 4]));
    // Four times 8 Mbit/s.
    lab.tick(1_000_000);
    lab.tick(1_000_000);
    assert_eq!(
        lab.limits(),
        [
            [Some(2_666), None],
            [Some(1_333), None],
            [Some(1_333), None],
            [Some(2_666), None]
        ]
    );
    let by = lab.flows()[0].own_limit.clone().unwrap().by;
    assert_eq!(by, "server_limit be_ws/srv2");
    let Ok(Answer::Servers(rows)) =
        lab.core
            .handle(Command::Servers(Query::default()), ROOT, at(10))
    else {
        panic!()
    };
    let row = &rows.servers[0];
    assert_eq!(
        (row.limit_upload_bps, row.limit_download_bps),
        (Some(8_000_000), None)
    );
}

#[test]
fn who_is_exempt_takes_from_it_and_the_tighter_of_two_holds() {
    let mut lab = lab(&format!("{POLICY}{CAP}"));
    lab.core.set_view(places(["be_ws/srv2"; 4]));
    // Four times 3 Mbit/s: 5 are left for two clients.
    lab.tick(375_000);
    lab.tick(375_000);
    let each = Some(2_000);
    assert_eq!(
        lab.limits(),
        [
            [Some(2_500), each],
            [Some(1_250), each],
            [Some(1_250), each],
            [None, None]
        ]
    );
    let by = lab.flows()[1].own_limit.clone().unwrap().by;
    assert_eq!(by, "server_limit be_ws/srv2, writers");
}

#[test]
fn a_reload_changes_and_lifts() {
    let mut lab = lab(POLICY);
    lab.core.set_view(places(ALL));
    lab.tick(0);
    lab.reload(
        &POLICY
            .replace("10mbit", "12mbit")
            .replace("flow_down", "down"),
    );
    lab.tick(0);
    assert_eq!(lab.limits()[0], [Some(12_000), Some(2_000)]);
    assert_eq!(lab.limits()[1], [Some(6_000), Some(1_000)]);
    lab.reload(&format!("mode = \"observe\"\n{POLICY}"));
    lab.tick(0);
    assert_eq!(lab.limits(), [[None, None]; 4]);
    assert!(lab.flows().iter().all(|flow| flow.own_limit.is_none()));
    lab.reload(POLICY);
    lab.tick(0);
    assert_eq!(lab.status().counters["placed_flows"], 3);
    // Also while HAProxy is silent.
    lab.core.set_view(stale(&places(ALL)));
    lab.reload("ports = [443]");
    lab.tick(0);
    assert_eq!(lab.limits(), [[None, None]; 4]);
    assert_eq!(lab.status().counters["placed_flows"], 0);
}

#[test]
fn observing_limits_nothing() {
    let mut lab = lab(&format!("mode = \"observe\"\n{POLICY}{CAP}"));
    lab.core.set_view(places(["be_ws/srv2"; 4]));
    lab.tick(1_000_000);
    lab.tick(1_000_000);
    assert!(lab.told().is_empty());
}

#[test]
fn a_flow_that_moves_is_held_as_its_new_server_is() {
    let mut lab = lab(&format!("ports = [443]\n{CAP}"));
    lab.core.set_view(places(["be_ws/srv2"; 4]));
    lab.tick(0);
    assert!(lab.limits().iter().all(|limit| limit[0].is_some()));
    lab.told();
    let servers = ["be_ws/srv2", "be_ws/srv1", "nowhere", "be_ws/srv2"];
    lab.core.set_view(places(servers));
    lab.tick(500_000);
    let limits = lab.limits();
    assert_eq!(limits[1..3], [[None, None]; 2], "elsewhere, and nowhere");
    assert_eq!([limits[0][0], limits[3][0]], [Some(4_000); 2]);
}

#[test]
fn while_haproxy_is_silent_limits_stay_as_they_are() {
    let mut lab = lab(POLICY);
    lab.core.set_view(places(ALL));
    lab.tick(0);
    lab.told();
    lab.core.set_view(stale(&places(ALL)));
    lab.tick(5_000_000);
    lab.reload(&POLICY.replace("10mbit", "1mbit"));
    lab.tick(5_000_000);
    assert!(lab.told().is_empty());
    lab.core.set_view(places(ALL));
    lab.tick(0);
    assert_eq!(lab.limits()[0][0], Some(1_000));
}

#[test]
fn what_an_earlier_daemon_left_waits_for_haproxys_first_answer() {
    let mut lab = lab(POLICY);
    let left = Limit::new(3_000_000, 65_536);
    lab.kernel.state().sample.flows[0].1.own = [left; 2];
    lab.tick(0);
    let own = lab.flows()[0].own_limit.clone().unwrap();
    assert_eq!(own.by, "before the daemon's start");
    for _ in 0..70 {
        lab.tick(0);
    }
    assert_eq!(lab.limits()[0], [None, None], "not for ever");
}

#[test]
fn a_kernel_that_refuses_is_told_again() {
    let mut lab = lab(POLICY);
    lab.core.set_view(places(ALL));
    lab.kernel.state().refuse_limits = Some("no memory".to_owned());
    lab.tick(0);
    let warning = "cannot limit connections by their place: no memory";
    assert_eq!(lab.status().warnings, [warning]);
    assert_eq!(lab.status().counters["placed_flows"], 0);
    lab.kernel.state().refuse_limits = None;
    lab.tick(0);
    assert_eq!(lab.status().warnings, [] as [&str; 0]);
    assert_eq!(lab.told().len(), 3);
    let state = lab.kernel.state();
    let own = state.sample.flows[0].1.own[0];
    let burst = RateLimit::LEAST_DEFAULT_BURST;
    assert!(own.burst_bytes().abs_diff(125_000.max(burst)) < 10);
}
