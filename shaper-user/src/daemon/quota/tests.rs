use crate::control::server::Answer;
use crate::daemon::core::Core;
use crate::daemon::lab::{ROOT, options};
use crate::events::filter::EventFilter;
use crate::haproxy::agent::agent;
use crate::model;
use crate::protocol::{Command, Query};
use crate::testing::{FakeKernel, at, client, flow};
use shaper_common::class::CLASS_BLOCK;
use shaper_common::key::TCP;
use std::fs;
use tempfile::TempDir;

const POLICY: &str = r#"
ports = [443]
[default]
upload = { rate = "80mbit" }
quota = { bytes = "1MB", per = "day", then = "slow" }
[[rule]]
name = "slow"
upload = { rate = "1mbit" }
[[rule]]
name = "strict"
clients = ["198.51.100.0/24"]
quota = { bytes = "2MB", per = "1h", counts = "download", then = "block" }
"#;

const NAME: &str = "192.0.2.1";

struct Lab {
    dir: TempDir,
    kernel: FakeKernel,
    core: Core<FakeKernel>,
    now: i64,
}

fn core(dir: &TempDir, kernel: &FakeKernel, now: i64) -> Core<FakeKernel> {
    let options = options(dir);
    let (policy, _) = options.load().unwrap();
    Core::start(kernel.clone(), policy, options, agent().0, at(now)).unwrap()
}

fn lab(name: &str) -> Lab {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("policy.toml"), POLICY).unwrap();
    let mut client = client(name);
    // Its class is looked for in each policy.
    client.1.generation = 0;
    let kernel = FakeKernel::new(vec![flow(name, 4001, TCP)], vec![client]);
    kernel.state().counters = (1, true);
    let core = core(&dir, &kernel, 0);
    kernel.state().counters = (1, false);
    Lab {
        dir,
        kernel,
        core,
        now: 0,
    }
}

impl Lab {
    /// So many bytes have moved, and a second is over.
    fn moves(&mut self, up: u64, down: u64) {
        {
            let mut state = self.kernel.state();
            let (_, client) = &mut state.sample.clients[0];
            client.traffic[0].bytes += up;
            client.traffic[1].bytes += down;
        }
        self.now += 1;
        self.core.tick(at(self.now));
    }

    fn handle(&mut self, command: Command) -> Answer {
        self.core.handle(command, ROOT, at(self.now)).unwrap()
    }

    fn client(&mut self) -> model::Client {
        match self.handle(Command::Clients(Query::default())) {
            Answer::Clients(mut rows) => rows.clients.remove(0),
            other => panic!("{other:?}"),
        }
    }

    fn done(&mut self, command: Command) -> String {
        match self.handle(command) {
            Answer::Done(done) => done.message,
            other => panic!("{other:?}"),
        }
    }

    fn upload(&mut self) -> Option<u64> {
        self.client().upload.limit_bps
    }

    /// A start that adopts the maps.
    fn restart(mut self) -> Self {
        self.core = core(&self.dir, &self.kernel, self.now);
        self
    }

    fn events(&self) -> Vec<u8> {
        let events = self.core.bus.last(&EventFilter::default(), None);
        let percents = events.iter().filter_map(|record| match &record.event {
            crate::events::Event::QuotaReached { percent, .. } => Some(*percent),
            _ => None,
        });
        percents.collect()
    }
}

#[test]
fn over_its_quota_a_client_has_the_limits_of_the_other_rule() {
    let mut lab = lab(NAME);
    lab.moves(400_000, 399_999);
    assert_eq!(lab.upload(), Some(80_000_000));
    lab.moves(1, 0);
    lab.moves(200_000, 0);
    let row = lab.client();
    assert_eq!(
        (row.rule.as_str(), row.upload.limit_bps),
        ("default", Some(1_000_000))
    );
    let quota = row.quota.unwrap();
    assert_eq!((quota.bytes, quota.used), (1_000_000, 1_000_000));
    assert_eq!(
        (quota.state.as_str(), quota.then.as_str()),
        ("reached", "slow")
    );
    assert_eq!(lab.events(), [80, 100]);
    // By hand comes first.
    lab.done(Command::Limit {
        client: NAME.to_owned(),
        upload: Some("5mbit".to_owned()),
        download: None,
        for_ms: None,
    });
    assert_eq!(lab.upload(), Some(5_000_000));
    lab.done(Command::ClearLimit {
        client: NAME.to_owned(),
    });
    assert_eq!(lab.upload(), Some(1_000_000));
    // The next day it is free again.
    lab.now += 86_400;
    lab.moves(0, 0);
    assert_eq!(lab.upload(), Some(80_000_000));
    assert_eq!(lab.client().quota.unwrap().used, 0);
}

#[test]
fn it_is_reset_and_added_to_by_hand() {
    let mut lab = lab(NAME);
    lab.moves(2_000_000, 0);
    assert_eq!(lab.upload(), Some(1_000_000));
    let client = NAME.to_owned();
    let bytes = "1500kB".to_owned();
    let said = lab.done(Command::AddQuota { client, bytes });
    assert!(said.starts_with("gave 1500kB more to 192.0.2.1"), "{said}");
    assert_eq!(lab.upload(), Some(80_000_000));
    lab.moves(500_000, 0);
    assert_eq!(lab.upload(), Some(1_000_000));
    lab.done(Command::ResetQuota {
        client: NAME.to_owned(),
    });
    assert_eq!(lab.upload(), Some(80_000_000));
    lab.moves(1_000_000, 0);
    assert_eq!(lab.upload(), Some(1_000_000));
}

#[test]
fn a_quota_that_ends_in_a_block_closes_connections_and_stays_visible() {
    let mut lab = lab("198.51.100.7");
    lab.moves(9_000_000, 1_999_999);
    assert!(!lab.client().blocked);
    lab.moves(0, 1);
    assert!(lab.client().blocked);
    assert_eq!(lab.kernel.state().disconnected.len(), 1);
    let applied = lab.kernel.state().applied.last().unwrap().clone();
    let blocked = applied
        .classes
        .iter()
        .any(|class| class.class.flags & CLASS_BLOCK != 0);
    assert!(blocked);
    // Gone from the kernel, and still listed.
    lab.kernel.state().sample.clients.clear();
    for _ in 0..5 {
        lab.now += 1;
        lab.core.tick(at(lab.now));
    }
    let row = lab.client();
    assert_eq!((row.client.as_str(), row.blocked), ("198.51.100.7", true));
    // Until an hour has passed; a rolling time forgets in its parts.
    lab.now += 3600 + 2 * 150;
    lab.core.tick(at(lab.now));
    assert_eq!(lab.core.quotas.over(), []);
}

#[test]
fn usage_outlives_a_restart_and_the_limit_holds_from_its_first_policy_on() {
    let mut lab = lab(NAME);
    lab.moves(700_000, 0);
    for _ in 0..6 {
        lab.moves(0, 0);
    }
    // In the maps only.
    {
        let mut state = lab.kernel.state();
        state.sample.clients[0].1.traffic[0].bytes += 200_000;
        state.applied.clear();
    }
    // The thread that writes ends with its store.
    lab.core.keep_quotas();
    let mut lab = lab.restart();
    assert_eq!(lab.client().quota.unwrap().used, 900_000);
    lab.moves(100_000, 0);
    assert_eq!(lab.upload(), Some(1_000_000));
    lab.core.keep_quotas();
    lab.kernel.state().applied.clear();
    let mut lab = lab.restart();
    assert_eq!(lab.kernel.state().applied.len(), 1, "held at once");
    assert_eq!(lab.upload(), Some(1_000_000));
    assert_eq!(lab.events(), [0_u8; 0], "said once");
    // A reboot: new maps, the same usage.
    lab.core.keep_quotas();
    lab.kernel.state().counters = (1, true);
    lab.kernel.state().sample.clients[0].1.traffic[0].bytes = 0;
    let mut lab = lab.restart();
    assert_eq!(lab.client().quota.unwrap().used, 1_000_000);
    assert_eq!(lab.upload(), Some(1_000_000));
}

#[test]
fn a_reload_changes_who_is_over() {
    let mut lab = lab(NAME);
    lab.moves(1_500_000, 0);
    assert_eq!(lab.upload(), Some(1_000_000));
    let path = lab.dir.path().join("policy.toml");
    fs::write(&path, POLICY.replace("\"1MB\"", "\"3MB\"")).unwrap();
    lab.done(Command::Reload);
    assert_eq!(lab.upload(), Some(80_000_000));
    fs::write(&path, POLICY.replace("\"1mbit\"", "\"2mbit\"")).unwrap();
    lab.done(Command::Reload);
    assert_eq!(lab.upload(), Some(2_000_000));
    fs::write(&path, "ports = [443]").unwrap();
    lab.done(Command::Reload);
    assert_eq!((lab.upload(), lab.client().quota), (None, None));
}

#[test]
fn a_store_that_cannot_be_written_is_said_and_not_fatal() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("policy.toml"), POLICY).unwrap();
    // In the place of the directory.
    fs::write(dir.path().join("state"), "").unwrap();
    let kernel = FakeKernel::new(vec![flow(NAME, 4001, TCP)], vec![client(NAME)]);
    let core = core(&dir, &kernel, 0);
    let mut lab = Lab {
        dir,
        kernel,
        core,
        now: 0,
    };
    lab.moves(1_500_000, 0);
    assert_eq!(lab.upload(), Some(1_000_000), "it holds all the same");
    let Answer::Status(status) = lab.handle(Command::Status) else {
        panic!()
    };
    assert_eq!(status.quotas.unwrap().state, "failing");
    let said = "will not outlive the daemon";
    assert!(
        status.warnings.iter().any(|warning| warning.contains(said)),
        "{:?}",
        status.warnings
    );
}
