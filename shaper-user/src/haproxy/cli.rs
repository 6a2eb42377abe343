//! One question to HAProxy, on its stats socket or its master CLI.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// How long a question may take, from connecting to the end of the answer.
pub const ANSWER_TIME: Duration = Duration::from_secs(5);
/// The longest answer in bytes: some 200,000 sessions in the short form.
pub const ANSWER_MAX: u64 = 64 << 20;

/// Why a question has no answer.
#[derive(Debug, Error)]
pub enum AskError {
    /// There is no such file.
    #[error(
        "{} does not exist: is HAProxy running, and does haproxy.cfg have `stats socket {}`?",
        .0.display(), .0.display()
    )]
    Missing(PathBuf),
    /// Nobody listens.
    #[error("{} is refused: the HAProxy that made this socket is gone", .0.display())]
    Refused(PathBuf),
    /// The socket is not for this user.
    #[error(
        "no permission for {}: give its group access by `group` and `mode` of its `stats socket` \
         line, and be in that group (SupplementaryGroups= of the unit)", .0.display()
    )]
    Permission(PathBuf),
    /// Too many others wait for HAProxy.
    #[error("{} is busy: HAProxy takes no more connections there now", .0.display())]
    Busy(PathBuf),
    /// No whole answer in time.
    #[error("{} has not answered within {time:?}: HAProxy is busy or hangs", path.display())]
    TimedOut {
        /// The socket.
        path: PathBuf,
        /// How long it was waited for.
        time: Duration,
    },
    /// More than is read.
    #[error("the answer of {} is longer than {max} bytes", path.display())]
    TooLarge {
        /// The socket.
        path: PathBuf,
        /// How much would have been read.
        max: u64,
    },
    /// The connection ended within the answer.
    #[error("the answer of {} is cut off: HAProxy ended the connection", .0.display())]
    CutOff(PathBuf),
    /// The socket's level does not allow the command.
    #[error(
        "HAProxy denies `{command}` on {}: in haproxy.cfg write `stats socket {} level {level}` \
         (a master CLI: `-S {},level,{level}`)", path.display(), path.display(), path.display()
    )]
    Level {
        /// The socket.
        path: PathBuf,
        /// What was asked.
        command: String,
        /// `operator` or `admin`.
        level: &'static str,
    },
    /// HAProxy does not know the command.
    #[error(
        "HAProxy does not know `{command}` on {}: another kind of socket, or another version",
        path.display()
    )]
    Unknown {
        /// The socket.
        path: PathBuf,
        /// What was asked.
        command: String,
    },
    /// A master CLI does not know the worker that `@!<pid>` names.
    #[error("the worker of `{command}` on {} has ended", path.display())]
    NoWorker {
        /// The socket.
        path: PathBuf,
        /// What was asked.
        command: String,
    },
    /// Who listens there is no HAProxy.
    #[error("{} does not answer as a stats socket or master CLI of HAProxy does", .0.display())]
    Garbled(PathBuf),
    /// The command is more than one line.
    #[error("`{}` is not one command: it has a line break", .0.escape_debug())]
    NotOneLine(String),
    /// Anything else.
    #[error("{}: {error}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
}

impl AskError {
    fn io(path: &Path, error: io::Error) -> Self {
        let path = path.to_owned();
        match error.kind() {
            ErrorKind::NotFound => Self::Missing(path),
            ErrorKind::ConnectionRefused => Self::Refused(path),
            ErrorKind::PermissionDenied => Self::Permission(path),
            // What connect(2) says of a Unix socket whose backlog is full.
            ErrorKind::WouldBlock => Self::Busy(path),
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Self::CutOff(path),
            _ => Self::Io { path, error },
        }
    }
}

/// Asks one command and returns the whole answer, without the empty line that
/// ends it. On a master CLI, `@!<pid> ` before the command asks that worker.
/// Several commands in one line, with `;` between, have an empty line between
/// their answers.
///
/// Bytes that are no UTF-8 become U+FFFD. That the command did not do what it
/// says (such as `No such session`) is an answer, not an error.
///
/// # Errors
/// When the socket cannot be asked, the answer is late, too long or cut off, or
/// HAProxy denies or does not know the command.
pub async fn ask(socket: &Path, command: &str) -> Result<String, AskError> {
    ask_within(socket, command, ANSWER_TIME, ANSWER_MAX).await
}

pub(super) async fn ask_within(
    socket: &Path,
    command: &str,
    time: Duration,
    max: u64,
) -> Result<String, AskError> {
    if command.contains(['\n', '\r', '\0']) {
        return Err(AskError::NotOneLine(command.to_owned()));
    }
    let answer = timeout(time, exchange(socket, command, max))
        .await
        .map_err(|_| AskError::TimedOut {
            path: socket.to_owned(),
            time,
        })?
        .map_err(|error| AskError::io(socket, error))?;
    if answer.len() as u64 > max {
        return Err(AskError::TooLarge {
            path: socket.to_owned(),
            max,
        });
    }
    let mut answer = String::from_utf8(answer)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
    check(socket, command, &answer)?;
    // Its last line ends as every line does; the empty one after it goes.
    answer.pop();
    Ok(answer)
}

/// The answer as it comes, of at most one byte more than `max`.
async fn exchange(socket: &Path, command: &str, max: u64) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(format!("{command}\n").as_bytes()).await?;
    // A master CLI answers, but does not close before the other side does.
    stream.shutdown().await?;
    let mut answer = Vec::new();
    stream.take(max + 1).read_to_end(&mut answer).await?;
    Ok(answer)
}

/// Whether every command has its answer, and none was turned down.
pub(crate) fn check(socket: &Path, command: &str, answer: &str) -> Result<(), AskError> {
    let mut commands = command.split(';').map(str::trim);
    for part in answer.split("\n\n") {
        let (path, command) = (socket.to_owned(), commands.next().unwrap_or(command));
        let command = command.to_owned();
        if part.starts_with("Permission denied") {
            let level = needed(&command);
            return Err(AskError::Level {
                path,
                command,
                level,
            });
        }
        if part.starts_with("Unknown command") {
            return Err(AskError::Unknown { path, command });
        }
        if part.starts_with("Can't find the target") {
            return Err(AskError::NoWorker { path, command });
        }
    }
    if answer == "\n" || answer.ends_with("\n\n") {
        Ok(())
    } else {
        Err(AskError::CutOff(socket.to_owned()))
    }
}

/// The level that a command needs: reading needs `operator` at most.
fn needed(command: &str) -> &'static str {
    let mut words = command.split_whitespace();
    let word = words.find(|word| !word.starts_with('@'));
    if matches!(word, Some("show" | "get")) {
        "operator"
    } else {
        "admin"
    }
}

#[cfg(test)]
mod tests;
