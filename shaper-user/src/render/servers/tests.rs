use super::super::rows::tests::{plain, traffic};
use super::*;
use crate::model::{Backend, HaproxySocket, Server, Servers};
use crate::testing::at;

fn server(backend: &str, name: &str, bps: u64) -> Server {
    Server {
        backend: backend.to_owned(),
        server: name.to_owned(),
        connections: u64::from(bps > 0),
        upload: traffic(bps * 10, bps),
        download: traffic(bps, bps / 10),
        top_client: (bps > 0).then(|| "203.0.113.107".to_owned()),
        top_client_share: (bps > 0).then_some(0.876),
        limit_upload_bps: None,
        limit_download_bps: None,
    }
}

fn answer() -> Servers {
    let backend = |name: &str, servers, rate_bps, imbalance| Backend {
        backend: name.to_owned(),
        servers,
        rate_bps,
        imbalance,
    };
    Servers {
        at: at(0),
        interval_ms: 1000,
        matched: 4,
        servers: vec![
            server("be_ws", "srv1", 7_980_000),
            server("be_ws", "srv2", 120_000),
            server("be_chat", "chat-1", 0),
        ],
        backends: vec![
            backend("be_chat", 1, 0, None),
            backend("be_ws", 2, 8_910_000, Some(1.97)),
        ],
    }
}

#[test]
fn servers_with_their_backends_beneath() {
    let text = plain(|out| servers(out, &answer(), Some(80)));
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );
    insta::assert_snapshot!("servers", text);
}

#[test]
fn what_was_dropped_has_a_column_and_the_total_makes_room() {
    let mut answer = answer();
    answer.servers[0].upload.dropped_bytes = 123_456_789;
    answer.servers[0].top_client = Some("2001:db8:1:2::/64".to_owned());
    let text = |width| plain(|out| servers(out, &answer, width));
    assert!(text(None).contains("TOTAL") && text(None).contains("DROPPED"));
    let narrow = text(Some(80));
    assert!(
        narrow.contains("DROPPED") && !narrow.contains("TOTAL"),
        "{narrow}"
    );
    assert!(narrow.lines().all(|line| line.chars().count() <= 80));
}

#[test]
fn servers_before_anything_is_known() {
    let answer = Servers {
        servers: Vec::new(),
        backends: Vec::new(),
        matched: 0,
        ..answer()
    };
    insta::assert_snapshot!("no_servers", plain(|out| servers(out, &answer, None)));
}

#[test]
fn the_reason_for_no_servers_names_what_would_help() {
    let socket = |age_ms, error: Option<&str>| HaproxySocket {
        path: "/run/haproxy/admin.sock".to_owned(),
        age_ms,
        error: error.map(str::to_owned),
        ..HaproxySocket::default()
    };
    let none = why_none(&[], "");
    assert!(
        none.contains("`stats socket /run/haproxy/admin.sock"),
        "{none}"
    );
    assert!(none.contains("`sockets` of [haproxy]"), "{none}");
    assert_eq!(
        why_none(&[socket(None, Some("permission denied"))], "server:a"),
        "HAProxy has not answered: /run/haproxy/admin.sock: permission denied"
    );
    assert_eq!(
        why_none(&[socket(None, None)], ""),
        "HAProxy has not answered: /run/haproxy/admin.sock: not asked yet"
    );
    let answers = [socket(None, Some("gone")), socket(Some(10), None)];
    assert_eq!(why_none(&answers, ""), "HAProxy has no session at a server");
    assert_eq!(
        why_none(&answers, "server:a"),
        "no server matches `server:a`"
    );
}
