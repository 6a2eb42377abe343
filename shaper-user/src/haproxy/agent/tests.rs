use super::*;
use crate::haproxy::Session;
use crate::testing::session;
use tokio::task::JoinHandle;
use tokio::time::sleep;

fn load(server: &str, connections: u64, rate: u64) -> Load {
    Load {
        backend: "be_ws".into(),
        server: server.into(),
        connections,
        rates: [rate, 0],
    }
}

fn loads() -> [Load; 2] {
    [load("srv1", 10, 80_000_000), load("srv2", 10, 20_000_000)]
}

struct Running {
    feed: Feed,
    agent: Agent,
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A port that was free just now.
async fn free() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

async fn start() -> Running {
    let (mut feed, agent) = agent();
    let address = free().await;
    feed.listen(Some(address));
    let task = tokio::spawn(agent.clone().run());
    let running = Running {
        feed,
        agent,
        address,
        task,
    };
    drop(connect(address).await);
    running
}

/// Waits until somebody listens.
async fn connect(address: SocketAddr) -> TcpStream {
    let connected = async {
        loop {
            match TcpStream::connect(address).await {
                Ok(stream) => return stream,
                Err(_) => sleep(Duration::from_millis(5)).await,
            }
        }
    };
    timeout(Duration::from_secs(20), connected).await.unwrap()
}

/// Everything that comes back.
async fn ask(address: SocketAddr, question: &[u8]) -> String {
    let mut stream = connect(address).await;
    stream.write_all(question).await.unwrap();
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    let read = timeout(Duration::from_secs(20), read).await.unwrap();
    // Of a question that was not read to its end the rest may be reset.
    read.map_or_else(|_| "\n".to_owned(), |_| answer)
}

#[tokio::test]
async fn haproxy_gets_the_percent_of_the_server_it_names() {
    let mut running = start().await;
    running.feed.update(&View::default(), &loads());
    let at = running.address;
    assert_eq!(ask(at, b"be_ws/srv1\n").await, "100%\n");
    assert_eq!(ask(at, b"be_ws/srv2\n").await, "340%\n");
    assert_eq!(ask(at, b"be_ws/srv2\r\n").await, "340%\n");
    assert_eq!(ask(at, b" be_ws/srv2 \nbe_ws/srv1\n").await, "340%\n");
    // Its newline was forgotten in haproxy.cfg.
    assert_eq!(ask(at, b"be_ws/srv2").await, "340%\n");
    assert_eq!(ask(at, b"be_ws/srv3\n").await, "\n");
    let (all, unknown) = running.agent.checks();
    // Those that only waited for somebody to listen may count as well.
    assert!(
        all >= 6 && unknown >= 1 && all - unknown == 5,
        "{all} {unknown}"
    );
}

#[tokio::test]
async fn what_it_does_not_know_is_answered_by_an_empty_line() {
    let mut running = start().await;
    let at = running.address;
    assert_eq!(ask(at, b"be_ws/srv1\n").await, "\n", "no data yet");
    running.feed.update(&View::default(), &loads());
    let long = [b"be_ws/srv1 ".as_slice(), &[b'x'; 2000]].concat();
    for question in [
        b"be_ws/srv3\n".as_slice(),
        b"srv1\n",
        b"/\n",
        b"\n",
        b"\xff\xfe\x00\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"",
        &long,
    ] {
        let shown = String::from_utf8_lossy(question).into_owned();
        assert_eq!(ask(at, question).await, "\n", "{shown}");
    }
    assert_eq!(ask(at, b"be_ws/srv1\n").await, "100%\n");
}

#[tokio::test]
async fn a_server_that_haproxy_is_silent_about_keeps_its_weight() {
    let mut running = start().await;
    let session = Session {
        stale: true,
        ..session(1, "srv2")
    };
    let client = "192.0.2.1:4000".parse().unwrap();
    let view = View {
        sessions: HashMap::from([(client, session)]),
        ..View::default()
    };
    running.feed.update(&view, &loads());
    assert_eq!(ask(running.address, b"be_ws/srv2\n").await, "\n");
    assert_eq!(ask(running.address, b"be_ws/srv1\n").await, "100%\n");
}

#[test]
fn old_weights_say_nothing() {
    let (mut feed, agent) = agent();
    feed.update(&View::default(), &loads());
    let mut table = agent.table.borrow().clone();
    assert_eq!(percent(&table, "be_ws/srv2"), "340%");
    table.at -= FRESH + Duration::from_secs(1);
    assert_eq!(percent(&table, "be_ws/srv2"), "");
}

#[tokio::test]
async fn more_checks_than_that_at_once_are_closed() {
    let mut running = start().await;
    running.feed.update(&View::default(), &loads());
    let mut held = Vec::new();
    for _ in 0..CHECKS {
        held.push(connect(running.address).await);
    }
    let mut one_more = connect(running.address).await;
    let mut answer = String::new();
    let read = timeout(TIME / 2, one_more.read_to_string(&mut answer)).await;
    assert!(read.is_ok() && answer.is_empty(), "{read:?} {answer}");
    // The silent ones are done with after a second.
    for mut stream in held {
        let mut answer = String::new();
        let read = stream.read_to_string(&mut answer);
        timeout(TIME * 10, read).await.unwrap().unwrap();
        assert_eq!(answer, "\n");
    }
    assert_eq!(ask(running.address, b"be_ws/srv2\n").await, "340%\n");
}

#[tokio::test]
async fn another_address_is_bound_anew() {
    let mut running = start().await;
    running.feed.update(&View::default(), &loads());
    let before = running.address;
    let after = free().await;
    running.feed.listen(Some(after));
    assert_eq!(ask(after, b"be_ws/srv2\n").await, "340%\n");
    assert!(TcpStream::connect(before).await.is_err());
    running.feed.listen(None);
    assert!(!running.feed.wanted());
    let closed = async {
        while TcpStream::connect(after).await.is_ok() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(20), closed).await.unwrap();
}

#[tokio::test]
async fn an_address_that_is_taken_is_a_warning_until_it_is_free_or_another() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let mut running = start().await;
    assert_eq!(running.agent.trouble(), None);
    running.feed.listen(Some(address));
    let warned = async {
        loop {
            if let Some(trouble) = running.agent.trouble() {
                return trouble;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    let trouble = timeout(Duration::from_secs(20), warned).await.unwrap();
    assert!(
        trouble.contains(&address.to_string()) && trouble.contains("[haproxy.agent]"),
        "{trouble}"
    );
    running.feed.listen(Some(running.address));
    drop(connect(running.address).await);
    assert_eq!(running.agent.trouble(), None);
}

#[tokio::test]
async fn it_ends_with_the_daemon() {
    let (mut feed, agent) = agent();
    feed.listen(Some(free().await));
    let task = tokio::spawn(agent.run());
    drop(feed);
    timeout(Duration::from_secs(20), task)
        .await
        .unwrap()
        .unwrap();
}
