//! `detach`: the end of everything, with a daemon or without.

use super::output;
use crate::control::client::{Client, ClientError};
use crate::control::lock;
use crate::control::socket::remove_stale;
use crate::daemon::overrides_beside;
use crate::kernel::{ebpf, place, sys};
use crate::steps::{self, Step};
use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::ErrorKind;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long a daemon may take to stop.
const STOP_TIME: Duration = Duration::from_secs(10);
const STOP_POLL: Duration = Duration::from_millis(20);

pub(super) fn detach(socket: &Path) -> Result<ExitCode> {
    place::check_privileges()?;
    let mut done = Vec::new();
    if let Some(pid) = daemon(socket)? {
        stop(pid)?;
        done.push(format!("stopped the daemon, process {pid}"));
    }
    // A daemon of this network namespace may be on another socket.
    let mut sockets = vec![socket.to_owned()];
    if let Some(holder) = lock::holder(&lock::path(sys::netns_cookie()?))? {
        stop(Pid::from_raw(holder.pid))?;
        let (pid, socket) = (holder.pid, holder.socket.display());
        done.push(format!("stopped the daemon, process {pid}, on {socket}"));
        sockets.push(holder.socket);
    }
    done.extend(
        ebpf::detach()?
            .into_iter()
            .map(|what| format!("removed {what}")),
    );
    for socket in sockets {
        remove_stale(&socket)?;
        let overrides = overrides_beside(&socket);
        match std::fs::remove_file(&overrides) {
            Ok(()) => {
                steps::done(Step::OverridesGone);
                done.push("removed the limits and blocks set at runtime".to_owned());
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("cannot remove {}", overrides.display()));
            }
        }
    }
    if done.is_empty() {
        done.push("nothing was attached".to_owned());
    }
    output::print(|out| done.iter().try_for_each(|line| writeln!(out, "{line}")))?;
    Ok(ExitCode::SUCCESS)
}

/// The process of a running daemon.
fn daemon(socket: &Path) -> Result<Option<Pid>> {
    match output::runtime()?.block_on(Client::connect(socket)) {
        Ok(client) => match client.pid()? {
            Some(pid) => Ok(Some(Pid::from_raw(pid))),
            None => bail!("the daemon's process is not visible from here; stop it first"),
        },
        Err(ClientError::NotRunning(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Ends the daemon and waits until it is gone: while it lives it holds links.
fn stop(pid: Pid) -> Result<()> {
    kill(pid, Signal::SIGTERM).with_context(|| format!("cannot stop process {pid}"))?;
    let end = Instant::now() + STOP_TIME;
    // A daemon that nobody has waited for yet is still a process id.
    while kill(pid, None).is_ok() && !is_zombie(pid) {
        if Instant::now() > end {
            bail!("the daemon, process {pid}, has not stopped within {STOP_TIME:?}");
        }
        std::thread::sleep(STOP_POLL);
    }
    Ok(())
}

fn is_zombie(pid: Pid) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        stat.rsplit(')')
            .next()
            .is_some_and(|rest| rest.trim_start().starts_with('Z'))
    })
}
