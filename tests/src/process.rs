//! Children that never outlive this process, with their output in a file.

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

type Request = (Command, Sender<io::Result<Child>>);

/// Spawns a command that the kernel kills when this process ends, however it
/// ends.
///
/// # Errors
/// When the program cannot be started.
pub fn spawn(mut command: Command) -> Result<Child> {
    // The signal comes when the *thread* that spawned ends, so all children
    // come from one thread that never does.
    static SPAWNER: OnceLock<Mutex<Sender<Request>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, receiver) = channel::<Request>();
        thread::spawn(move || {
            for (mut command, answer) in receiver {
                // Nobody waiting means that nobody wants the child: dropping
                // the answer would leave it running, but `spawn` always waits.
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(sender)
    });
    let named = format!("{command:?}");
    // SAFETY: prctl is async-signal-safe and touches no memory of ours.
    unsafe {
        command
            .pre_exec(|| nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from));
    }
    let (answer, child) = channel();
    spawner
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .send((command, answer))
        .context("the spawning thread is gone")?;
    child
        .recv()
        .context("the spawning thread is gone")?
        .with_context(|| format!("cannot start {named}"))
}

/// Runs a command to its end and returns its output; a failure carries stderr.
///
/// # Errors
/// When it cannot be started or fails.
pub fn output(mut command: Command) -> Result<Output> {
    let named = format!("{command:?}");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let output = spawn(command)?.wait_with_output()?;
    if !output.status.success() {
        bail!(
            "{named}: {}: {}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr),
            String::from_utf8_lossy(&output.stdout)
        );
    }
    Ok(output)
}

/// A child in the background. Dropping it kills it.
#[derive(Debug)]
pub struct Background {
    child: Child,
    log: PathBuf,
    name: String,
}

impl Background {
    /// Starts a command in a process group of its own, so that Ctrl-C reaches
    /// only this process; stdout and stderr are appended to `log`.
    ///
    /// # Errors
    /// When the log cannot be opened or the program cannot be started.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot open {}", log.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0);
        Ok(Self {
            child: spawn(command)?,
            log: log.to_owned(),
            name: name.to_owned(),
        })
    }

    /// The process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until `ready` says so.
    ///
    /// # Errors
    /// When the child ends or the time is over first; with its log.
    pub fn wait_ready(&mut self, timeout: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
        let deadline = Instant::now() + timeout;
        while !ready() {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended early, {status}:\n{}", self.name, self.log());
            }
            if Instant::now() > deadline {
                bail!(
                    "{} was not ready after {timeout:?}:\n{}",
                    self.name,
                    self.log()
                );
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal)
            .with_context(|| format!("cannot signal {}", self.name))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When the time is over first.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("{} still runs after {timeout:?}", self.name);
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if self.is_running() {
            // It may end between the question and the signal.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
