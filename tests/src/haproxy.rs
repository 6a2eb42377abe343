//! A HAProxy of its own, in the lab's proxy namespace.

mod configuration;
mod installed;

pub use configuration::{Place, Spec};
pub use installed::{Installed, VARIABLE, choose, installed};

use crate::lab::Lab;
use crate::process::Background;
use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The port that backends listen on.
pub const BACKEND_PORT: u16 = 9000;
const READY: Duration = Duration::from_secs(10);

/// A running HAProxy; dropping it ends it. The system's service is another
/// process and is not touched.
#[derive(Debug)]
pub struct Haproxy {
    process: Background,
    socket: PathBuf,
    master: Option<PathBuf>,
}

impl Haproxy {
    /// Balances WebSockets on [`crate::lab::PORT`], IPv4 and IPv6, over the
    /// lab's backends.
    ///
    /// # Errors
    /// When haproxy is not installed or does not come up; with its log.
    pub fn start(lab: &Lab) -> Result<Self> {
        Self::start_with(lab, &Spec::default())
    }

    /// As [`Haproxy::start`], and something is special.
    ///
    /// # Errors
    /// When the program is missing or does not come up; with its log.
    pub fn start_with(lab: &Lab, spec: &Spec) -> Result<Self> {
        let configuration = lab.directory().join("haproxy.cfg");
        let socket = Self::socket_in(lab);
        fs::write(&configuration, spec.text(lab, &socket)?)?;
        let mut command = lab.proxy.command(&spec.program);
        let master = spec.master.then(|| lab.directory().join("master.sock"));
        match &master {
            Some(master) => command.args(["-W", "-S"]).arg(master),
            None => command.arg("-db"),
        };
        command.arg("-f").arg(&configuration);
        // One that was killed leaves it behind.
        let _ = fs::remove_file(&socket);
        let process = Background::start("haproxy", command, &lab.directory().join("haproxy.log"))?;
        let mut haproxy = Self {
            process,
            socket,
            master,
        };
        let socket = haproxy.socket.clone();
        haproxy
            .process
            .wait_ready(READY, || UnixStream::connect(&socket).is_ok())
            .context("haproxy (is it installed? `cargo xtask setup`)")?;
        Ok(haproxy)
    }

    /// Where the stats socket of a lab's HAProxy is.
    #[must_use]
    pub fn socket_in(lab: &Lab) -> PathBuf {
        lab.directory().join("haproxy.sock")
    }

    /// Its stats socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its master CLI socket, where it has a master.
    #[must_use]
    pub fn master(&self) -> Option<&Path> {
        self.master.as_deref()
    }

    /// The process; the master, where there is one.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The processes that hold connections, as the kernel knows them, in no
    /// order: the master's children, or the process itself.
    ///
    /// # Errors
    /// When it is gone.
    pub fn workers(&self) -> Result<Vec<u32>> {
        let pid = self.pid();
        if self.master.is_none() {
            return Ok(vec![pid]);
        }
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        children
            .split_whitespace()
            .map(|child| child.parse().map_err(Into::into))
            .collect()
    }

    /// What the stats socket answers to a command.
    ///
    /// # Errors
    /// When it does not, within five seconds.
    pub fn ask(&self, command: &str) -> Result<String> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        writeln!(stream, "{command}")?;
        stream.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// Has the master start a new worker, as `systemctl reload` does, and waits
    /// until that one accepts. Returns its process. The old one stays while a
    /// connection does.
    ///
    /// # Errors
    /// When there is no master, or no new worker within ten seconds.
    pub fn reload(&self) -> Result<u32> {
        self.master.as_ref().context("only a master reloads")?;
        let before = self.workers()?;
        self.process.signal(Signal::SIGUSR2)?;
        let deadline = Instant::now() + READY;
        loop {
            let info = self.ask("show info").unwrap_or_default();
            let answering = info.lines().find_map(|line| {
                let pid = line.strip_prefix("Pid: ")?;
                pid.trim().parse::<u32>().ok()
            });
            if let Some(pid) = answering.filter(|pid| !before.contains(pid)) {
                return Ok(pid);
            }
            if Instant::now() > deadline {
                bail!("no new worker within {READY:?}:\n{}", self.log());
            }
            sleep(Duration::from_millis(50));
        }
    }

    /// Kills it and its workers; what it had open is reset or closed.
    ///
    /// # Errors
    /// When it is gone, or stays.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.process.wait(READY).map(drop)
    }

    /// Sends a signal to the process and its workers.
    ///
    /// # Errors
    /// When they are gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        killpg(self.group(), signal).context("cannot signal haproxy")
    }

    /// What it has written so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// It started in a process group of its own.
    fn group(&self) -> Pid {
        Pid::from_raw(self.pid().cast_signed())
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        // The workers too, at once; it may have ended by itself.
        if self.process.is_running() {
            let _ = killpg(self.group(), Signal::SIGKILL);
        }
    }
}
