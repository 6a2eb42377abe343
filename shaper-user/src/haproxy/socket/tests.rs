use super::*;
use crate::haproxy::fake::{Answer, Server};
use tokio::time::{sleep, timeout};

const POLL: Duration = Duration::from_secs(5);
const SESSION: &str = "proto=tcpv4 src=192.0.2.1:4000 fe=f be=b srv=s1 ts=00\n\n";

/// A stats socket's answer, as process `pid`.
fn stats(pid: u32) -> String {
    format!("admin\n\nName: HAProxy\nVersion: 3.0\nPid: {pid}\n\n0x7f: {SESSION}")
}

/// What a stats socket of process 7 says, but to `show sess` as told.
fn haproxy(sess: impl Fn() -> Answer + Send + Sync + 'static) -> Server {
    Server::start(move |command| answer(command, &sess))
}

fn answer(command: &str, sess: &impl Fn() -> Answer) -> Answer {
    match command {
        "show cli level;show info;show sess" => sess(),
        _ => Answer::Text("admin\n\nUnknown command: 'show'\n\n".to_owned()),
    }
}

/// The far end of the task for a socket.
struct Far {
    poll: watch::Sender<Duration>,
    reports: mpsc::Receiver<(Arc<Path>, Known)>,
    task: tokio::task::JoinHandle<()>,
}

impl Far {
    fn watch(path: &Path) -> Self {
        let (poll, polls) = watch::channel(POLL);
        let (sender, reports) = mpsc::channel(1);
        let task = tokio::spawn(watch(Arc::from(path), polls, sender));
        Self {
            poll,
            reports,
            task,
        }
    }

    async fn next(&mut self) -> Known {
        let report = timeout(Duration::from_secs(7200), self.reports.recv());
        report.await.unwrap().unwrap().1
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Seconds between the questions of `command`, rounded.
fn spacing(server: &Server, command: &str) -> Vec<u64> {
    let asked: Vec<_> = server
        .asked()
        .into_iter()
        .filter(|asked| asked.command == command)
        .collect();
    asked
        .windows(2)
        .map(|pair| (pair[1].at - pair[0].at).as_secs_f64().round() as u64)
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_stats_socket_is_told_from_a_master_and_asked_every_poll() {
    let server = haproxy(|| Answer::Text(stats(7)));
    let mut far = Far::watch(server.path());
    for _ in 0..3 {
        let known = far.next().await;
        let socket = &known.socket;
        assert_eq!(socket.kind.as_deref(), Some("stats"));
        assert_eq!(socket.version.as_deref(), Some("3.0"));
        assert_eq!(socket.level.as_deref(), Some("admin"));
        assert_eq!((socket.sessions, socket.workers), (1, 1));
        assert_eq!((&socket.error, socket.poll_ms), (&None, 5000));
        let (client, session) = &known.workers[0].sessions[0];
        assert_eq!(client.to_string(), "192.0.2.1:4000");
        assert_eq!((session.id, session.worker_pid), (0x7f, 7));
        assert!(!session.through_master && &*session.socket == server.path());
    }
    let sess = "show cli level;show info;show sess";
    assert_eq!(
        server.commands(),
        ["show cli level;show proc", sess, sess, sess]
    );
    assert_eq!(spacing(&server, sess), [5, 5]);
}

#[tokio::test(start_paused = true)]
async fn haproxy_spends_a_hundredth_of_its_time_and_one_question_is_open() {
    let late = Duration::from_millis(400);
    let server = haproxy(move || Answer::Late(stats(7), late));
    let mut far = Far::watch(server.path());
    for _ in 0..4 {
        let known = far.next().await;
        assert_eq!(known.socket.poll_ms / 1000, 40);
        assert_eq!(known.socket.cost_ms.unwrap().round(), 400.0);
        // A shorter poll does not hurry a slow one.
        far.poll.send_replace(Duration::from_secs(1));
        far.next().await;
    }
    let sess = "show cli level;show info;show sess";
    assert_eq!(spacing(&server, sess), [40, 40, 40]);
    assert_eq!(server.most_at_once(), 1);
}

#[tokio::test(start_paused = true)]
async fn one_slow_answer_is_a_stall_and_two_are_not() {
    let asked = std::sync::atomic::AtomicU32::new(0);
    let server = haproxy(move || {
        let which = asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let late = if matches!(which, 1 | 3 | 4) { 400 } else { 0 };
        Answer::Late(stats(7), Duration::from_millis(late))
    });
    let mut far = Far::watch(server.path());
    for _ in 0..7 {
        far.next().await;
    }
    let sess = "show cli level;show info;show sess";
    assert_eq!(spacing(&server, sess), [5, 5, 5, 5, 40, 5]);
}

#[tokio::test(start_paused = true)]
async fn a_changed_poll_counts_from_the_last_question() {
    let server = haproxy(|| Answer::Text(stats(7)));
    let mut far = Far::watch(server.path());
    far.next().await;
    sleep(Duration::from_secs(3)).await;
    far.poll.send_replace(Duration::from_secs(1));
    assert_eq!(far.next().await.socket.poll_ms, 1000);
    far.next().await;
    far.poll.send_replace(Duration::from_secs(60));
    assert_eq!(far.next().await.socket.poll_ms, 60_000);
    far.next().await;
    let sess = "show cli level;show info;show sess";
    assert_eq!(spacing(&server, sess), [3, 60]);
}

#[tokio::test(start_paused = true)]
async fn a_silent_haproxy_is_tried_less_and_less_and_its_sessions_go_stale_then_away() {
    let server = haproxy(|| Answer::Text(stats(7)));
    let mut far = Far::watch(server.path());
    far.next().await;
    server.answer("");
    let mut waits = Vec::new();
    let gone = loop {
        let known = far.next().await;
        assert!(known.socket.error.unwrap().contains("cut off"));
        assert_eq!((known.socket.sessions, known.socket.workers), (1, 1));
        waits.push(known.socket.poll_ms / 1000);
        match known.workers.first() {
            Some(worker) => assert!(worker.stale),
            None => break known.answered.unwrap(),
        }
    };
    let silent = Instant::now().into_std() - gone;
    assert_eq!(waits[..8], [1, 2, 4, 8, 16, 32, 60, 60]);
    assert!((FORGET..FORGET + RETRY[1]).contains(&silent), "{silent:?}");
    server.answer_as_before();
    let known = far.next().await;
    assert_eq!((known.socket.error, known.socket.poll_ms), (None, 5000));
    assert!(!known.workers[0].stale);
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_is_told_and_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("haproxy.sock");
    let mut far = Far::watch(&path);
    let mut error = async || far.next().await.socket.error.unwrap_or_default();
    assert!(error().await.contains("does not exist"));
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(error().await.contains("refused"));
    let server = Server::at(&path, |_| Answer::Never);
    assert!(error().await.contains("has not answered within 5s"));
    drop(server);
    for garbage in ["\n", "\0\u{fffd}\n\n", "admin\n\n1 worker\n\n"] {
        let server = Server::at(&path, |_| Answer::Never);
        server.answer(garbage);
        assert!(error().await.contains("does not answer as"), "{garbage:?}");
        drop(server);
    }
    let server = Server::at(&path, |command| {
        answer(command, &|| {
            Answer::Text("user\n\nName: HAProxy\n\nPermission denied\n\n".to_owned())
        })
    });
    let known = far.next().await;
    assert_eq!(known.socket.level.as_deref(), Some("user"));
    let error = known.socket.error.unwrap();
    assert!(error.contains("level operator`"), "{error}");
    drop(server);
    // Another process, the socket as before.
    for pid in [7, 8] {
        let server = Server::at(&path, move |command| {
            answer(command, &move || Answer::Text(stats(pid)))
        });
        let known = loop {
            let known = far.next().await;
            if known.socket.error.is_none() {
                break known;
            }
        };
        let pids: Vec<_> = known.workers.iter().map(|worker| worker.pid).collect();
        assert_eq!(pids, [pid]);
        drop(server);
    }
}

const PROCESSES: &str = "#<PID> <type> <reloads> <uptime> <version>\n1 master 1 0d 3.0\n\
    # workers\n20 worker 0 0d 3.0\n# old workers\n10 worker 1 0d 3.0\n9 worker 1 0d 3.0\n\n";

#[tokio::test(start_paused = true)]
async fn a_master_is_asked_for_each_worker_the_old_ones_too() {
    let server = Server::start(|command| match command {
        "show cli level;show proc" => Answer::Text(format!("operator\n\n{PROCESSES}")),
        "@!20 show sess" => Answer::Text(format!("0x1: {SESSION}")),
        "@!10 show sess" => Answer::Late(format!("0x2: {SESSION}"), Duration::from_millis(30)),
        "@!9 show sess" => Answer::Text("Can't find the target PID\n".to_owned()),
        _ => Answer::Never,
    });
    let mut far = Far::watch(server.path());
    let known = far.next().await;
    let socket = &known.socket;
    assert_eq!(socket.kind.as_deref(), Some("master"));
    assert_eq!(socket.level.as_deref(), Some("operator"));
    assert_eq!(
        (&socket.error, socket.sessions, socket.workers),
        (&None, 2, 2)
    );
    let of: Vec<_> = known
        .workers
        .iter()
        .map(|worker| &worker.sessions[0].1)
        .collect();
    let of: Vec<_> = of
        .iter()
        .map(|session| (session.worker_pid, session.id))
        .collect();
    assert_eq!(of, [(20, 1), (10, 2)]);
    assert!(known.workers[0].sessions[0].1.through_master);
    assert_eq!(server.most_at_once(), 1);

    // One of them hangs: the other's sessions are fresh, its own go stale.
    server.silence("@!10 show sess");
    let known = far.next().await;
    let error = known.socket.error.unwrap();
    assert!(error.starts_with("worker 10: "), "{error}");
    assert_eq!((known.socket.sessions, known.socket.workers), (1, 1));
    let stale: Vec<_> = known.workers.iter().map(|worker| worker.stale).collect();
    assert_eq!(stale, [false, true]);
    // Waiting for it is no work of HAProxy's, but it is left alone too.
    assert_eq!(known.socket.poll_ms, 5000);
    for _ in 0..2 {
        far.next().await;
    }
    assert_eq!(spacing(&server, "@!10 show sess"), [5, 10, 10]);
}

#[tokio::test(start_paused = true)]
async fn a_socket_may_become_one_of_the_other_kind() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("haproxy.sock");
    let stats = |command: &str| answer(command, &|| Answer::Text(stats(7)));
    let master = |command: &str| {
        Answer::Text(match command {
            "show cli level;show proc" => format!("admin\n\n{PROCESSES}"),
            _ if command.starts_with('@') => format!("0x1: {SESSION}"),
            _ => "Unknown command: 'show'\n\n".to_owned(),
        })
    };
    let mut far = Far::watch(&path);
    let mut kind = async |expected: &str| {
        for _ in 0..10 {
            if far.next().await.socket.kind.as_deref() == Some(expected) {
                return;
            }
        }
        panic!("never a {expected} socket");
    };
    for _ in 0..2 {
        let server = Server::at(&path, stats);
        kind("stats").await;
        drop(server);
        let server = Server::at(&path, master);
        kind("master").await;
        drop(server);
    }
}

#[tokio::test(start_paused = true)]
async fn the_task_ends_with_its_receiver() {
    let server = haproxy(|| Answer::Text(stats(7)));
    let (poll, polls) = watch::channel(POLL);
    let (sender, reports) = mpsc::channel(1);
    let task = tokio::spawn(watch(Arc::from(server.path()), polls, sender));
    drop(reports);
    timeout(Duration::from_secs(60), task)
        .await
        .unwrap()
        .unwrap();
    drop(poll);
}
