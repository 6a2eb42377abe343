//! The control socket's side, against a listener that answers as it is told.

use super::*;
use crate::protocol::{ErrorCode, Request, VERSION};
use crate::top::fake::World;
use std::path::PathBuf;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

/// Answers each line of a connection with the next of `answers`, then closes
/// it, and answers the next connection with the rest. Returns the requests,
/// and how many connections they came over.
fn serve(path: &Path, rounds: Vec<Vec<String>>) -> JoinHandle<Vec<Vec<String>>> {
    let listener = UnixListener::bind(path).unwrap();
    tokio::spawn(async move {
        let mut all = Vec::new();
        for answers in rounds {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            let mut heard = Vec::new();
            for answer in answers {
                let mut line = String::new();
                stream.read_line(&mut line).await.unwrap();
                heard.push(line.trim_end().to_owned());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            all.push(heard);
        }
        all
    })
}

fn result(value: &impl serde::Serialize) -> String {
    let value = serde_json::to_string(value).unwrap();
    format!("{{\"v\":1,\"result\":{value}}}\n")
}

fn wanted(detail: bool) -> Wanted {
    let query = Query {
        limit: Some(ROWS),
        ..Query::default()
    };
    Wanted {
        clients: query.clone(),
        flows: detail.then(|| query.clone()),
        servers: detail.then_some(query),
        history: [None, None],
        detail: detail.then(|| "203.0.113.7".to_owned()),
    }
}

fn socket() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    (dir, path)
}

#[tokio::test]
async fn one_connection_serves_many_requests() {
    let (_dir, path) = socket();
    let frame = World::lab().answer(&wanted(true)).unwrap();
    let (status, clients) = (result(&frame.status), result(&frame.clients));
    let flows = result(frame.flows.as_ref().unwrap());
    let servers = result(frame.servers.as_ref().unwrap());
    let answers = vec![
        status.clone(),
        clients.clone(),
        flows.clone(),
        servers,
        clients.clone(),
        flows,
        status,
        clients,
    ];
    let server = serve(&path, vec![answers]);
    let mut source = Socket::new(&path);
    let first = source.fetch(&wanted(true)).await.unwrap();
    assert_eq!(first.status, frame.status);
    assert_eq!(first.flows, frame.flows);
    assert_eq!(first.servers, frame.servers);
    let detail = first.detail.unwrap();
    assert_eq!(detail.client.unwrap().client, "203.0.113.7");
    let second = source.fetch(&wanted(false)).await.unwrap();
    assert_eq!(second.clients, frame.clients);
    let heard = server.await.unwrap().concat();
    let requests: Vec<Request> = heard
        .iter()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert!(requests.iter().all(|r| r.v == VERSION));
    assert_eq!(requests[0].command, Command::Status);
    let Command::Flows(query) = &requests[5].command else {
        panic!("{:?}", requests[5]);
    };
    assert_eq!(query.filter, "client:203.0.113.7");
}

#[tokio::test]
async fn a_no_of_the_daemon_is_told_from_its_absence() {
    let (_dir, path) = socket();
    let mut source = Socket::new(&path);
    let command = || Command::Block {
        client: "192.0.2.1".to_owned(),
        for_ms: None,
    };
    let Err(SourceError::Gone(why)) = source.act(command()).await else {
        panic!("gone");
    };
    assert!(why.starts_with("nobody listens at "), "{why}");
    let no = "{\"v\":1,\"error\":{\"code\":\"denied\",\"message\":\"not you\"}}\n";
    let server = serve(&path, vec![vec![no.to_owned()]]);
    let Err(SourceError::Refused(error)) = source.act(command()).await else {
        panic!("a no");
    };
    assert_eq!(
        (error.code, error.message.as_str()),
        (ErrorCode::Denied, "not you")
    );
    server.await.unwrap();
}

#[tokio::test]
async fn a_daemon_that_closes_or_talks_nonsense_is_asked_anew() {
    let (_dir, path) = socket();
    let done = result(&Done {
        message: "read".to_owned(),
    });
    let rounds = vec![
        vec![String::new()],
        vec!["{\"v\":1,\"resu".to_owned()],
        vec!["no json\n".to_owned()],
        vec![done],
    ];
    let server = serve(&path, rounds);
    let mut source = Socket::new(&path);
    for part in [
        "closed the connection",
        "closed the connection",
        "cannot be read",
    ] {
        let Err(SourceError::Gone(why)) = source.act(Command::Reload).await else {
            panic!("gone");
        };
        assert!(why.contains(part), "{why}");
    }
    assert_eq!(source.act(Command::Reload).await.unwrap().message, "read");
    server.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_never_answers_is_given_up() {
    let (_dir, path) = socket();
    let _listener = UnixListener::bind(&path).unwrap();
    let mut source = Socket::new(&path);
    let Err(SourceError::Gone(why)) = source.act(Command::Reload).await else {
        panic!("gone");
    };
    assert_eq!(why, "no answer within 5s");
}
