use super::*;
use crate::haproxy::fake::{Answer, Server};
use crate::testing::session;
use proptest::prelude::*;

const ID: u64 = 0x55df_672d_6cc0;

/// As HAProxy 3.0 writes it.
const OPEN: &str = "\
0x55df672d6cc0: [24/Nov/2026:02:20:13.392071] id=0 proto=tcpv4 source=192.0.2.1:4000
  flags=0x4a, conn_retries=0, conn_exp=<NEVER> conn_et=0x000 srv_conn=0x55ad47bfed70, pend_pos=(nil) waiting=0 epoch=0
  frontend=fe_ws (id=3 mode=tcp), listener=? (id=1) addr=127.0.0.1:9720
  backend=be_ws (id=2 mode=tcp) addr=127.0.0.1:42094
  server=srv1 (id=1) addr=127.0.0.1:9700

";

fn target(server: &Server) -> Target {
    Target {
        client: "192.0.2.1:4000".parse().unwrap(),
        session: Session {
            socket: server.path().into(),
            worker_pid: 77,
            ..session(ID, "srv1")
        },
        rate: 8_000_000,
    }
}

/// Answers `show sess` and `shutdown session` so.
fn haproxy(show: &'static str, shutdown: &'static str) -> Server {
    Server::start(move |command| {
        Answer::Text(
            if command.contains("show sess") {
                show
            } else {
                shutdown
            }
            .to_owned(),
        )
    })
}

#[tokio::test]
async fn a_session_is_closed_after_a_look_at_whose_it_is() {
    let server = haproxy(OPEN, "\n");
    assert_eq!(target(&server).kill().await.unwrap(), Ended::Closed);
    assert_eq!(
        server.commands(),
        [
            "show sess 0x55df672d6cc0",
            "shutdown session 0x55df672d6cc0"
        ]
    );
}

#[tokio::test]
async fn a_worker_is_asked_through_its_master() {
    let server = haproxy(OPEN, "\n");
    let mut target = target(&server);
    target.session.through_master = true;
    assert_eq!(target.kill().await.unwrap(), Ended::Closed);
    assert_eq!(
        server.commands(),
        [
            "@!77 show sess 0x55df672d6cc0",
            "@!77 shutdown session 0x55df672d6cc0"
        ]
    );
}

#[tokio::test]
async fn an_id_that_is_anothers_now_is_left_alone() {
    for (other, name) in [
        ("192.0.2.1:4001", "192.0.2.1:4001"),
        ("203.0.113.9:4000", "203.0.113.9:4000"),
        ("2001:db8::9:4000", "[2001:db8::9]:4000"),
        ("abns@x", "abns@x"),
    ] {
        let text: &'static str = OPEN.replace("192.0.2.1:4000", other).leak();
        let server = haproxy(text, "\n");
        let error = target(&server).kill().await.unwrap_err();
        assert!(
            matches!(&error, KillError::Reused { now, .. } if now == name),
            "{error}"
        );
        assert!(error.to_string().contains("nothing was closed"), "{error}");
        assert_eq!(server.commands().len(), 1, "no shutdown");
    }
}

#[tokio::test]
async fn a_session_that_is_over_is_gone() {
    let server = haproxy("Session not found.\n\n", "\n");
    assert_eq!(target(&server).kill().await.unwrap(), Ended::Gone);
    assert_eq!(server.commands().len(), 1);
    // Its id is that of the connection that asks, as with 2.6 and 3.0.
    let text: &'static str = OPEN.replace("192.0.2.1:4000", "unix:1").leak();
    let server = haproxy(text, "\n");
    assert_eq!(target(&server).kill().await.unwrap(), Ended::Gone);
    assert_eq!(server.commands().len(), 1);
    // The worker has ended.
    let server = haproxy("Can't find the target process!\n\n", "\n");
    assert_eq!(target(&server).kill().await.unwrap(), Ended::Gone);
    // It ended between the two questions.
    let server = haproxy(OPEN, "No such session (use 'show sess').\n\n");
    assert_eq!(target(&server).kill().await.unwrap(), Ended::Gone);
}

#[tokio::test]
async fn without_the_right_it_names_the_line_of_haproxy_cfg() {
    let server = haproxy(OPEN, "Permission denied\n\n");
    let error = target(&server).kill().await.unwrap_err().to_string();
    let line = format!("`stats socket {} level admin`", server.path().display());
    assert!(error.contains(&line), "{error}");
}

#[tokio::test]
async fn what_cannot_be_read_closes_nothing() {
    for garbage in [
        "\n",
        "0x55df672d6cc0:\n\n",
        "0x55df672d6cc0: proto=tcpv4\n\n",
        "0x55df672d6cc: source=192.0.2.1:4000\n\n",
        "0x1: source=192.0.2.1:4000\n\n",
        "  source=192.0.2.1:4000\n\n",
        "Try later\n\n",
        "\u{0}\u{1b}[31m\n\n",
    ] {
        let server = haproxy(garbage, "\n");
        let error = target(&server).kill().await.unwrap_err();
        assert!(matches!(error, KillError::Unreadable { .. }), "{garbage:?}");
        assert!(!error.to_string().contains('\u{1b}'));
        assert_eq!(server.commands().len(), 1, "{garbage:?}");
    }
    let server = haproxy(OPEN, "Not today\n\n");
    let error = target(&server).kill().await.unwrap_err().to_string();
    assert!(
        error.contains("`Not today` to `shutdown session"),
        "{error}"
    );
}

#[test]
fn the_source_is_read_in_every_form() {
    let of = |text: &str| source(&format!("\n0x1: [x] id=0 source={text}\n"), 1);
    let client = |text: &str| Source::Client(text.parse().unwrap());
    assert_eq!(of("192.0.2.1:4000"), client("192.0.2.1:4000"));
    assert_eq!(of("::ffff:192.0.2.1:4000"), client("192.0.2.1:4000"));
    assert_eq!(of("::1:4000"), client("[::1]:4000"));
    assert_eq!(
        of("192.0.2.1:70000"),
        Source::Other("192.0.2.1:70000".to_owned())
    );
    assert_eq!(of(""), Source::Other(String::new()));
}

#[test]
fn flows_have_two_names() {
    let name = |text: &str| text.parse::<FlowName>().map(|name| name.to_string());
    assert_eq!(name("192.0.2.1:4000").unwrap(), "192.0.2.1:4000");
    assert_eq!(name("[2001:db8::1]:4000").unwrap(), "[2001:db8::1]:4000");
    assert_eq!(name("[::ffff:192.0.2.1]:4000").unwrap(), "192.0.2.1:4000");
    assert_eq!(name("0x55DF672d6cc0").unwrap(), "0x55df672d6cc0");
    for wrong in [
        "",
        "192.0.2.1",
        "192.0.2.1:0",
        "192.0.2.1:65536",
        "2001:db8::1:4000",
        "0x",
        "0x+1",
        "0xg",
        "0x12345678123456781",
        "55df672d6cc0",
        "be_ws/srv1",
        " 192.0.2.1:1",
    ] {
        let error = name(wrong).unwrap_err().to_string();
        assert!(error.contains("203.0.113.9:52482"), "{error}");
    }
}

proptest! {
    #[test]
    fn only_the_same_id_and_source_are_this_client(answer in "\\PC{0,80}", id: u64) {
        prop_assert!(!matches!(source(&answer, id), Source::Client(_)));
    }
}
