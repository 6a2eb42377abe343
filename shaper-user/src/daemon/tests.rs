use super::lab::options;
use super::*;
use crate::control::client::Client;
use crate::haproxy::fake;
use crate::protocol::EventsQuery;
use crate::testing::{FakeKernel, client, flow};
use nix::sys::signal::{Signal, raise};
use shaper_common::key::TCP;

/// The whole daemon, over its socket and signals. One test, because signals are
/// the process's.
#[tokio::test(flavor = "multi_thread")]
async fn it_serves_reloads_on_sighup_and_stops_on_sigterm() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shaper.sock");
    let file = dir.path().join("policy.toml");
    std::fs::write(&file, "ports = [443]").unwrap();
    let options = options(&dir);
    let (policy, _) = options.load().unwrap();
    let socket = Socket::bind(&path).unwrap();
    let kernel = FakeKernel::new(
        vec![flow("192.0.2.1", 4000, TCP)],
        vec![client("192.0.2.1")],
    );
    let daemon = tokio::spawn({
        let kernel = kernel.clone();
        async move {
            let on_exit = run(kernel, &socket, policy, options).await;
            drop(socket);
            on_exit
        }
    });
    // Connecting works from the bind on; the answer comes when limits hold.
    let mut control = Client::connect(&path).await.unwrap();
    let status = control.status().await.unwrap();
    assert_eq!((status.flows, status.pid), (1, std::process::id()));

    // Something changes in the kernel: followed before the next sample is due.
    for round in 1..=2 {
        std::io::Write::write_all(&mut kernel.state().changes.as_ref().unwrap(), b"!").unwrap();
        let followed = async {
            while kernel.state().followed < round {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), followed)
            .await
            .unwrap();
    }

    // Those who follow events read them as they come, on a connection of their own.
    let mut follower = Client::connect(&path).await.unwrap();
    let query = |follow| EventsQuery {
        follow,
        filter: "event:daemon_started,policy_changed".to_owned(),
        ..EventsQuery::default()
    };
    assert_eq!(follower.events(query(true)).await.unwrap().events, []);

    std::fs::write(&file, "ports = [8443]\non_exit = \"detach\"").unwrap();
    raise(Signal::SIGHUP).unwrap();
    let next = tokio::time::timeout(Duration::from_secs(10), follower.next::<Batch>());
    let followed = next.await.unwrap().unwrap();
    let names = |batch: &Batch| -> Vec<_> {
        let events = batch.events.iter();
        events.map(|record| record.event.name()).collect()
    };
    assert_eq!(names(&followed), ["policy_changed"]);
    let kept = control.events(query(false)).await.unwrap();
    assert_eq!(names(&kept), ["daemon_started", "policy_changed"]);
    assert_eq!(kept.events[1], followed.events[0]);
    let reloaded = async {
        while control.status().await.unwrap().ports != [8443] {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), reloaded)
        .await
        .unwrap();
    assert_eq!(kernel.state().applied.len(), 2);

    raise(Signal::SIGTERM).unwrap();
    assert_eq!(daemon.await.unwrap().unwrap(), OnExit::Detach);
    assert!(!path.exists());
}

/// A stats socket that has a session of that client, on port 4000.
fn haproxy(path: &std::path::Path, client: &str) -> fake::Server {
    let session = format!("0x7: proto=tcpv4 src={client}:4000 fe=f be=b srv=s1 ts=00\n\n");
    fake::Server::at(path, move |command| {
        fake::Answer::Text(if command.contains("show info") {
            format!("operator\n\nVersion: 3.0\nPid: 9\n\n{session}")
        } else {
            "Unknown command\n\n".to_owned()
        })
    })
}

/// The thread and the tasks that ask HAProxy, without signals and the control
/// socket.
#[tokio::test(flavor = "multi_thread")]
async fn flows_are_joined_with_haproxy_and_a_reload_changes_its_sockets() {
    let dir = tempfile::tempdir().unwrap();
    let [file, socket, other] =
        ["policy.toml", "haproxy.sock", "other.sock"].map(|name| dir.path().join(name));
    let policy = |path: &std::path::Path, poll: &str| {
        let text = format!("[haproxy]\nsockets = [{path:?}]\npoll = {poll:?}");
        std::fs::write(&file, text).unwrap();
    };
    policy(&socket, "1s");
    let options = options(&dir);
    // Opened at boot: the answers are of the real clock, whatever that says.
    let opened = ["192.0.2.1", "192.0.2.2"].map(|ip| {
        let (key, mut flow) = flow(ip, 4000, TCP);
        flow.created = 0;
        (key, flow)
    });
    let clients = vec![client("192.0.2.1"), client("192.0.2.2")];
    let kernel = FakeKernel::new(opened.to_vec(), clients);
    let first = haproxy(&socket, "192.0.2.1");
    let (loaded, _) = options.load().unwrap();
    let (messages, inbox) = mpsc::channel();
    let (feed, agent) = agent::agent();
    let (policies, changes) = watch::channel(loaded.haproxy.clone());
    let join = Join {
        policy: policies,
        views: poll::start(changes),
    };
    let core = Core::start(kernel, loaded, options, feed, Timestamp::now()).unwrap();
    let bus = core.bus.clone();
    let thread = std::thread::spawn(move || turn(core, &inbox, join));
    let handle = Handle {
        history: history::start().unwrap().1,
        messages,
        actions: Arc::default(),
        agent,
        bus,
        exporter: Exporter::new(watch::channel(None).1),
    };
    let joined = async |client: &str| {
        let peer = Peer {
            uid: 0,
            pid: Some(1),
        };
        loop {
            let asked = handle.handle(Command::Flows(crate::protocol::Query::default()), peer);
            let Ok(Answer::Flows(flows)) = asked.await else {
                panic!("no flows");
            };
            let of: Vec<_> = flows
                .flows
                .iter()
                .filter(|flow| flow.haproxy.is_some())
                .collect();
            if let [flow] = of[..]
                && flow.client.to_string() == client
            {
                return flow.haproxy.clone().unwrap();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let within = Duration::from_secs(10);
    let found = tokio::time::timeout(within, joined("192.0.2.1"))
        .await
        .unwrap();
    assert_eq!((found.server.as_str(), found.worker_pid), ("s1", 9));

    let second = haproxy(&other, "192.0.2.2");
    policy(&other, "2s");
    handle.messages.send(Message::Reload).unwrap();
    tokio::time::timeout(within, joined("192.0.2.2"))
        .await
        .unwrap();
    drop(second);
    let failing = async {
        let peer = Peer {
            uid: 0,
            pid: Some(1),
        };
        loop {
            let Ok(Answer::Status(status)) = handle.handle(Command::Status, peer).await else {
                panic!("no status");
            };
            assert_eq!(status.haproxy[0].path, other.display().to_string());
            if let Some(error) = &status.haproxy[0].error {
                assert!(status.warnings.contains(error));
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(within, failing).await.unwrap();
    handle.messages.send(Message::Stop).unwrap();
    assert_eq!(thread.join().unwrap(), OnExit::Keep);
    drop(first);
}

#[tokio::test]
async fn a_policy_that_the_kernel_refuses_ends_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        policy: PolicyFile {
            path: dir.path().join("none.toml"),
            required: false,
        },
        interfaces: Vec::new(),
        observe: true,
        socket: dir.path().join("shaper.sock"),
        state: dir.path().join("state"),
    };
    let socket = Socket::bind(&options.socket).unwrap();
    let kernel = FakeKernel::default();
    kernel.state().refuse_apply = Some("no BTF".to_owned());
    let (policy, _) = options.load().unwrap();
    let error = run(kernel, &socket, policy, options).await.unwrap_err();
    assert_eq!(
        format!("{error:#}"),
        "cannot put the policy in force: no BTF"
    );
}
