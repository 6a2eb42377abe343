use super::*;
use crate::control::client::{Client, ClientError};
use crate::control::socket::Socket;
use crate::events::Event;
use crate::events::bus::Bus;
use crate::events::filter::EventFilter;
use crate::protocol::{EventsQuery, Response};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};

/// Answers every command with its name and who asked.
struct Echo;

impl Handler for Echo {
    async fn handle(&self, command: Command, peer: Peer) -> Result<Answer, ErrorBody> {
        if command.changes() && peer.uid != 0 {
            return Err(ErrorBody::new(ErrorCode::Denied, "not for you"));
        }
        Ok(Answer::Done(Done {
            message: format!("{command:?} by {}", peer.uid),
        }))
    }
}

struct Server {
    _dir: TempDir,
    _socket: Socket,
    path: PathBuf,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<io::Result<()>>,
}

fn server(limits: Limits, uid: u32) -> Server {
    server_for(limits, move || uid)
}

/// Each connection is of the user that `uid` then names.
fn server_for(limits: Limits, uid: impl Fn() -> u32 + Send + 'static) -> Server {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shaper.sock");
    let socket = Socket::bind(&path).unwrap();
    let listener = UnixListener::from_std(socket.listener().unwrap()).unwrap();
    let (stop, stopped) = watch::channel(false);
    let peer = move |_: &UnixStream| {
        Ok(Peer {
            uid: uid(),
            pid: Some(1),
        })
    };
    let task = tokio::spawn(serve(listener, Arc::new(Echo), limits, peer, stopped));
    Server {
        _dir: dir,
        _socket: socket,
        path,
        stop,
        task,
    }
}

struct Raw(BufReader<UnixStream>);

impl Raw {
    async fn connect(server: &Server) -> Self {
        Self(BufReader::new(
            UnixStream::connect(&server.path).await.unwrap(),
        ))
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).await.unwrap();
    }

    /// The next answer; `None` when the server closed.
    async fn answer(&mut self) -> Option<Response> {
        let mut line = String::new();
        let read = self.0.read_line(&mut line);
        match timeout(Duration::from_secs(20), read).await.unwrap() {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(serde_json::from_str(&line).unwrap()),
        }
    }

    async fn error(&mut self) -> ErrorBody {
        self.answer().await.unwrap().error.unwrap()
    }
}

const STATUS: &[u8] = b"{\"v\":1,\"command\":\"status\"}\n";

#[tokio::test]
async fn requests_are_answered_in_turn_also_in_one_write_or_in_bits() {
    let server = server(Limits::default(), 1000);
    let mut raw = Raw::connect(&server).await;
    raw.send(&STATUS.repeat(3)).await;
    for _ in 0..3 {
        assert!(raw.answer().await.unwrap().result.is_some());
    }
    for byte in STATUS {
        raw.send(&[*byte]).await;
    }
    let answer = raw.answer().await.unwrap();
    assert_eq!(answer.v, VERSION);
    assert_eq!(answer.result.unwrap()["message"], "Status by 1000");
}

#[tokio::test]
async fn bad_lines_are_answered_and_the_connection_lives() {
    let server = server(Limits::default(), 0);
    let mut raw = Raw::connect(&server).await;
    for (line, code) in [
        (&b"\n"[..], ErrorCode::BadRequest),
        (b"\xff\xfe\n", ErrorCode::BadRequest),
        (b"{\"v\":1,\"command\":\"halt\"}\n", ErrorCode::BadRequest),
        (b"{\"v\":9,\"command\":\"status\"}\n", ErrorCode::Version),
    ] {
        raw.send(line).await;
        assert_eq!(raw.error().await.code, code);
    }
    raw.send(STATUS).await;
    assert!(raw.answer().await.unwrap().result.is_some());
}

#[tokio::test]
async fn a_line_without_an_end_is_refused() {
    let server = server(Limits::default(), 0);
    let mut raw = Raw::connect(&server).await;
    raw.send(STATUS.strip_suffix(b"\n").unwrap()).await;
    raw.0.get_mut().shutdown().await.unwrap();
    assert_eq!(raw.error().await.message, "a request ends with a newline");
    assert!(raw.answer().await.is_none());
}

#[tokio::test]
async fn a_line_of_just_the_limit_passes_and_one_byte_more_does_not() {
    let limits = Limits {
        request_bytes: 100,
        ..Limits::default()
    };
    let server = server(limits, 0);
    let line = |length: usize| {
        let mut line = STATUS.strip_suffix(b"\n").unwrap().to_vec();
        line.resize(length, b' ');
        line.push(b'\n');
        line
    };
    let mut raw = Raw::connect(&server).await;
    raw.send(&line(100)).await;
    assert!(raw.answer().await.unwrap().result.is_some());
    raw.send(&line(101)).await;
    assert_eq!(raw.error().await.code, ErrorCode::TooMuch);
    assert!(raw.answer().await.is_none());
}

#[tokio::test]
async fn an_endless_line_is_cut_off() {
    let server = server(Limits::default(), 0);
    let raw = Raw::connect(&server).await;
    let (mut read, mut write) = raw.0.into_inner().into_split();
    let writer = tokio::spawn(async move { while write.write_all(&[b'x'; 4096]).await.is_ok() {} });
    let mut answer = Vec::new();
    // The rest of what the peer sent makes the close a reset.
    let _ = read.read_to_end(&mut answer).await;
    let answer: Response = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answer.error.unwrap().code, ErrorCode::TooMuch);
    writer.await.unwrap();
}

#[tokio::test]
async fn a_slow_sender_is_told_and_an_idle_one_is_closed() {
    let limits = Limits {
        request_time: Duration::from_millis(50),
        idle_time: Duration::from_millis(50),
        ..Limits::default()
    };
    let server = server(limits, 0);
    let mut slow = Raw::connect(&server).await;
    slow.send(b"{\"v\"").await;
    assert_eq!(slow.error().await.code, ErrorCode::TooMuch);
    assert!(slow.answer().await.is_none());
    let mut idle = Raw::connect(&server).await;
    assert!(idle.answer().await.is_none());
}

#[tokio::test]
async fn one_connection_too_many_is_refused_and_its_place_comes_back() {
    let limits = Limits {
        connections: 2,
        ..Limits::default()
    };
    let server = server(limits, 1000);
    let mut kept = Vec::new();
    for _ in 0..2 {
        let mut raw = Raw::connect(&server).await;
        raw.send(STATUS).await;
        assert!(raw.answer().await.unwrap().result.is_some());
        kept.push(raw);
    }
    let mut client = Client::connect(&server.path).await.unwrap();
    match client.status().await.unwrap_err() {
        ClientError::Refused(error) => assert_eq!(error.code, ErrorCode::TooMuch),
        other => panic!("{other}"),
    }
    kept.pop();
    loop {
        let mut raw = Raw::connect(&server).await;
        let _ = raw.0.get_mut().write_all(STATUS).await;
        if raw
            .answer()
            .await
            .is_some_and(|answer| answer.result.is_some())
        {
            break;
        }
    }
}

#[tokio::test]
async fn root_has_places_of_its_own() {
    let limits = Limits {
        connections: 0,
        reserved: 1,
        ..Limits::default()
    };
    let root = server(limits, 0);
    let mut client = Client::connect(&root.path).await.unwrap();
    let done: Done = client.request(Command::Reload).await.unwrap();
    assert_eq!(done.message, "Reload by 0");
    let mut second = Client::connect(&root.path).await.unwrap();
    assert!(second.status().await.is_err());
    let user = server(limits, 1000);
    let mut client = Client::connect(&user.path).await.unwrap();
    assert!(client.status().await.is_err());
}

#[tokio::test]
async fn one_user_leaves_places_for_others() {
    let next = Arc::new(AtomicU32::new(1000));
    let uid = Arc::clone(&next);
    let server = server_for(Limits::default(), move || uid.load(Ordering::Relaxed));
    let mut kept = Vec::new();
    for _ in 0..Limits::default().per_user {
        let mut raw = Raw::connect(&server).await;
        raw.send(STATUS).await;
        assert!(raw.answer().await.unwrap().result.is_some());
        kept.push(raw);
    }
    let error = Raw::connect(&server).await.error().await;
    assert_eq!(error.code, ErrorCode::TooMuch);
    assert_eq!(error.message, "user 1000 has 8 connections already");
    next.store(1001, Ordering::Relaxed);
    let mut other = Raw::connect(&server).await;
    other.send(STATUS).await;
    assert!(other.answer().await.unwrap().result.is_some());
}

/// Never answers a `status`, and says how many it was asked for.
struct Stuck(Arc<AtomicUsize>);

impl Handler for Stuck {
    async fn handle(&self, command: Command, _: Peer) -> Result<Answer, ErrorBody> {
        if command == Command::Status {
            self.0.fetch_add(1, Ordering::SeqCst);
            std::future::pending::<()>().await;
        }
        let message = "done".to_owned();
        Ok(Answer::Done(Done { message }))
    }
}

#[tokio::test]
async fn one_request_of_a_user_is_worked_on_at_a_time_and_root_waits_for_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shaper.sock");
    let socket = Socket::bind(&path).unwrap();
    let listener = UnixListener::from_std(socket.listener().unwrap()).unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let next = Arc::new(AtomicU32::new(1000));
    let accepted = Arc::new(AtomicUsize::new(0));
    let (uid, count) = (Arc::clone(&next), Arc::clone(&accepted));
    let peer = move |_: &UnixStream| {
        count.fetch_add(1, Ordering::SeqCst);
        let uid = uid.load(Ordering::SeqCst);
        Ok(Peer { uid, pid: None })
    };
    let (_stop, stopped) = watch::channel(false);
    let handler = Arc::new(Stuck(Arc::clone(&asked)));
    tokio::spawn(serve(listener, handler, Limits::default(), peer, stopped));
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        stream.write_all(STATUS).await.unwrap();
        waiting.push(stream);
    }
    reaches(&accepted, 3).await;
    reaches(&asked, 1).await;
    let done = async |uid: u32| {
        next.store(uid, Ordering::SeqCst);
        let mut client = Client::connect(&path).await.unwrap();
        client.request::<Done>(Command::Reload).await.unwrap();
    };
    done(1001).await;
    done(0).await;
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    for _ in 0..3 {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        stream.write_all(STATUS).await.unwrap();
        waiting.push(stream);
    }
    done(0).await;
    reaches(&asked, 4).await;
}

async fn reaches(count: &AtomicUsize, least: usize) {
    let reached = async {
        while count.load(Ordering::SeqCst) < least {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(20), reached).await.unwrap();
}

#[tokio::test]
async fn only_some_may_change() {
    let server = server(Limits::default(), 1000);
    let mut client = Client::connect(&server.path).await.unwrap();
    match client.change(Command::Reload).await.unwrap_err() {
        ClientError::Refused(error) => assert_eq!(error.code, ErrorCode::Denied),
        other => panic!("{other}"),
    }
    let pid = i32::try_from(std::process::id()).unwrap();
    assert_eq!(client.pid().unwrap(), Some(pid));
    let done: Done = client.request(Command::Status).await.unwrap();
    assert_eq!(done.message, "Status by 1000");
}

#[tokio::test]
async fn stopping_closes_connections() {
    let server = server(Limits::default(), 0);
    let mut raw = Raw::connect(&server).await;
    raw.send(STATUS).await;
    assert!(raw.answer().await.is_some());
    server.stop.send(true).unwrap();
    server.task.await.unwrap().unwrap();
    assert!(raw.answer().await.is_none());
}

#[tokio::test]
async fn a_client_says_what_is_wrong_with_the_socket() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("none.sock");
    let error = Client::connect(&path).await.unwrap_err();
    assert!(matches!(error, ClientError::NotRunning(_)));
    assert!(error.to_string().contains("shaper run"), "{error}");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let error = Client::connect(&path).await.unwrap_err();
    assert!(matches!(error, ClientError::NotRunning(_)));
}

/// Lets everybody follow.
struct Teller(Bus);

impl Handler for Teller {
    async fn handle(&self, command: Command, _: Peer) -> Result<Answer, ErrorBody> {
        Ok(match command {
            Command::Events(query) => {
                Answer::Follow(self.0.follow(EventFilter::default(), query.last))
            }
            _ => Answer::Done(Done {
                message: "done".to_owned(),
            }),
        })
    }
}

struct Tellers {
    _dir: TempDir,
    _socket: Socket,
    _stop: watch::Sender<bool>,
    path: PathBuf,
    bus: Bus,
    uid: Arc<AtomicU32>,
}

fn tellers(limits: Limits) -> Tellers {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shaper.sock");
    let socket = Socket::bind(&path).unwrap();
    let listener = UnixListener::from_std(socket.listener().unwrap()).unwrap();
    let (bus, uid) = (Bus::keeping(100), Arc::new(AtomicU32::new(1000)));
    let next = Arc::clone(&uid);
    let peer = move |_: &UnixStream| {
        Ok(Peer {
            uid: next.load(Ordering::SeqCst),
            pid: None,
        })
    };
    let (stop, stopped) = watch::channel(false);
    let handler = Arc::new(Teller(bus.clone()));
    tokio::spawn(serve(listener, handler, limits, peer, stopped));
    Tellers {
        _dir: dir,
        _socket: socket,
        _stop: stop,
        path,
        bus,
        uid,
    }
}

impl Tellers {
    async fn follow(&self, uid: u32) -> Result<Client, ClientError> {
        self.uid.store(uid, Ordering::SeqCst);
        let mut client = Client::connect(&self.path).await?;
        let query = EventsQuery {
            follow: true,
            ..EventsQuery::default()
        };
        client.events(query).await.map(|_| client)
    }

    fn tell(&self, interface: &str) {
        let interface = interface.to_owned();
        let event = Event::InterfaceGone { interface };
        self.bus.record(event, jiff::Timestamp::UNIX_EPOCH);
    }
}

async fn batch(client: &mut Client) -> Batch {
    let next = timeout(Duration::from_secs(20), client.next());
    next.await.unwrap().unwrap()
}

#[tokio::test]
async fn followers_are_few_and_take_no_place_from_others() {
    let limits = Limits {
        connections: 2,
        reserved: 1,
        followers: 3,
        followers_per_user: 2,
        ..Limits::default()
    };
    let tellers = tellers(limits);
    let mut kept = Vec::new();
    for uid in [1000, 1000, 1001] {
        kept.push(tellers.follow(uid).await.unwrap());
    }
    let refused = async |uid| match tellers.follow(uid).await.unwrap_err() {
        ClientError::Refused(error) => {
            assert_eq!(error.code, ErrorCode::TooMuch);
            error.message
        }
        other => panic!("{other}"),
    };
    assert_eq!(
        refused(1000).await,
        "user 1000 follows the events 2 times already"
    );
    assert_eq!(
        refused(1002).await,
        "3 connections follow the events already"
    );
    // Root has one more, and then none.
    kept.push(tellers.follow(0).await.unwrap());
    refused(0).await;
    // All that, and whoever asks has both places of those who ask.
    tellers.uid.store(1003, Ordering::SeqCst);
    for _ in 0..2 {
        let mut client = Client::connect(&tellers.path).await.unwrap();
        client.request::<Done>(Command::Status).await.unwrap();
        kept.push(client);
    }
    tellers.tell("eth0");
    for follower in &mut kept[..4] {
        assert_eq!(batch(follower).await.events.len(), 1);
    }
    // A place comes back. One has to ask before it follows.
    kept.truncate(4);
    drop(kept.remove(0));
    let again = async {
        while tellers.follow(1001).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(20), again).await.unwrap();
}

#[tokio::test]
async fn a_follower_that_does_not_read_delays_nobody_and_learns_what_it_missed() {
    let tellers = tellers(Limits::default());
    let mut slow = tellers.follow(1000).await.unwrap();
    let mut quick = tellers.follow(1000).await.unwrap();
    // Many times what a socket holds, and more than is remembered.
    let long = "x".repeat(500);
    let count = 10_000;
    let mut read = 0;
    for n in 1..=count {
        tellers.tell(&format!("{n}{long}"));
        if n % 50 == 0 {
            while read < n {
                let batch = batch(&mut quick).await;
                assert_eq!(batch.missed, 0);
                read += batch.events.len();
            }
        }
    }
    let (mut missed, mut got, mut last) = (0, 0, 0);
    while last < count as u64 {
        let batch = batch(&mut slow).await;
        missed += batch.missed;
        got += batch.events.len() as u64;
        last = batch.events.last().unwrap().seq;
    }
    assert!(missed > 0);
    assert_eq!(missed + got, count as u64);
}

#[tokio::test]
async fn a_follower_that_never_reads_is_closed_and_one_that_asks_more_is_told() {
    let tellers = tellers(Limits {
        follow_time: Duration::from_millis(50),
        followers_per_user: 1,
        ..Limits::default()
    });
    let _stuck = tellers.follow(1000).await.unwrap();
    let long = "x".repeat(500);
    let closed = async {
        loop {
            tellers.tell(&long);
            if let Ok(mut client) = tellers.follow(1000).await {
                break client.request::<Done>(Command::Status).await;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let asked = timeout(Duration::from_secs(60), closed).await.unwrap();
    // What was told in between may come first.
    assert!(asked.is_err(), "{asked:?}");
}
