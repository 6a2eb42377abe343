use super::*;
use crate::control::server::Answer;
use crate::daemon::lab::{ROOT, options};
use crate::daemon::logged::logged;
use crate::haproxy::View;
use crate::haproxy::agent::{Agent, agent};
use crate::model;
use crate::testing::{FakeKernel, at, flow, session};
use shaper_common::key::TCP;
use std::fs;
use std::sync::Arc;
use tempfile::TempDir;

const ALLOWED: &str = r#"
ports = [443]
control = { uids = [1000] }
[haproxy]
actions = ["kill", "drain"]
"#;

struct Lab {
    dir: TempDir,
    kernel: FakeKernel,
    core: Core<FakeKernel>,
    agent: Agent,
}

fn lab(policy: &str) -> Lab {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("policy.toml"), policy).unwrap();
    let options = options(&dir);
    let flows = vec![flow("192.0.2.1", 4000, TCP), flow("192.0.2.2", 4000, TCP)];
    let kernel = FakeKernel::new(flows, Vec::new());
    let (policy, _) = options.load().unwrap();
    let (feed, agent) = agent();
    let core = Core::start(kernel.clone(), policy, options, feed, at(0)).unwrap();
    let mut lab = Lab {
        dir,
        kernel,
        core,
        agent,
    };
    lab.view(false);
    lab
}

impl Lab {
    fn view(&mut self, stale: bool) {
        let mut sessions = [
            ("192.0.2.1:4000", session(0xa1, "srv1")),
            ("192.0.2.2:4000", session(0xa2, "srv2")),
        ];
        sessions[1].1.stale = stale;
        self.core.sampler.set_view(Arc::new(View {
            sessions: sessions
                .map(|(client, session)| (client.parse().unwrap(), session))
                .into(),
            ..View::default()
        }));
    }

    /// A second in which each flow sends 1 MB.
    fn tick(&mut self) {
        for (_, flow) in &mut self.kernel.state().sample.flows {
            flow.traffic[0].bytes += 1_000_000;
        }
        self.core.tick(at(1));
    }

    fn error(&mut self, command: &Command) -> ErrorBody {
        self.core.plan(command, ROOT).unwrap_err()
    }

    fn status(&mut self) -> model::Status {
        match self.core.handle(Command::Status, ROOT, at(10)).unwrap() {
            Answer::Status(status) => *status,
            other => panic!("{other:?}"),
        }
    }
}

fn kill(flow: &str) -> Command {
    Command::Kill {
        flow: flow.to_owned(),
        dry_run: false,
    }
}

fn drain(server: &str) -> Command {
    Command::Drain {
        server: server.to_owned(),
        percent: 30,
        over_ms: 600_000,
        dry_run: false,
    }
}

fn stop(server: &str) -> Command {
    Command::StopDrain {
        server: server.to_owned(),
    }
}

#[test]
fn a_kill_is_of_the_session_behind_the_flow() {
    let mut lab = lab(ALLOWED);
    let Plan::Kill { target, dry_run } = lab.core.plan(&kill("192.0.2.1:4000"), ROOT).unwrap()
    else {
        panic!()
    };
    assert_eq!((target.session, dry_run), (session(0xa1, "srv1"), false));
    let error = lab.error(&kill("192.0.2.1"));
    assert_eq!(error.code, ErrorCode::BadRequest);
    let error = lab.error(&kill("192.0.2.9:4000"));
    assert_eq!(error.code, ErrorCode::Failed);
    assert!(
        error.message.contains("`shaper flows`"),
        "{}",
        error.message
    );
}

#[test]
fn a_drain_is_of_the_servers_sessions() {
    let mut lab = lab(ALLOWED);
    assert!(
        lab.error(&drain("be_ws/srv1"))
            .message
            .starts_with("nothing moves")
    );
    lab.tick();
    let Plan::Drain(plan) = lab.core.plan(&drain("be_ws/srv1"), ROOT).unwrap() else {
        panic!()
    };
    assert_eq!((plan.rate, plan.targets.len()), (8_000_000, 1));
    assert_eq!(
        lab.core.load(&server_name("be_ws/srv1").unwrap()),
        Ok(8_000_000)
    );
    assert_eq!(lab.core.load(&server_name("be_ws/srv9").unwrap()), Ok(0));
    let message = lab.error(&drain("be_ws/srv9")).message;
    assert!(
        message.starts_with("no open session is pinned to be_ws/srv9"),
        "{message}"
    );
    assert_eq!(lab.error(&drain("srv1")).code, ErrorCode::BadRequest);
    lab.view(true);
    let message = lab.error(&drain("be_ws/srv2")).message;
    assert!(
        message.starts_with("/run/haproxy/admin.sock has not answered"),
        "{message}"
    );
}

#[test]
fn what_the_policy_does_not_name_is_not_done() {
    let mut lab = lab("ports = [443]\n[haproxy]\nactions = [\"kill\"]");
    lab.tick();
    assert!(lab.core.plan(&kill("0xa1"), ROOT).is_ok());
    let error = lab.error(&drain("be_ws/srv1"));
    assert_eq!(error.code, ErrorCode::Failed);
    assert_eq!(
        error.message,
        "the policy does not allow to drain: write `actions = [\"kill\", \"drain\"]` under [haproxy], \
         then `shaper reload`"
    );
    assert!(lab.core.load(&server_name("be_ws/srv1").unwrap()).is_err());
    // To end one is always allowed.
    assert!(lab.core.plan(&stop("be_ws/srv1"), ROOT).is_ok());
    let mut by_default = self::lab("ports = [443]");
    let message = by_default.error(&kill("0xa1")).message;
    assert!(message.contains("`actions = [\"kill\"]`"), "{message}");
}

#[test]
fn only_root_and_the_named_users_may_and_the_log_has_who_tried() {
    let mut lab = lab(ALLOWED);
    let log = logged(|| {
        for command in [kill("0xa1"), drain("be_ws/srv1"), stop("be_ws/srv1")] {
            let uid = 1001;
            let error = lab
                .core
                .plan(&command, Peer { uid, pid: Some(9) })
                .unwrap_err();
            assert_eq!(error.code, ErrorCode::Denied);
        }
        let uid = 1000;
        assert!(
            lab.core
                .plan(&kill("0xa1"), Peer { uid, pid: None })
                .is_ok()
        );
        lab.error(&kill("0xff"));
    });
    assert_eq!(log.matches("denied uid=1001 pid=9").count(), 3, "{log}");
    assert_eq!(log.matches("refused: no TCP flow 0xff").count(), 1, "{log}");
}

#[test]
fn the_agent_follows_the_policy() {
    let mut lab = lab(&format!(
        "{ALLOWED}\n[haproxy.agent]\nlisten = \"127.0.0.1:9777\""
    ));
    assert!(lab.core.feed.wanted());
    lab.tick();
    assert_eq!(lab.agent.percent("be_ws/srv1"), "100%");
    lab.view(true);
    lab.tick();
    assert_eq!(lab.agent.percent("be_ws/srv1"), "100%");
    assert_eq!(lab.agent.percent("be_ws/srv2"), "", "stale");
    fs::write(lab.dir.path().join("policy.toml"), ALLOWED).unwrap();
    lab.core.handle(Command::Reload, ROOT, at(10)).unwrap();
    assert!(!lab.core.feed.wanted());
    assert!(lab.status().drains.is_empty());
}
