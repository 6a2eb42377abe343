use super::*;
use crate::haproxy::drain::server_name;
use crate::haproxy::drain::tests::target;
use crate::haproxy::fake::{Answer, Server};
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::time::sleep;

const ROOT: Peer = Peer {
    uid: 0,
    pid: Some(7),
};

/// A HAProxy that closes whatever it is asked to.
fn haproxy() -> Server {
    Server::start(|command| {
        let id = command.rsplit_once("0x").map_or("", |(_, id)| id);
        let port = u16::from_str_radix(id, 16).unwrap();
        Answer::Text(if command.starts_with("show sess") {
            format!("0x{id}: [x] id=0 proto=tcpv4 source=192.0.2.1:{port}\n\n")
        } else {
            "\n".to_owned()
        })
    })
}

fn on(server: &Server, port: u16, rate: u64) -> Target {
    let mut target = target(port, rate);
    target.session.socket = server.path().into();
    target
}

fn plan(server: &Server, rates: &[u64], percent: u8, over: u64) -> Plan {
    let pinned = (1..)
        .zip(rates)
        .map(|(port, rate)| on(server, port, *rate))
        .collect();
    let name = server_name("be_ws/srv1").unwrap();
    Plan::new(&name, pinned, percent, Duration::from_secs(over)).unwrap()
}

fn shutdowns(server: &Server) -> Vec<String> {
    let commands = server.commands().into_iter();
    commands
        .filter_map(|command| command.strip_prefix("shutdown session ").map(str::to_owned))
        .collect()
}

/// Begins a drain of a server that carries what `load` says.
fn begin(actions: &Arc<Actions>, plan: Plan, load: &Arc<AtomicU64>) -> Result<String, ActionError> {
    let load = Arc::clone(load);
    actions.drain(plan, ROOT, move || {
        let load = Arc::clone(&load);
        async move { Ok(load.load(Ordering::Relaxed)) }
    })
}

async fn end(actions: &Actions) -> model::Drain {
    let over = async {
        loop {
            let drain = actions.drains().remove(0);
            if drain.state != "running" {
                return drain;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), over)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_kill_says_what_it_did() {
    let server = haproxy();
    let actions = Actions::default();
    let target = on(&server, 4000, 1);
    let dry = actions.kill(&target, true).await.unwrap();
    assert_eq!(
        dry,
        "would close 192.0.2.1:4000 (session 0xfa0 on be_ws/srv1)"
    );
    assert_eq!(shutdowns(&server), Vec::<String>::new());
    let done = actions.kill(&target, false).await.unwrap();
    assert_eq!(done, "closed 192.0.2.1:4000 (session 0xfa0 on be_ws/srv1)");
    assert_eq!(shutdowns(&server), ["0xfa0"]);
    server.answer("Session not found.\n\n");
    for dry_run in [true, false] {
        let gone = actions.kill(&target, dry_run).await.unwrap();
        assert!(gone.ends_with(" is already gone"), "{gone}");
    }
}

#[tokio::test]
async fn ten_sessions_a_second_are_closed_and_no_more() {
    let server = haproxy();
    let actions = Actions::default();
    for port in 1..=10 {
        actions.kill(&on(&server, port, 1), false).await.unwrap();
    }
    let error = actions.kill(&on(&server, 11, 1), false).await.unwrap_err();
    assert!(matches!(error, ActionError::TooMany), "{error}");
    assert_eq!(shutdowns(&server).len(), 10);
    sleep(SECOND).await;
    actions.kill(&on(&server, 11, 1), false).await.unwrap();
    assert_eq!(shutdowns(&server).len(), 11);
}

#[tokio::test]
async fn a_drain_closes_the_planned_ones_spread_over_its_time() {
    let server = haproxy();
    let actions = Arc::default();
    let load = Arc::new(AtomicU64::new(100));
    let message = begin(&actions, plan(&server, &[10, 40, 30, 20], 90, 3), &load).unwrap();
    assert!(
        message.starts_with("draining be_ws/srv1: closes 3 of the 4 sessions"),
        "{message}"
    );
    let drain = end(&actions).await;
    assert_eq!(
        (drain.state.as_str(), drain.closed, drain.planned),
        ("done", 3, 3)
    );
    assert_eq!(shutdowns(&server), ["0x2", "0x3", "0x4"]);
    let at: Vec<_> = server.asked().iter().map(|asked| asked.at).collect();
    let spread = *at.last().unwrap() - at[0];
    assert!(spread >= Duration::from_millis(1900), "{spread:?}");
}

#[tokio::test]
async fn a_drain_ends_when_the_server_carries_little_enough() {
    let server = haproxy();
    let actions = Arc::default();
    let load = Arc::new(AtomicU64::new(0));
    begin(&actions, plan(&server, &[10; 10], 30, 600), &load).unwrap();
    let drain = end(&actions).await;
    assert_eq!(
        (drain.state.as_str(), drain.closed, drain.target_bps),
        ("done", 1, 70)
    );
    assert_eq!(
        drain.reason.as_deref(),
        Some("the server carries little enough")
    );
}

#[tokio::test]
async fn one_drain_a_server_until_it_is_stopped() {
    let server = haproxy();
    let actions: Arc<Actions> = Arc::default();
    let load = Arc::new(AtomicU64::new(100));
    let again = || plan(&server, &[10; 10], 100, 600);
    assert!(matches!(
        actions.stop("be_ws/srv1"),
        Err(ActionError::NotRunning(_))
    ));
    begin(&actions, again(), &load).unwrap();
    let error = begin(&actions, again(), &load).unwrap_err();
    assert!(matches!(error, ActionError::Running(_)), "{error}");
    actions.stop("be_ws/srv1").unwrap();
    assert_eq!(end(&actions).await.state, "stopped");
    assert!(matches!(
        actions.stop("be_ws/srv1"),
        Err(ActionError::NotRunning(_))
    ));
    begin(&actions, again(), &load).unwrap();
    assert_eq!(actions.drains().len(), 1);
    assert_eq!(actions.drains()[0].state, "running");
}

#[tokio::test]
async fn a_drain_goes_on_past_those_that_are_gone() {
    let server = haproxy();
    let actions = Arc::default();
    let load = Arc::new(AtomicU64::new(100));
    let plan = plan(&server, &[10, 10], 100, 1);
    server.answer("Session not found.\n\n");
    begin(&actions, plan, &load).unwrap();
    let drain = end(&actions).await;
    assert_eq!(
        (drain.state.as_str(), drain.closed, drain.gone),
        ("done", 0, 2)
    );
}

#[tokio::test]
async fn a_drain_that_haproxy_does_not_allow_fails_at_once() {
    let server = haproxy();
    let actions = Arc::default();
    let load = Arc::new(AtomicU64::new(100));
    let plan = plan(&server, &[10; 10], 100, 1);
    server.answer("Permission denied\n\n");
    begin(&actions, plan, &load).unwrap();
    let drain = end(&actions).await;
    assert_eq!((drain.state.as_str(), drain.closed), ("failed", 0));
    assert!(drain.reason.unwrap().contains("level admin"));
    assert_eq!(server.commands().len(), 1);
}

#[tokio::test]
async fn a_drain_ends_when_the_policy_does_not_allow_it_any_more() {
    let server = haproxy();
    let actions: Arc<Actions> = Arc::default();
    let refused = || async { Err("the policy does not allow to drain".to_owned()) };
    let plan = plan(&server, &[10; 10], 100, 600);
    actions.drain(plan, ROOT, refused).unwrap();
    let drain = end(&actions).await;
    assert_eq!((drain.state.as_str(), drain.closed), ("failed", 0));
    assert_eq!(server.commands().len(), 0);
}

#[test]
fn only_so_many_drains_are_remembered() {
    let mut drains = BTreeMap::new();
    let running = |seconds: i64, stop| Drain {
        status: model::Drain {
            server: String::new(),
            state: String::new(),
            share: 0.0,
            rate_bps: 0,
            target_bps: 0,
            now_bps: 0,
            planned: 0,
            closed: 0,
            gone: 0,
            since: crate::testing::at(seconds),
            until: crate::testing::at(seconds),
            reason: None,
        },
        stop,
    };
    drains.insert("running".to_owned(), running(0, Some(watch::channel(()).0)));
    for i in 0..40_u8 {
        forget(&mut drains);
        drains.insert(format!("{i:02}"), running((i + 1).into(), None));
    }
    assert_eq!(drains.len(), REMEMBERED + 1);
    assert!(
        drains.contains_key("running") && drains.contains_key("39") && !drains.contains_key("23")
    );
}
