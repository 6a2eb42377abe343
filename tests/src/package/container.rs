//! Namespaces with a copy of the clean Debian, in the lab's proxy network.

use crate::lab::Lab;
use crate::netns::next_number;
use crate::process::Background;
use crate::shaper::{Answer, run_to_end};
use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use shaper_user::kernel::place;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What is process 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Boot {
    /// systemd.
    Systemd,
    /// Nothing that would start a service: as in a chroot or a plain container.
    Nothing,
}

const BOOTED: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Mounts a copy-on-write copy of $1 below $2, as a machine has it when it boots,
/// and becomes what follows in it.
const BOOT: &str = r#"set -e
base=$1 own=$2
shift 2
mount --make-rprivate /
mkdir -p "$own"
mount -t tmpfs tmpfs "$own"
mkdir "$own/upper" "$own/work" "$own/root"
root=$own/root
mount -t overlay overlay "$root" \
    -o "lowerdir=$base,upperdir=$own/upper,workdir=$own/work"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t bpf bpf "$root/sys/fs/bpf"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for node in null zero full random urandom tty; do
    : > "$root/dev/$node"
    mount --bind "/dev/$node" "$root/dev/$node"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
cd "$root"
pivot_root . mnt
umount -l /mnt
exec "$@"
"#;

/// A running Debian; dropping it ends everything in it.
#[derive(Debug)]
pub(super) struct Container {
    _outside: Background,
    /// Its process 1, as seen from here.
    init: u32,
    // Emptied after the processes are gone.
    _cgroup: Cgroup,
}

impl Container {
    /// Boots a copy of `base`. From then on this process is in its cgroup: what it
    /// listens on is a socket of that machine.
    pub(super) fn boot(base: &Path, lab: &Lab, boot: Boot) -> Result<Self> {
        let cgroup = Cgroup::enter()?;
        let log = lab.directory().join("container.log");
        let mut command = lab.proxy.command("sh");
        command
            .args(["-c", r#"echo $$ > "$0" && exec "$@""#])
            .arg(cgroup.directory.join("cgroup.procs"))
            .args(["unshare", "--mount", "--pid", "--cgroup", "--uts", "--ipc"])
            .args(["--fork", "--kill-child", "sh", "-c", BOOT, "boot"])
            .arg(base)
            .arg(lab.directory().join("container"))
            .args(["env", "-i", "container=shaper-test", PATH, "TERM=dumb"]);
        match boot {
            Boot::Systemd => command.arg("/lib/systemd/systemd"),
            // Reaps what ends, as a process 1 must.
            Boot::Nothing => command.args(["bash", "-c", "while :; do sleep 1; done"]),
        };
        let mut outside = Background::start("the container", command, &log)?;
        let pid = outside.pid();
        let mut init = None;
        outside.wait_ready(BOOTED, || {
            init = child_of(pid).filter(|init| is_booted(*init, boot));
            init.is_some()
        })?;
        let container = Self {
            _outside: outside,
            init: init.context("no process 1")?,
            _cgroup: cgroup,
        };
        if boot == Boot::Systemd {
            let deadline = Instant::now() + BOOTED;
            loop {
                let state = container.run("systemctl is-system-running")?.stdout;
                match state.trim() {
                    "running" | "degraded" => break,
                    state if Instant::now() > deadline => bail!("systemd is {state}"),
                    _ => sleep(POLL),
                }
            }
        }
        Ok(container)
    }

    /// A shell command inside, as root types it.
    pub(super) fn command(&self, line: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.init.to_string()])
            .args(["--mount", "--pid", "--cgroup", "--uts", "--ipc", "--net"])
            .args(["--", "env", "-i", PATH, "HOME=/root", "LANG=C.UTF-8"])
            .args(["DEBIAN_FRONTEND=noninteractive", "timeout", "120"])
            .args(["bash", "-c", &format!("cd /root\n{line}")]);
        command
    }

    /// The same, run to its end.
    ///
    /// # Errors
    /// When it cannot be started; not when it fails.
    pub(super) fn run(&self, line: &str) -> Result<Answer> {
        run_to_end(self.command(line))
    }

    /// The same, of a command that must succeed: what it prints.
    ///
    /// # Errors
    /// When it fails.
    pub(super) fn ok(&self, line: &str) -> Result<String> {
        let answer = self.run(line)?;
        let said = format!("`{line}`: {}", answer.stdout);
        answer.ok().context(said)
    }

    /// A file of it, as seen from here.
    pub(super) fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.init))
    }

    /// Its processes of that name, as seen from here.
    pub(super) fn processes(&self, name: &str) -> Vec<u32> {
        let space = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let own = space(self.init);
        fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|pid| comm(*pid).as_deref() == Some(name) && space(*pid) == own)
            .collect()
    }
}

fn comm(pid: u32) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(text.trim_end().to_owned())
}

fn child_of(pid: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

fn is_booted(init: u32, boot: Boot) -> bool {
    let name = match boot {
        Boot::Systemd => "systemd",
        Boot::Nothing => "bash",
    };
    comm(init).as_deref() == Some(name)
}

/// A cgroup that is the root of the container's own hierarchy, with this process in
/// a leaf of it.
#[derive(Debug)]
struct Cgroup {
    directory: PathBuf,
    /// Where this process was.
    before: PathBuf,
}

const CGROUP: &str = "shaper-package-";

impl Cgroup {
    fn enter() -> Result<Self> {
        let root = place::cgroup2()?;
        sweep(&root);
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::/"));
        let directory = root.join(format!("{CGROUP}{}-{}", std::process::id(), next_number()));
        let cgroup = Self {
            before: root.join(own.context("no cgroup v2")?),
            directory,
        };
        let leaf = cgroup.directory.join("test");
        fs::create_dir_all(&leaf).with_context(|| format!("cannot make {}", leaf.display()))?;
        enter(&leaf)?;
        Ok(cgroup)
    }
}

fn enter(cgroup: &Path) -> Result<()> {
    fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string())
        .with_context(|| format!("cannot enter {}", cgroup.display()))
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Nothing can be done about what fails: the next run sweeps.
        let _ = enter(&self.before);
        remove(&self.directory);
    }
}

/// Ends what is in a cgroup and removes it with those below it.
fn remove(cgroup: &Path) {
    let _ = fs::write(cgroup.join("cgroup.kill"), "1");
    let deadline = Instant::now() + Duration::from_secs(5);
    while !remove_tree(cgroup) && Instant::now() < deadline {
        sleep(POLL);
    }
}

fn remove_tree(cgroup: &Path) -> bool {
    for below in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if below.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&below.path());
        }
    }
    fs::remove_dir(cgroup).is_ok() || !cgroup.exists()
}

/// Removes what killed runs left.
fn sweep(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let pid = entry
            .file_name()
            .to_str()
            .and_then(|name| name.strip_prefix(CGROUP)?.split('-').next()?.parse().ok());
        if pid.is_some_and(|pid: i32| kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH)) {
            remove(&entry.path());
        }
    }
}
