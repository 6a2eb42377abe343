use super::super::rows::tests::plain;
use super::*;
use crate::model::{HistoryClient, HistoryServer, HistoryStep};
use crate::testing::at;

fn passed(bytes: u64, rate_bps: Option<u64>) -> HistoryDirection {
    HistoryDirection {
        bytes,
        dropped_bytes: bytes / 100,
        rate_bps,
    }
}

fn answer() -> History {
    let minutes = (0..120_u64)
        // The daemon was away.
        .filter(|n| !(60..70).contains(n))
        .map(|n| {
            let rate = 100_000 * (1 + n % 7) + if n == 30 { 7_000_000 } else { 0 };
            HistoryStep {
                at: at(n.cast_signed() * 60),
                ms: 60_000,
                upload: passed(rate * 60 / 8, Some(rate)),
                download: passed(rate * 6, Some(rate * 6 * 8 / 60)),
                clients: Some(12),
            }
        });
    let flow = |client: &str, server: Option<&str>, closed| HistoryFlow {
        client: client.parse().unwrap(),
        client_port: 40_112,
        local: "10.0.0.1".parse().unwrap(),
        local_port: 443,
        protocol: "tcp".to_owned(),
        backend: server.map(|_| "be_ws".to_owned()),
        server: server.map(str::to_owned),
        opened: at(60),
        last: at(1_920),
        closed,
        upload: passed(52_500_000, None),
        download: passed(600_000, None),
    };
    History {
        since: at(0),
        until: at(7_200),
        oldest: Some(at(-600)),
        step_ms: 60_000,
        minutes: minutes.collect(),
        clients_matched: 41,
        clients: ["203.0.113.7", "2001:db8:1:2::/64"]
            .map(|name| HistoryClient {
                client: name.to_owned(),
                upload: passed(60_000_000, None),
                download: passed(1_000_000, None),
            })
            .to_vec(),
        others_bytes: 12_000,
        servers_matched: 1,
        servers: vec![HistoryServer {
            backend: "be_ws".to_owned(),
            server: "srv1".to_owned(),
            upload: passed(60_000_000, None),
            download: passed(1_000_000, None),
        }],
        flows_matched: 2,
        flows_cut: 3,
        flows: vec![
            flow("203.0.113.7", Some("srv1"), true),
            flow("2001:db8:1:2:3:4:5:6", None, false),
        ],
    }
}

#[test]
fn two_hours_at_80_columns() {
    let text = plain(|out| history(out, &answer(), Some(80), &TimeZone::UTC));
    let widest = text.lines().map(|line| line.chars().count()).max();
    assert!(widest.unwrap() <= 80, "{text}");
    insta::assert_snapshot!("history", text);
}

#[test]
fn nothing_known_says_what_is() {
    let mut answer = answer();
    answer.minutes.clear();
    let text = plain(|out| history(out, &answer, None, &TimeZone::UTC));
    assert!(text.contains("nothing is known"), "{text}");
    assert!(text.contains("2027-01-15 07:50"), "{text}");
    answer.oldest = None;
    let text = plain(|out| history(out, &answer, None, &TimeZone::UTC));
    assert!(text.contains("when it is over"), "{text}");
}

#[test]
fn a_gap_is_blank_and_silence_is_not() {
    let mut answer = answer();
    for minute in &mut answer.minutes {
        minute.upload = HistoryDirection::default();
    }
    let minutes = answer.minutes.iter();
    let steps: Vec<_> = minutes.map(|m| (m.at, m.ms, m.upload)).collect();
    let cells = spread(&answer, &steps, 60);
    assert_eq!(cells.len(), 60);
    assert_eq!(cells.iter().filter(|cell| cell.is_none()).count(), 5);
    assert_eq!(cells[0], Some(0));
}
