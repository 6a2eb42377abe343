//! The control socket: however its bytes arrive, each line has its answer, and
//! what is understood is so when it is written again.

use crate::control::request::parse;
use crate::control::server::users::Users;
use crate::control::server::{Answer, Handler, Limits, Peer, Places, serve_one};
use crate::events::filter::EventFilter;
use crate::filter::Filter;
use crate::haproxy::kill::FlowName;
use crate::policy::Rate;
use crate::policy::units::Size;
use crate::protocol::{Command, Done, ErrorBody, ErrorCode, Request, Response, VERSION};
use crate::runtime::parse_client;
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Ends a write, and is not sent itself: no UTF-8 has it.
const NEXT_WRITE: u8 = 0xff;

/// Low, so that it is reached.
const LIMITS: Limits = {
    let mut limits = Limits::DEFAULT;
    limits.request_bytes = 300;
    limits
};

/// Checks what a peer writes on one connection.
///
/// # Panics
/// When something does not hold.
pub fn protocol(data: &[u8]) {
    let writes: Vec<&[u8]> = data.split(|byte| *byte == NEXT_WRITE).collect();
    let sent = writes.concat();
    let mut expected = Vec::new();
    let mut lines = sent.split(|byte| *byte == b'\n');
    let last = lines.next_back().unwrap_or_default();
    let mut open = true;
    for line in lines {
        if line.len() > LIMITS.request_bytes {
            expected.push(Some(ErrorCode::TooMuch));
            open = false;
            break;
        }
        let read = parse(line);
        if let Ok(command) = &read {
            understood(command);
        }
        expected.push(read.err().map(|error| error.code));
    }
    if open && !last.is_empty() {
        expected.push(Some(if last.len() > LIMITS.request_bytes {
            ErrorCode::TooMuch
        } else {
            ErrorCode::BadRequest
        }));
    }
    let answers = converse(&writes);
    assert!(answers.is_ok(), "{answers:?}");
    let answers = answers.unwrap_or_default();
    let codes: Vec<_> = answers.iter().map(|answer| answer.code()).collect();
    assert_eq!(codes, expected);
}

impl Response {
    /// Exactly one of result and error is there.
    fn code(&self) -> Option<ErrorCode> {
        assert_eq!(self.v, VERSION);
        assert_ne!(self.result.is_some(), self.error.is_some());
        self.error.as_ref().map(|error| error.code)
    }
}

fn understood(command: &Command) {
    let request = Request {
        v: VERSION,
        command: command.clone(),
    };
    let line = serde_json::to_vec(&request).unwrap_or_default();
    assert_eq!(parse(&line).as_ref(), Ok(command));
    match command {
        Command::Flows(query) | Command::Clients(query) | Command::Servers(query) => {
            let _ = Filter::parse(&query.filter);
        }
        Command::Events(query) => {
            let _ = EventFilter::parse(&query.filter);
        }
        Command::Limit {
            client,
            upload,
            download,
            ..
        } => {
            names_a_client(client);
            for text in [upload, download].into_iter().flatten() {
                if let Ok(rate) = text.parse::<Rate>() {
                    assert_eq!(rate.to_string().parse(), Ok(rate));
                }
            }
        }
        Command::History(query) => {
            if let Some(client) = &query.client {
                names_a_client(client);
            }
        }
        Command::ClearLimit { client }
        | Command::Block { client, .. }
        | Command::Unblock { client }
        | Command::Quota { client }
        | Command::ResetQuota { client } => names_a_client(client),
        Command::AddQuota { client, bytes } => {
            names_a_client(client);
            if let Ok(size) = bytes.parse::<Size>() {
                assert_eq!(size.to_string().parse(), Ok(size));
            }
        }
        Command::Kill { flow, .. } => {
            if let Ok(flow) = flow.parse::<FlowName>() {
                assert_eq!(flow.to_string().parse(), Ok(flow));
            }
        }
        Command::Status | Command::Drain { .. } | Command::StopDrain { .. } | Command::Reload => {}
    }
}

fn names_a_client(text: &str) {
    for (ipv4, ipv6) in [(32, 128), (24, 64)] {
        if let Ok(net) = parse_client(text, ipv4, ipv6) {
            assert_eq!(net, net.trunc());
            assert_eq!(parse_client(&net.to_string(), ipv4, ipv6), Ok(net));
        }
    }
}

/// Whoever asks is answered.
struct Yes;

impl Handler for Yes {
    async fn handle(&self, command: Command, _: Peer) -> Result<Answer, ErrorBody> {
        Ok(Answer::Done(Done {
            message: format!("{command:?}"),
        }))
    }
}

/// Everything that the server answers until it closes.
fn converse(writes: &[&[u8]]) -> io::Result<Vec<Response>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let (ours, theirs) = UnixStream::pair()?;
        let peer = Peer { uid: 0, pid: None };
        let (user, _place) = Users::default()
            .place(peer.uid, LIMITS.per_user, LIMITS.followers_per_user)
            .ok_or_else(|| io::Error::other("no place for the first of them"))?;
        let server =
            tokio::spawn(
                async move { serve_one(theirs, &Yes, LIMITS, peer, Places::of(user)).await },
            );
        let (mut read, mut write) = ours.into_split();
        let written = async move {
            for bytes in writes {
                // The server may have closed.
                let _ = write.write_all(bytes).await;
                tokio::task::yield_now().await;
            }
        };
        let mut answers = Vec::new();
        let (_, answered) = tokio::join!(written, read.read_to_end(&mut answers));
        // What the server has not read makes the end of it a reset.
        match answered {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            answered => drop(answered?),
        }
        let ended = server.await.map_err(io::Error::other)?;
        // It wrote to a peer that was gone, at most.
        assert!(ended.is_ok(), "{ended:?}");
        answers
            .split_inclusive(|byte| *byte == b'\n')
            .map(|line| {
                assert!(line.ends_with(b"\n"), "half an answer");
                Ok(serde_json::from_slice(line)?)
            })
            .collect()
    })
}
