//! The metrics listener of a whole daemon, over a kernel that is none: read as
//! Prometheus does, moved, abused, and with many clients.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    reason = "so a test fails"
)]

use shaper_user::control::client::Client;
use shaper_user::control::socket::Socket;
use shaper_user::daemon::{self, Options, PolicyFile};
use shaper_user::protocol::Command;
use shaper_user::testing::{FakeKernel, client};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

const LONG: Duration = Duration::from_secs(60);

/// A port of the loopback that is free just now.
fn free() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

struct Lab {
    dir: TempDir,
    kernel: FakeKernel,
    daemon: JoinHandle<()>,
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.daemon.abort();
    }
}

impl Lab {
    /// A daemon with so many clients, that has a policy with these lines.
    async fn start(clients: u32, policy: &str) -> Self {
        let clients = (0..clients).map(|n| {
            let ip = std::net::Ipv4Addr::from(0x0a00_0000 + n);
            let (key, mut client) = client(&ip.to_string());
            client.connections = 1;
            client.traffic[0].bytes = u64::from(n);
            (key, client)
        });
        let kernel = FakeKernel::new(Vec::new(), clients.collect());
        let dir = tempfile::tempdir().unwrap();
        let lab_policy = dir.path().join("policy.toml");
        std::fs::write(&lab_policy, policy).unwrap();
        let options = Options {
            policy: PolicyFile {
                path: lab_policy,
                required: true,
            },
            interfaces: Vec::new(),
            observe: false,
            socket: dir.path().join("shaper.sock"),
            state: dir.path().join("state"),
        };
        let (policy, _) = options.load().unwrap();
        let socket = Socket::bind(&options.socket).unwrap();
        let daemon = tokio::spawn({
            let kernel = kernel.clone();
            async move {
                daemon::run(kernel, &socket, policy, options).await.unwrap();
            }
        });
        let lab = Self {
            dir,
            kernel,
            daemon,
        };
        lab.control().await.status().await.unwrap();
        lab
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("shaper.sock")
    }

    async fn control(&self) -> Client {
        let connected = async {
            loop {
                match Client::connect(&self.socket()).await {
                    Ok(client) => return client,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        };
        timeout(LONG, connected).await.unwrap()
    }

    async fn reload(&self, policy: &str) {
        std::fs::write(self.dir.path().join("policy.toml"), policy).unwrap();
        self.control().await.change(Command::Reload).await.unwrap();
    }

    async fn warnings(&self) -> String {
        self.control()
            .await
            .status()
            .await
            .unwrap()
            .warnings
            .join("\n")
    }
}

fn policy(listen: SocketAddr) -> String {
    format!("ports = [443]\n[metrics]\nlisten = \"{listen}\"\n")
}

/// Sends that and reads to the end; `None` where nobody listens or the connection
/// is closed without an answer.
async fn ask(at: SocketAddr, request: &str) -> Option<String> {
    let asked = async {
        let mut stream = TcpStream::connect(at).await.ok()?;
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer).filter(|answer| !answer.is_empty())
    };
    timeout(LONG, asked).await.unwrap()
}

fn get(path: &str, header: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{header}\r\n")
}

/// What a scrape answers, once somebody listens there.
async fn scrape(at: SocketAddr, header: &str) -> String {
    let answered = async {
        loop {
            match ask(at, &get("/metrics", header)).await {
                Some(answer) => return answer,
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    timeout(LONG, answered).await.unwrap()
}

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !done().await {
        assert!(begun.elapsed() < LONG, "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn value(text: &str, series: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(series))?;
    line.trim().parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_answers_in_the_format_that_is_asked_for_and_nothing_else() {
    let at = free();
    let lab = Lab::start(3, &policy(at)).await;
    let open = scrape(
        at,
        "Accept: application/openmetrics-text; version=1.0.0\r\n",
    )
    .await;
    assert!(open.starts_with("HTTP/1.1 200 OK\r\n"), "{open}");
    let kind = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n";
    assert!(open.contains(kind), "{open}");
    assert!(open.ends_with("# EOF\n"), "{open}");
    assert_eq!(value(&open, "shaper_clients "), Some(3.0));
    assert_eq!(
        value(&open, "shaper_rule_clients{rule=\"default\"} "),
        Some(3.0)
    );
    assert_eq!(
        value(&open, "shaper_interface_attached{interface=\"eth0\"} "),
        Some(1.0)
    );
    let plain = scrape(at, "").await;
    assert!(
        plain.contains("content-type: text/plain; version=0.0.4"),
        "{plain}"
    );
    assert!(
        plain.contains("# TYPE shaper_samples_total counter\n"),
        "{plain}"
    );

    let status = async |request: String| {
        let answer = ask(at, &request).await.unwrap();
        answer.split(' ').nth(1).unwrap().to_owned()
    };
    assert_eq!(status(get("/", "")).await, "200");
    assert_eq!(status(get("/etc/passwd", "")).await, "404");
    assert_eq!(status(get("/metrics?a=b", "")).await, "200");
    let post = "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(status(post.to_owned()).await, "405");
    assert_eq!(status("nonsense\r\n\r\n".to_owned()).await, "400");
    let long = get("/metrics", &format!("X: {}\r\n", "x".repeat(100_000)));
    if let Some(answer) = ask(at, &long).await {
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
    assert_eq!(lab.warnings().await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_section_nothing_listens_and_a_reload_moves_it() {
    let (first, second) = (free(), free());
    let lab = Lab::start(1, "ports = [443]").await;
    assert!(ask(first, &get("/metrics", "")).await.is_none());
    lab.reload(&policy(first)).await;
    scrape(first, "").await;
    lab.reload(&policy(second)).await;
    scrape(second, "").await;
    until("the first is closed", async || {
        ask(first, &get("/metrics", "")).await.is_none()
    })
    .await;
    lab.reload("ports = [443]").await;
    until("the second is closed", async || {
        ask(second, &get("/metrics", "")).await.is_none()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_said_with_what_to_do_and_limits_hold() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap();
    let lab = Lab::start(1, &policy(at)).await;
    until("it is said", async || {
        lab.warnings().await.contains("cannot listen on")
    })
    .await;
    let warnings = lab.warnings().await;
    for part in [
        at.to_string().as_str(),
        "`listen` of [metrics] in the policy",
        "free the port",
        "then `shaper reload`",
    ] {
        assert!(warnings.contains(part), "{warnings}");
    }
    assert_eq!(lab.kernel.state().applied.len(), 1);
    let other = free();
    lab.reload(&policy(other)).await;
    scrape(other, "").await;
    until("it is over", async || lab.warnings().await.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_hold_connections_keep_nobody_away_for_long() {
    let at = free();
    let _lab = Lab::start(1, &policy(at)).await;
    scrape(at, "").await;
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(TcpStream::connect(at).await.unwrap());
    }
    // Those beyond the number are closed at once, the others after their time.
    let text = scrape(at, "").await;
    let refused = value(&text, "shaper_scrapes_refused_total ").unwrap();
    assert!(refused >= 24.0, "{refused}");
}

/// Series by their metric, and all that a scrape is long.
fn count(text: &str) -> (usize, usize) {
    let series = text
        .lines()
        .filter(|line| line.starts_with("shaper_") || line.starts_with("process_"));
    let clients = series
        .clone()
        .filter(|line| line.starts_with("shaper_client_"));
    (series.count(), clients.count())
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_thousand_clients_make_no_more_series_than_fifty() {
    let mut counts = Vec::new();
    for clients in [50, 50_000] {
        let at = free();
        let limits = "[default]\nupload = { rate = \"8mbit\" }\ndownload = { rate = \"8mbit\" }\n";
        let text = format!("{}{limits}", policy(at));
        let _lab = Lab::start(clients, &text).await;
        let text = scrape(at, "").await;
        assert_eq!(value(&text, "shaper_clients "), Some(f64::from(clients)));
        let rule = "shaper_rule_connections{rule=\"default\"} ";
        assert_eq!(value(&text, rule), Some(f64::from(clients)));
        // The busiest is there, and of whoever is not, only the totals are.
        let last = std::net::Ipv4Addr::from(0x0a00_0000 + clients - 1);
        assert!(text.contains(&format!("{{client=\"{last}\"")), "{last}");
        assert!(!text.contains("client=\"10.0.0.1\""));
        counts.push(count(&text));
    }
    assert_eq!(counts[0], counts[1]);
    let (all, clients) = counts[1];
    assert_eq!(clients, 20 * 11);
    assert!(all < 400, "{all}");
}
