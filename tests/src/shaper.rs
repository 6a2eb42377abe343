//! The daemon under test, in the proxy namespace, and its command line.

use crate::lab::{INTERFACE, Lab, PORT, SOURCE_PORT};
use crate::leftovers::{self, Owned};
use crate::process::{self, Background};
use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;
use nix::sys::signal::Signal;
use shaper_user::model::{Client, Clients, Flows, Servers, Status};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Long for an emulated machine, whose verifier takes most of a minute.
const READY: Duration = Duration::from_secs(120);

/// Mounts of its own: a fresh bpffs, and `/run` and `/var/lib` where the daemon
/// may keep state. So it meets no other daemon of this machine, and whatever
/// happens, its pins go with its last process.
const HOST: &str = "mount -t bpf bpf /sys/fs/bpf && mount -t tmpfs tmpfs /run && \
    mount -t tmpfs tmpfs /var/lib && mkdir /run/shaper && echo ready && exec sleep infinity";

/// Runs a copy of the binary ($1) on the socket ($2), seen through a bind mount
/// in a directory ($3) that everybody may enter, as user $4 and group $5.
const AS_USER: &str = r#"set -e
binary=$1 socket=$2 there=$3 user=$4 group=$5
shift 5
mkdir -p "$there"
chmod 755 "$there"
cp "$binary" "$there/shaper"
touch "$there/socket"
mount --bind "$socket" "$there/socket"
trap 'umount "$there/socket"' EXIT
setpriv --reuid="$user" --regid="$group" --clear-groups -- \
    "$there/shaper" --socket "$there/socket" "$@"
"#;

/// Where the binary is: `SHAPER_BIN`, or beside this program, as cargo puts it.
///
/// # Errors
/// When it was not built.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("SHAPER_BIN") {
        return Ok(path.into());
    }
    let own = std::env::current_exe()?;
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join("shaper"))
        .find(|path| path.is_file())
        .context("no `shaper` beside this program: `cargo build -p shaper-user`, or SHAPER_BIN")
}

/// The log of the last daemon that was dropped, for the report of a failure.
pub fn last_log() -> String {
    LAST_LOG
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone()
}

static LAST_LOG: Mutex<String> = Mutex::new(String::new());

/// What a command line answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The exit code; 128 and more for a signal.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Answer {
    /// Standard output of a command that must succeed.
    ///
    /// # Errors
    /// When it did not.
    pub fn ok(self) -> Result<String> {
        ensure!(self.code == 0, "exit code {}: {}", self.code, self.stderr);
        Ok(self.stdout)
    }
}

/// A host for the daemon: the proxy's network, mounts of its own. Limits that
/// outlive a daemon live here.
#[derive(Debug)]
pub struct Shaper {
    daemon: Option<Background>,
    /// Holds the mounts.
    host: Background,
    net: PathBuf,
    binary: PathBuf,
    socket: PathBuf,
    policy: PathBuf,
    log: PathBuf,
    /// `shaper-confined` and the units it reads, where the daemon runs so.
    confined: Option<(PathBuf, Vec<PathBuf>)>,
    owned: Owned,
}

impl Shaper {
    /// Prepares the host; nothing runs yet.
    ///
    /// # Errors
    /// When the binary is missing or mounts are refused.
    pub fn new(lab: &Lab) -> Result<Self> {
        let log = lab.directory().join("host.log");
        // Of a host before on the same lab, which would be taken for this one's.
        if log.exists() {
            std::fs::remove_file(&log)?;
        }
        let mut command = lab.proxy.command("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", HOST]);
        let mut host = Background::start("the host's mounts", command, &log)?;
        host.wait_ready(READY, || {
            std::fs::read_to_string(&log).is_ok_and(|text| text.contains("ready"))
        })?;
        Ok(Self {
            daemon: None,
            host,
            net: lab.proxy.path(),
            binary: binary()?,
            socket: lab.directory().join("shaper.sock"),
            policy: lab.directory().join("policy.toml"),
            log: lab.directory().join("shaper.log"),
            confined: None,
            owned: Owned::default(),
        })
    }

    /// As [`Shaper::new`], with a daemon under a policy.
    ///
    /// # Errors
    /// When it does not come up; with its log.
    pub fn start(lab: &Lab, policy: &str, arguments: &[&str]) -> Result<Self> {
        let mut shaper = Self::new(lab)?;
        shaper.write_policy(policy)?;
        shaper.run(arguments)?;
        Ok(shaper)
    }

    /// The policy file.
    #[must_use]
    pub fn policy(&self) -> &Path {
        &self.policy
    }

    /// The control socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Writes the policy file; the interface and the ports are always the lab's.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_policy(&self, policy: &str) -> Result<()> {
        self.write_policy_of(&[PORT, SOURCE_PORT], policy)
    }

    fn write_policy_of(&self, ports: &[u16], policy: &str) -> Result<()> {
        let text = format!("interfaces = [\"{INTERFACE}\"]\nports = {ports:?}\n{policy}");
        std::fs::write(&self.policy, text).map_err(Into::into)
    }

    /// Puts another policy in force, for other ports than the lab's.
    ///
    /// # Errors
    /// When the daemon refuses it.
    pub fn reload_ports(&self, ports: &[u16], policy: &str) -> Result<()> {
        self.write_policy_of(ports, policy)?;
        self.cli(&["reload"])?.ok().map(drop)
    }

    /// The host's files, as seen from outside.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        format!("/proc/{}/root", self.host.pid()).into()
    }

    /// A command on this host.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--mount=/proc/{}/ns/mnt", self.host.pid()))
            .arg(format!("--net={}", self.net.display()))
            .arg("--")
            .arg(program);
        command
    }

    /// A `shaper` command on this host, on this socket.
    #[must_use]
    pub fn shaper(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(&self.binary);
        command.arg("--socket").arg(&self.socket).args(arguments);
        command
    }

    /// From now on daemons run as the unit has it: `shaper-confined`, and the unit
    /// with its drop-ins.
    pub fn confine(&mut self, by: &Path, units: &[PathBuf]) {
        self.confined = Some((by.to_owned(), units.to_vec()));
    }

    /// The daemon's command.
    #[must_use]
    pub fn daemon(&self, arguments: &[&str]) -> Command {
        let mut command = match &self.confined {
            None => self.command(&self.binary),
            Some((by, units)) => {
                let mut command = self.command(by);
                for unit in units {
                    command.arg("--unit").arg(unit);
                }
                // Where the lab has its control socket.
                let directory = self.socket.parent().unwrap_or(Path::new("/"));
                command.arg("--writable").arg(directory).arg("--");
                command.arg(&self.binary);
                command
            }
        };
        command.arg("--socket").arg(&self.socket);
        command.args(["run", "--policy"]).arg(&self.policy);
        command.args(arguments);
        command
    }

    /// Runs the daemon's command, which is to fail, to its end.
    ///
    /// # Errors
    /// When it cannot be started, runs on or ends in another way.
    pub fn refused(&self, arguments: &[&str]) -> Result<Answer> {
        ended(&self.daemon(arguments))
    }

    /// The same on another socket.
    ///
    /// # Errors
    /// As [`Shaper::refused`].
    pub fn refused_on(&self, socket: &Path) -> Result<Answer> {
        let mut command = self.command(&self.binary);
        command.arg("--socket").arg(socket);
        command.args(["run", "--policy"]).arg(&self.policy);
        ended(&command)
    }

    /// Starts the daemon and waits until it answers.
    ///
    /// # Errors
    /// When it ends or does not answer in time; with its log.
    pub fn run(&mut self, arguments: &[&str]) -> Result<()> {
        let command = self.daemon(arguments);
        self.run_command(command)
    }

    /// The same by a command that runs the daemon.
    ///
    /// # Errors
    /// As [`Shaper::run`].
    pub fn run_command(&mut self, command: Command) -> Result<()> {
        let mut daemon = Background::start("shaper run", command, &self.log)?;
        daemon.wait_ready(READY, || self.status().is_ok())?;
        let owned = Owned::by(daemon.pid())?;
        self.own(owned);
        self.daemon = Some(daemon);
        Ok(())
    }

    /// Remembers kernel objects of this host's daemons, for [`Shaper::detach`].
    pub fn own(&mut self, owned: Owned) {
        self.owned.programs.extend(owned.programs);
        self.owned.maps.extend(owned.maps);
        self.owned.links.extend(owned.links);
    }

    /// The daemon's process, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Background::pid)
    }

    /// Whether the daemon that was started has not ended.
    pub fn is_running(&mut self) -> bool {
        self.daemon.as_mut().is_some_and(Background::is_running)
    }

    /// What the daemon has written so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Ends the daemon by a signal and waits.
    ///
    /// # Errors
    /// When it does not end within ten seconds.
    pub fn stop(&mut self, signal: Signal) -> Result<ExitStatus> {
        let mut daemon = self.daemon.take().context("no daemon runs")?;
        daemon.signal(signal)?;
        daemon.wait(Duration::from_secs(10))
    }

    /// Waits for a daemon that something else stops.
    ///
    /// # Errors
    /// When it does not end within ten seconds.
    pub fn wait_stopped(&mut self) -> Result<ExitStatus> {
        let mut daemon = self.daemon.take().context("no daemon runs")?;
        daemon.wait(Duration::from_secs(10))
    }

    /// Sends the running daemon a signal.
    ///
    /// # Errors
    /// When none runs.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.daemon
            .as_ref()
            .context("no daemon runs")?
            .signal(signal)
    }

    /// Runs a `shaper` command to its end.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn cli(&self, arguments: &[&str]) -> Result<Answer> {
        run_to_end(self.shaper(arguments))
    }

    /// The same as another user, without any right.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn cli_as(&self, user: u32, group: u32, arguments: &[&str]) -> Result<Answer> {
        // Both may be out of another user's reach: the binary below a home
        // directory, the socket below the lab's private one.
        let directory = "/run/shaper-as";
        let mut command = self.command(Path::new("sh"));
        command
            .args(["-c", AS_USER, "sh"])
            .args([&self.binary, &self.socket])
            .arg(directory)
            .args([user.to_string(), group.to_string()])
            .args(arguments);
        run_to_end(command)
    }

    /// Puts another policy in force.
    ///
    /// # Errors
    /// When the daemon refuses it.
    pub fn reload(&self, policy: &str) -> Result<()> {
        self.write_policy(policy)?;
        self.cli(&["reload"])?.ok().map(drop)
    }

    /// `shaper status --json`.
    ///
    /// # Errors
    /// When it fails or answers something else.
    pub fn status(&self) -> Result<Status> {
        let text = self.cli(&["status", "--json"])?.ok()?;
        serde_json::from_str(&text).with_context(|| format!("status: {text}"))
    }

    /// `shaper flows --json`.
    ///
    /// # Errors
    /// When it fails or answers something else.
    pub fn flows(&self) -> Result<Flows> {
        let text = self.cli(&["flows", "--json"])?.ok()?;
        serde_json::from_str(&text).with_context(|| format!("flows: {text}"))
    }

    /// `shaper clients --json`.
    ///
    /// # Errors
    /// When it fails or answers something else.
    pub fn clients(&self) -> Result<Clients> {
        let text = self.cli(&["clients", "--json"])?.ok()?;
        serde_json::from_str(&text).with_context(|| format!("clients: {text}"))
    }

    /// `shaper servers --json`.
    ///
    /// # Errors
    /// When it fails or answers something else.
    pub fn servers(&self) -> Result<Servers> {
        let text = self.cli(&["servers", "--json"])?.ok()?;
        serde_json::from_str(&text).with_context(|| format!("servers: {text}"))
    }

    /// The next sample of the clients that the daemon takes from now on.
    ///
    /// # Errors
    /// When none comes within five seconds.
    pub fn fresh_clients(&self) -> Result<Clients> {
        let from = Timestamp::now();
        self.wait_for("a sample", || {
            Ok(Some(self.clients()?).filter(|clients| clients.at > from))
        })
    }

    /// The next sample of the flows that the daemon takes from now on.
    ///
    /// # Errors
    /// When none comes within five seconds.
    pub fn fresh_flows(&self) -> Result<Flows> {
        let from = Timestamp::now();
        self.wait_for("a sample", || {
            Ok(Some(self.flows()?).filter(|flows| flows.at > from))
        })
    }

    /// The next sample's row of one client, by its address or CIDR.
    ///
    /// # Errors
    /// When it is not there.
    pub fn client(&self, client: IpAddr) -> Result<Client> {
        let clients = self.fresh_clients()?.clients;
        row(&clients, client)
            .cloned()
            .with_context(|| format!("no client {client} in {clients:?}"))
    }

    /// Asks until there is an answer, for five seconds.
    ///
    /// # Errors
    /// When there is none, or asking fails.
    pub fn wait_for<T>(&self, what: &str, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            if let Some(answer) = ask()? {
                return Ok(answer);
            }
            if Instant::now() > deadline {
                bail!("{what} did not come within five seconds");
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// A pin of this host's bpffs, by its name.
    ///
    /// # Errors
    /// When there is none.
    pub fn pin(&self, name: &str) -> Result<PathBuf> {
        self.pins()
            .into_iter()
            .find(|pin| pin.file_name().is_some_and(|file| file == name))
            .with_context(|| format!("{name} is not pinned"))
    }

    /// This host's bpffs, as seen from here.
    #[must_use]
    pub fn bpffs(&self) -> PathBuf {
        format!("/proc/{}/root/sys/fs/bpf", self.host.pid()).into()
    }

    /// Files in this host's bpffs.
    #[must_use]
    pub fn pins(&self) -> Vec<PathBuf> {
        let mut pins = leftovers::files(&self.bpffs());
        // The kernel's own, there from the mount on.
        pins.retain(|pin| pin.extension().is_none_or(|end| end != "debug"));
        pins
    }

    /// Files below a directory, as this host sees it.
    #[must_use]
    pub fn files(&self, directory: &str) -> Vec<String> {
        let root = format!("/proc/{}/root{directory}", self.host.pid());
        let files = leftovers::files(Path::new(&root));
        files
            .iter()
            .map(|path| path.display().to_string())
            .collect()
    }

    /// `shaper detach`, then what is still there of all that daemons of this
    /// host ever had.
    ///
    /// # Errors
    /// When detach fails.
    pub fn detach(&mut self) -> Result<Vec<String>> {
        self.cli(&["detach"])?.ok()?;
        if self.daemon.is_some() {
            self.wait_stopped()?;
        }
        let mut remaining = self.owned.remaining();
        remaining.extend(
            self.pins()
                .iter()
                .map(|pin| format!("pin {}", pin.display())),
        );
        let mut qdiscs = self.command(Path::new("tc"));
        qdiscs.args(["qdisc", "show", "dev", INTERFACE]);
        if run_to_end(qdiscs)?.ok()?.contains("clsact") {
            remaining.push(format!("clsact qdisc on {INTERFACE}"));
        }
        Ok(remaining)
    }

    /// The kernel objects that daemons of this host had.
    #[must_use]
    pub fn owned(&self) -> &Owned {
        &self.owned
    }
}

impl Drop for Shaper {
    fn drop(&mut self) {
        *LAST_LOG.lock().unwrap_or_else(PoisonError::into_inner) = self.log();
    }
}

/// A client's row, by its address, whether aggregated or not.
#[must_use]
pub fn row(clients: &[Client], address: IpAddr) -> Option<&Client> {
    clients.iter().find(|row| {
        row.client.parse() == Ok(address)
            || row
                .client
                .parse::<ipnet::IpNet>()
                .is_ok_and(|prefix| prefix.contains(&address))
    })
}

/// A daemon that is to end by itself, because it refuses.
fn ended(daemon: &Command) -> Result<Answer> {
    let mut command = Command::new("timeout");
    command.arg("10").arg(daemon.get_program());
    command.args(daemon.get_args());
    let answer = run_to_end(command)?;
    ensure!(answer.code == 1, "not refused: {answer:?}");
    Ok(answer)
}

/// Runs a command to its end, whatever that is.
///
/// # Errors
/// When it cannot be started.
pub fn run_to_end(mut command: Command) -> Result<Answer> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let output = process::spawn(command)?.wait_with_output()?;
    Ok(Answer {
        code: output.status.code().unwrap_or(128),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
