//! Where answers go, and how a command ends.

use crate::render::wrapped;
use anyhow::{Context, Result};
use serde::Serialize;
use std::io::{self, BufWriter, ErrorKind, IsTerminal, Write};
use std::process::ExitCode;
use tokio::runtime::{Builder, Runtime};

/// The runtime of a command that only talks to the daemon.
pub(super) fn runtime() -> Result<Runtime> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
}

/// Writes to standard output, in colour where it is a terminal that wants it
/// (`NO_COLOR`, `CLICOLOR`).
pub(super) fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let mut out = BufWriter::new(anstream::AutoStream::auto(io::stdout()));
    write(&mut out)?;
    out.flush()?;
    Ok(())
}

/// Cells of a line of the terminal that standard output is; `None` where it is none.
pub(super) fn width() -> Option<u16> {
    if !io::stdout().is_terminal() {
        return None;
    }
    crossterm::terminal::size().ok().map(|(width, _)| width)
}

/// Writes JSON: indented for a person, one line for a program.
pub(super) fn json<T: Serialize>(value: &T) -> Result<()> {
    let stdout = io::stdout();
    let pretty = stdout.is_terminal();
    let mut out = BufWriter::new(stdout.lock());
    if pretty {
        serde_json::to_writer_pretty(&mut out, value).map_err(io::Error::from)?;
    } else {
        serde_json::to_writer(&mut out, value).map_err(io::Error::from)?;
    }
    writeln!(out)?;
    out.flush()?;
    Ok(())
}

/// Says something on standard error, within the width of its terminal. A message of
/// several lines, such as the mistakes of a policy, stays as it is.
pub(super) fn say(text: &str) {
    let width = match io::stderr().is_terminal() && !text.contains('\n') {
        true => crossterm::terminal::size().ok().map(|(width, _)| width),
        false => None,
    };
    let text = format!("shaper: {text}");
    let lines = wrapped(&text, width, 0);
    // Nobody is left to tell when this fails.
    let _ = writeln!(io::stderr(), "{}", lines.join("\n"));
}

/// 0, or 1 with the reason on standard error. A reader that has enough, as
/// `head` does, is no failure.
pub(super) fn exit(result: Result<ExitCode>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(error) => {
            let enough = error
                .downcast_ref::<io::Error>()
                .is_some_and(|error| error.kind() == ErrorKind::BrokenPipe);
            if enough {
                return ExitCode::SUCCESS;
            }
            say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}
