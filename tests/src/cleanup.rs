//! Removal on Ctrl-C, and of what a killed run left.

use crate::netns;
use anyhow::Result;
use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Mutex, Once, PoisonError};
use std::{fs, process, thread};

static DIRECTORIES: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Sees to it that SIGINT, SIGTERM and SIGHUP remove the labs of this process
/// before it ends, and removes what killed processes left. Once a process.
///
/// # Errors
/// When signals cannot be caught.
pub fn install() -> Result<()> {
    static ONCE: Once = Once::new();
    let mut result = Ok(());
    ONCE.call_once(|| {
        sweep();
        result = Signals::new([SIGINT, SIGTERM, SIGHUP])
            .map_err(Into::into)
            .map(|mut signals| {
                thread::spawn(move || {
                    if let Some(signal) = signals.forever().next() {
                        remove_all();
                        // The terminal, when a dashboard had it.
                        let _ = std::io::stdout().write_all(b"\r\n");
                        process::exit(128 + signal);
                    }
                });
            });
    });
    result
}

/// Has a directory removed when a signal ends the process.
pub(crate) fn remember_directory(path: PathBuf) {
    DIRECTORIES
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(path);
}

/// Ends this process's children, then removes its namespaces and directories.
fn remove_all() {
    let me = process::id();
    for pid in children_of(me) {
        let _ = kill(
            Pid::from_raw(pid.cast_signed()),
            nix::sys::signal::Signal::SIGKILL,
        );
    }
    for (name, pid) in netns::existing() {
        if pid == me {
            netns::remove(&name);
        }
    }
    for directory in DIRECTORIES
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .drain(..)
    {
        let _ = fs::remove_dir_all(directory);
    }
}

fn children_of(parent: u32) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{parent}/task")) else {
        return Vec::new();
    };
    tasks
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok())
        .flat_map(|list| {
            list.split_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .collect::<Vec<u32>>()
        })
        .collect()
}

/// What a lab's directory is called in front of its random part.
pub(crate) fn directory_prefix(pid: u32) -> String {
    format!("{}{pid}-lab-", netns::PREFIX)
}

/// Removes namespaces and directories whose process is gone. Its children died
/// with it.
fn sweep() {
    let gone = |pid: u32| kill(Pid::from_raw(pid.cast_signed()), None) == Err(Errno::ESRCH);
    for (name, pid) in netns::existing() {
        if gone(pid) {
            netns::remove(&name);
        }
    }
    for entry in fs::read_dir(std::env::temp_dir())
        .into_iter()
        .flatten()
        .flatten()
    {
        let pid = entry.file_name().to_str().and_then(|name| {
            let pid = name
                .strip_prefix(netns::PREFIX)?
                .split('-')
                .next()?
                .parse()
                .ok()?;
            name.starts_with(&directory_prefix(pid)).then_some(pid)
        });
        if pid.is_some_and(gone) {
            // Somebody else's temporary directory of that name stays.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
