//! One run of a virtual machine, its console line by line.

use super::initramfs::FIRST_LINE;
use anyhow::{Context, Result};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// Until init's first line: 3 to 6 seconds are usual.
const BOOT: Duration = Duration::from_secs(180);
/// Says that it still waits when the machine was silent for so long.
const SILENT: Duration = Duration::from_secs(30);
/// A kernel crashes at boot now and then in an emulated machine (6.12 one time
/// in five), before anything of ours runs.
const ATTEMPTS: usize = 6;

/// What came of a run.
pub struct Run {
    /// The console.
    pub lines: Vec<String>,
    /// Why it was ended, where it did not end itself.
    pub ended: Option<String>,
}

impl Run {
    fn has_begun(&self) -> bool {
        self.lines.iter().any(|line| line.contains(FIRST_LINE))
    }
}

/// Boots until init has printed its first line, then lets it run to its end, or
/// for `most`. `see` is given each line, and how long the machine has run.
pub fn boot(
    image: &Path,
    initramfs: &Path,
    most: Duration,
    mut see: impl FnMut(&str, Duration),
) -> Result<Run> {
    let mut attempt = 1;
    loop {
        let run = run(image, initramfs, most, &mut see)?;
        if run.has_begun() || attempt == ATTEMPTS {
            return Ok(run);
        }
        println!("vm-test: it did not get to its init, attempt {attempt} of {ATTEMPTS}");
        attempt += 1;
    }
}

/// Killed when it is dropped.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(
    image: &Path,
    initramfs: &Path,
    most: Duration,
    see: &mut impl FnMut(&str, Duration),
) -> Result<Run> {
    let mut machine = Machine(
        command(image, initramfs)
            .spawn()
            .context("qemu-system-x86_64")?,
    );
    let console = machine.0.stdout.take().context("no console")?;
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let started = Instant::now();
    let mut run = Run {
        lines: Vec::new(),
        ended: None,
    };
    let mut has_begun = false;
    loop {
        let patience = if has_begun { most } else { BOOT };
        let ran = started.elapsed();
        if ran >= patience {
            run.ended = Some(format!("stopped after {ran:.0?}"));
            return Ok(run);
        }
        match receiver.recv_timeout(SILENT.min(patience - ran)) {
            Ok(line) => {
                see(&line, started.elapsed());
                has_begun = has_begun || line.contains(FIRST_LINE);
                run.lines.push(line);
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(run),
            Err(RecvTimeoutError::Timeout) => println!(
                "[{:4.0?}] still running, {patience:.0?} at most",
                started.elapsed()
            ),
        }
    }
}

fn command(image: &Path, initramfs: &Path) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-accel", "tcg,thread=multi", "-cpu", "max"])
        .args(["-smp", "2", "-m", "1G"])
        .args(["-nodefaults", "-no-user-config", "-no-reboot"])
        .args(["-display", "none", "-serial", "stdio"])
        .arg("-kernel")
        .arg(image)
        .arg("-initrd")
        .arg(initramfs)
        // A kernel that panics ends the machine.
        .args(["-append", "console=ttyS0 loglevel=4 panic=-1"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command
}
