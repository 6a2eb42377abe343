use super::*;
use crate::control::server::Handler;
use crate::daemon::core::Core;
use crate::daemon::lab::{ROOT, options};
use crate::daemon::{Join, turn};
use crate::haproxy::agent::agent;
use crate::haproxy::fake::{Answer as Says, Server};
use crate::haproxy::{Session, View};
use crate::metrics::Exporter;
use crate::model;
use crate::testing::{FakeKernel, at, flow, session};
use shaper_common::key::TCP;
use std::collections::HashMap;
use std::fs;
use std::sync::{Arc, mpsc};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::watch;

/// A daemon without its control socket, joined with a HAProxy that has two
/// sessions on srv1.
struct Lab {
    _dir: TempDir,
    haproxy: Server,
    handle: Handle,
}

fn lab() -> Lab {
    let dir = tempfile::tempdir().unwrap();
    let policy = "ports = [443]\n[haproxy]\nactions = [\"kill\", \"drain\"]";
    fs::write(dir.path().join("policy.toml"), policy).unwrap();
    let options = options(&dir);
    let haproxy = Server::start(|command| {
        let id = command.rsplit_once("0x").map_or("", |(_, id)| id);
        Says::Text(if command.starts_with("show sess") {
            format!("0x{id}: [x] id=0 proto=tcpv4 source=192.0.2.{id}:4000\n\n")
        } else {
            "\n".to_owned()
        })
    });
    let kernel = FakeKernel::new(
        vec![flow("192.0.2.1", 4000, TCP), flow("192.0.2.2", 4000, TCP)],
        Vec::new(),
    );
    let sessions: HashMap<_, _> = [1, 2]
        .map(|id| {
            let session = Session {
                socket: haproxy.path().into(),
                ..session(id, "srv1")
            };
            (format!("192.0.2.{id}:4000").parse().unwrap(), session)
        })
        .into();
    let (policy, _) = options.load().unwrap();
    let (feed, agent) = agent();
    let mut core = Core::start(kernel.clone(), policy, options, feed, at(0)).unwrap();
    core.set_view(Arc::new(View {
        sessions,
        ..View::default()
    }));
    for (_, flow) in &mut kernel.state().sample.flows {
        flow.traffic[0].bytes += 1_000_000;
    }
    core.tick(at(1));
    let (messages, inbox) = mpsc::channel();
    let join = Join {
        policy: watch::Sender::new(core.haproxy().clone()),
        // Without another view: what it has stays.
        views: watch::channel(Arc::default()).1,
    };
    let bus = core.bus.clone();
    std::thread::spawn(move || turn(core, &inbox, join));
    let handle = Handle {
        history: crate::history::start().unwrap().1,
        messages,
        actions: Arc::default(),
        agent,
        bus,
        exporter: Exporter::new(watch::channel(None).1),
    };
    Lab {
        _dir: dir,
        haproxy,
        handle,
    }
}

impl Lab {
    async fn done(&self, command: Command) -> Result<String, ErrorBody> {
        match self.handle.handle(command, ROOT).await? {
            Answer::Done(done) => Ok(done.message),
            other => panic!("{other:?}"),
        }
    }

    async fn drains(&self) -> Vec<model::Drain> {
        match self.handle.handle(Command::Status, ROOT).await.unwrap() {
            Answer::Status(status) => status.drains,
            other => panic!("{other:?}"),
        }
    }

    fn shutdowns(&self) -> usize {
        let commands = self.haproxy.commands();
        let shutdowns = commands.iter().filter(|c| c.starts_with("shutdown"));
        shutdowns.count()
    }
}

fn kill(dry_run: bool) -> Command {
    Command::Kill {
        flow: "192.0.2.1:4000".to_owned(),
        dry_run,
    }
}

fn drain(dry_run: bool) -> Command {
    Command::Drain {
        server: "be_ws/srv1".to_owned(),
        percent: 100,
        over_ms: 600_000,
        dry_run,
    }
}

#[tokio::test]
async fn a_kill_reaches_haproxy_and_a_dry_run_does_not() {
    let lab = lab();
    let message = lab.done(kill(true)).await.unwrap();
    assert!(
        message.starts_with("would close 192.0.2.1:4000"),
        "{message}"
    );
    assert_eq!(lab.shutdowns(), 0);
    let message = lab.done(kill(false)).await.unwrap();
    assert!(message.starts_with("closed 192.0.2.1:4000"), "{message}");
    assert_eq!(
        lab.haproxy.commands().last().unwrap(),
        "shutdown session 0x1"
    );
    lab.haproxy.answer("0x1: [x] id=0 source=203.0.113.9:1\n\n");
    let error = lab.done(kill(false)).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Failed);
    assert_eq!(lab.shutdowns(), 1);
}

#[tokio::test]
async fn who_may_not_change_anything_may_not_kill() {
    let lab = lab();
    for command in [kill(false), kill(true), drain(false)] {
        let uid = 1000;
        let error = lab.handle.handle(command, Peer { uid, pid: None }).await;
        assert_eq!(error.unwrap_err().code, ErrorCode::Denied);
    }
    assert_eq!(lab.haproxy.commands().len(), 0);
}

#[tokio::test]
async fn more_than_ten_a_second_are_refused() {
    let lab = lab();
    let mut codes = Vec::new();
    for _ in 0..11 {
        codes.push(lab.done(kill(false)).await.err().map(|error| error.code));
    }
    assert_eq!(codes[10], Some(ErrorCode::TooMuch));
    assert_eq!(
        (codes[..10].iter().flatten().count(), lab.shutdowns()),
        (0, 10)
    );
}

#[tokio::test]
async fn a_drain_is_in_status_until_it_is_stopped() {
    let lab = lab();
    let message = lab.done(drain(true)).await.unwrap();
    assert!(
        message.starts_with("would close 2 of the 2 sessions"),
        "{message}"
    );
    assert_eq!(lab.drains().await, []);
    lab.done(drain(false)).await.unwrap();
    let [now] = &lab.drains().await[..] else {
        panic!()
    };
    assert_eq!(
        (now.state.as_str(), now.planned, now.rate_bps),
        ("running", 2, 16_000_000)
    );
    let error = lab.done(drain(false)).await.unwrap_err();
    assert!(error.message.contains("--stop"), "{}", error.message);
    let stop = Command::StopDrain {
        server: "be_ws/srv1".to_owned(),
    };
    lab.done(stop.clone()).await.unwrap();
    let stopped = async {
        while lab.drains().await[0].state != "stopped" {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), stopped)
        .await
        .unwrap();
    assert!(lab.shutdowns() <= 1);
    assert!(lab.done(stop).await.is_err());
}
