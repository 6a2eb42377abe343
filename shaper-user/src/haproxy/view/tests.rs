use super::*;
use std::path::Path;

fn session(id: u64, server: &str, worker_pid: u32, socket: &str) -> Session {
    Session {
        id,
        frontend: Arc::from("f"),
        backend: Arc::from("b"),
        server: Arc::from(server),
        worker_pid,
        socket: Arc::from(Path::new(socket)),
        through_master: false,
        stale: false,
        answered: u64::MAX,
    }
}

/// A socket with one worker: `(client's port, server)` in order of their ids.
fn known(path: &str, level: &str, pid: u32, stale: bool, of: &[(u16, &str)]) -> Known {
    let sessions = of.iter().zip(1..).map(|((port, server), id)| {
        let client = SocketAddr::from(([192, 0, 2, 1], *port));
        (client, session(id, server, pid, path))
    });
    let now = Instant::now();
    Known {
        socket: model::HaproxySocket {
            path: path.to_owned(),
            level: Some(level.to_owned()),
            kind: Some("stats".to_owned()),
            ..model::HaproxySocket::default()
        },
        answered: Some(now),
        workers: vec![Worker {
            pid,
            sessions: Arc::new(sessions.collect()),
            answered: now,
            stale,
        }],
    }
}

/// `port server socket`, with `stale` behind it.
fn joined(known: &[Known]) -> (Vec<String>, u64) {
    let view = View::of(known, Instant::now());
    let mut rows: Vec<_> = view
        .sessions
        .iter()
        .map(|(client, session)| {
            let stale = if session.stale { " stale" } else { "" };
            let socket = session.socket.display();
            format!("{} {} {socket}{stale}", client.port(), session.server)
        })
        .collect();
    rows.sort();
    (rows, view.ambiguous)
}

#[test]
fn a_session_of_two_sockets_is_there_once_from_the_one_with_more_rights() {
    let mut operator = known("/o", "operator", 7, false, &[(1, "s1"), (2, "s2")]);
    let admin = known("/a", "admin", 7, false, &[(1, "s1")]);
    for order in [[operator.clone(), admin.clone()], [admin, operator.clone()]] {
        assert_eq!(
            joined(&order),
            (vec!["1 s1 /a".into(), "2 s2 /o".into()], 0)
        );
    }
    let stats = known("/s", "operator", 7, false, &[(1, "s1")]);
    operator.socket.kind = Some("master".to_owned());
    assert_eq!(joined(&[stats, operator]).0[0], "1 s1 /o");
}

#[test]
fn a_client_on_several_servers_is_left_out() {
    // One connection of HTTP/2 with a stream to each server.
    let known = known(
        "/a",
        "admin",
        7,
        false,
        &[(1, "s1"), (1, "s2"), (2, "s1"), (2, "s1"), (1, "s1")],
    );
    assert_eq!(joined(&[known]), (vec!["2 s1 /a".into()], 1));
}

#[test]
fn a_fresh_answer_goes_over_a_stale_one() {
    let old = known("/old", "admin", 7, true, &[(1, "s1"), (2, "s2"), (3, "s3")]);
    let new = known(
        "/new",
        "admin",
        8,
        false,
        &[(1, "s9"), (3, "s3"), (3, "s4")],
    );
    let expected = vec!["1 s9 /new".into(), "2 s2 /old stale".into()];
    assert_eq!(joined(&[old, new]), (expected, 1));
}

#[test]
fn ages_grow_until_they_are_asked_for() {
    let mut known = known("/a", "admin", 7, false, &[]);
    let start = known.answered.unwrap();
    let view = View::of(&[known.clone()], start + Duration::from_millis(300));
    assert_eq!(view.sockets[0].age_ms, Some(300));
    let later = view.sockets_at(start + Duration::from_millis(1500));
    assert_eq!(later[0].age_ms, Some(1500));
    known.answered = None;
    let view = View::of(&[known], start);
    assert_eq!(view.sockets_at(start + FORGET)[0].age_ms, None);
    assert!(View::default().sockets_at(start).is_empty());
}
