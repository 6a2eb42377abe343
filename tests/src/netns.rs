//! One network namespace.

use crate::process;
use anyhow::{Context, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

/// What every namespace of a lab is called: `shp-<pid>-<number>-<label>`.
pub const PREFIX: &str = "shp-";

/// A network namespace, removed on drop.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    file: File,
}

/// What an interface counted, as `ip -s link` shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterfaceCounters {
    /// Bytes received, from the Ethernet header on.
    pub rx_bytes: u64,
    /// Packets received; an aggregate counts once.
    pub rx_packets: u64,
    /// Received and dropped.
    pub rx_dropped: u64,
    /// Bytes sent, from the Ethernet header on.
    pub tx_bytes: u64,
    /// Packets sent; an aggregate counts once.
    pub tx_packets: u64,
    /// Dropped instead of sent.
    pub tx_dropped: u64,
}

/// A number for a lab, unique in this process.
#[must_use]
pub fn next_number() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Namespace {
    /// Makes `shp-<pid>-<number>-<label>` with its loopback up.
    ///
    /// # Errors
    /// When `ip` is missing or refuses (not root).
    pub fn create(number: u32, label: &str) -> Result<Self> {
        let name = format!("{PREFIX}{}-{number}-{label}", std::process::id());
        let mut add = Command::new("ip");
        add.args(["netns", "add", &name]);
        process::output(add).context("cannot make a network namespace (is this root?)")?;
        let file = File::open(Self::path_of(&name)).inspect_err(|_| remove(&name))?;
        let namespace = Self { name, file };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    fn path_of(name: &str) -> PathBuf {
        PathBuf::from("/run/netns").join(name)
    }

    /// The file that names it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Self::path_of(&self.name)
    }

    /// Its name, as `ip netns` shows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `f` inside, on a thread of its own. A socket that `f` makes stays
    /// inside wherever it is used later.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or `f` fails or panics.
    pub fn enter<T: Send>(&self, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.join_thread()?;
                    f()
                })
                .join()
                .map_err(|_| anyhow!("panic inside {}", self.name))?
        })
    }

    /// Moves the calling thread into the namespace, for good.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn join_thread(&self) -> Result<()> {
        setns(&self.file, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("cannot enter {}", self.name))
    }

    /// A command that will run inside. `nsenter` keeps the mounts, which
    /// `ip netns exec` does not.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.path().display()))
            .arg("--")
            .arg(program);
        command
    }

    /// Runs lines of `ip` commands inside.
    ///
    /// # Errors
    /// When one fails.
    pub fn ip(&self, lines: &str) -> Result<()> {
        let mut command = Command::new("ip");
        command
            .args(["-n", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = process::spawn(command)?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(lines.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!(
                "ip in {}: {}\n{lines}",
                self.name,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(())
    }

    /// Writes a setting below `/proc/sys/net`, such as `ipv4/ip_forward`.
    ///
    /// # Errors
    /// When there is no such setting.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.enter(|| {
            fs::write(format!("/proc/sys/net/{key}"), value)
                .with_context(|| format!("cannot set net/{key}"))
        })
    }

    /// The counters of one interface.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn counters(&self, interface: &str) -> Result<InterfaceCounters> {
        let table =
            self.enter(|| fs::read_to_string("/proc/thread-self/net/dev").map_err(Into::into))?;
        let fields: Vec<u64> = table
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.trim() == interface)
            .with_context(|| format!("no interface {interface} in {}", self.name))?
            .1
            .split_whitespace()
            .filter_map(|field| field.parse().ok())
            .collect();
        match fields[..] {
            [
                rx_bytes,
                rx_packets,
                _,
                rx_dropped,
                _,
                _,
                _,
                _,
                tx_bytes,
                tx_packets,
                _,
                tx_dropped,
                ..,
            ] => Ok(InterfaceCounters {
                rx_bytes,
                rx_packets,
                rx_dropped,
                tx_bytes,
                tx_packets,
                tx_dropped,
            }),
            _ => bail!("/proc/net/dev has another form than expected"),
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Removes a namespace; it may be gone already.
pub(crate) fn remove(name: &str) {
    let _ = Command::new("ip")
        .args(["netns", "del", name])
        .stderr(Stdio::null())
        .status();
}

/// Names of all namespaces that labs made, with the process that made them.
#[must_use]
pub fn existing() -> Vec<(String, u32)> {
    let Ok(entries) = fs::read_dir("/run/netns") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| {
            let pid = name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()?;
            Some((name, pid))
        })
        .collect()
}
