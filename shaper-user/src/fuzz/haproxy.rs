//! What HAProxy answers: whatever it is, only what it holds is read from it.

use crate::haproxy::cli::check;
use crate::haproxy::drain::server_name;
use crate::haproxy::info::{Info, Processes, WORKERS_MAX, info, processes};
use crate::haproxy::kill::{FlowName, Source, source};
use crate::haproxy::sess::{Stream, streams};
use std::path::Path;

/// Checks one answer.
///
/// # Panics
/// When something does not hold.
pub fn haproxy(data: &[u8]) {
    let answer = &*String::from_utf8_lossy(data);
    for command in [
        "show cli level;show info;show sess",
        "show cli level;show proc",
        "@!7 show sess",
        "shutdown session 0x7f",
    ] {
        if let Err(error) = check(Path::new("/s"), command, answer) {
            assert!(error.to_string().contains("/s"));
        }
    }
    sessions(answer);
    // As one socket's round cuts it.
    let mut parts = answer.splitn(3, "\n\n").skip(1);
    for text in [Some(answer), parts.next(), parts.next()]
        .into_iter()
        .flatten()
    {
        about(text);
        sessions(text);
    }
    names(answer);
}

fn sessions(answer: &str) {
    let whole: Vec<Stream> = streams(answer).collect();
    for stream in &whole {
        let Stream {
            id,
            client,
            frontend,
            backend,
            server,
        } = stream;
        for name in [frontend, backend, server] {
            assert!(!name.is_empty() && answer.contains(&format!("={name}")));
        }
        assert_eq!(client.ip(), client.ip().to_canonical());
        let (ip, port) = (client.ip(), client.port());
        let line = format!(
            "{id:#x}: proto=tcpv4 src={ip}:{port} fe={frontend} be={backend} srv={server}\n"
        );
        assert_eq!(streams(&line).collect::<Vec<_>>(), [*stream], "{line}");
    }
    // An answer that is cut off gives fewer, and no others.
    let half = (0..=answer.len() / 2)
        .rev()
        .find(|at| answer.is_char_boundary(*at))
        .unwrap_or(0);
    let cut: Vec<_> = streams(&answer[..half]).collect();
    assert_eq!(whole[..cut.len()], cut);

    let id = whole.first().map_or(0x7f, |stream| stream.id);
    if let Source::Client(client) = source(answer, id) {
        let (ip, port) = (client.ip(), client.port());
        let line = format!("{id:#x}: [] source={ip}:{port}\n");
        assert_eq!(source(&line, id), Source::Client(client));
        assert_eq!(source(&line, !id), Source::Unreadable);
    }
}

fn about(answer: &str) {
    if let Some(Info { version, pid }) = info(answer) {
        let written = format!("Version: {version}\nPid: {pid}\n");
        assert_eq!(info(&written), Some(Info { version, pid }));
    }
    let Processes { version, workers } = processes(answer);
    assert!(workers.len() <= WORKERS_MAX);
    let mut written = String::new();
    if let Some(version) = version {
        written += &format!("1 master {version}\n");
    }
    for pid in &workers {
        written += &format!("{pid} worker\n");
    }
    assert_eq!(processes(&written), Processes { version, workers });
}

/// What people and agent checks name is read by the same rules.
fn names(text: &str) {
    if let Ok(flow) = text.parse::<FlowName>() {
        assert_eq!(flow.to_string().parse(), Ok(flow));
    }
    if let Ok((backend, server)) = server_name(text) {
        assert_eq!(format!("{backend}/{server}"), text);
    }
}
