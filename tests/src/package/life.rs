//! Installing, using, upgrading, removing and purging.

use super::container::{Boot, Container};
use super::{Options, readme};
use crate::lab::{INTERFACE, Lab, LabSpec, PROXY_V4, client_v4};
use crate::leftovers::{self, Owned};
use crate::traffic::tcp::{Role, Server, Transfer, connect};
use anyhow::{Context, Result, bail, ensure};
use shaper_user::model::{Client, Clients};
use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The client whose limit the README sets, and what to.
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));
const LIMIT_BPS: f64 = 2e6;
/// A port that a policy watches which names none.
const PORT: u16 = 443;
/// From the payload of a full segment to its IP packet.
const IP_OVERHEAD: f64 = 1500.0 / 1448.0;
/// Nothing limits a flow that is faster.
const FREE_BPS: f64 = 20e6;
const MEASURED: Duration = Duration::from_secs(4);
/// Where the README has the package.
const DIST: &str = "/root/target/dist";
/// As on a terminal where the user is root already.
const SUDO: &str = "sudo() { \"$@\"; }; ";

/// A clean Debian at the far end of a path of 20 ms, and something that listens.
pub(super) struct Scene {
    // The socket first, then the machine, then its network.
    server: Server,
    container: Container,
    lab: Lab,
}

impl Scene {
    pub(super) fn new(base: &Path, boot: Boot) -> Result<Self> {
        let lab = Lab::new(LabSpec::default())?;
        lab.client
            .ip(&format!("addr add {CLIENT}/32 dev {INTERFACE}"))?;
        let gateway = client_v4(0);
        lab.proxy.ip(&format!("route add default via {gateway}"))?;
        let started = Instant::now();
        let container = Container::boot(base, &lab, boot)?;
        println!("  booted in {:.1} s", started.elapsed().as_secs_f32());
        let server = Server::start(&lab.proxy, PORT, Role::Sink, "cubic")?;
        Ok(Self {
            server,
            container,
            lab,
        })
    }

    /// What it logged of shaper.
    pub(super) fn journal(&self) -> String {
        let journal = "journalctl --no-pager -n 30 -u shaper";
        self.container
            .run(journal)
            .map_or_else(|error| error.to_string(), |answer| answer.stdout)
    }

    /// Puts a package where the README has it, in the place of any other.
    fn copy(&self, package: &Path) -> Result<String> {
        let directory = self.container.path(DIST);
        if directory.exists() {
            fs::remove_dir_all(&directory)?;
        }
        fs::create_dir_all(&directory)?;
        let name = package.file_name().context("no file")?;
        fs::copy(package, directory.join(name))?;
        Ok(format!("{DIST}/{}", name.display()))
    }

    fn install(&self, package: &Path) -> Result<String> {
        let file = self.copy(package)?;
        self.container.ok(&format!("apt-get install -y {file}"))
    }

    /// An upload without end.
    fn upload(&self) -> Result<Upload<'_>> {
        let to = SocketAddr::new(PROXY_V4, PORT);
        let timeout = Duration::from_secs(5);
        let stream = connect(&self.lab.client, CLIENT, to, "cubic", timeout)?;
        Ok(Upload {
            scene: self,
            transfer: Transfer::send(stream, None)?,
        })
    }

    /// The daemon, as seen from here.
    fn daemon(&self) -> Result<u32> {
        let daemons = self.container.processes("shaper");
        match daemons[..] {
            [daemon] => Ok(daemon),
            _ => bail!("{} daemons run", daemons.len()),
        }
    }

    fn client(&self) -> Result<Client> {
        let text = self.container.ok("shaper clients --json")?;
        let clients: Clients = serde_json::from_str(&text)?;
        let found = clients
            .clients
            .into_iter()
            .find(|client| client.client == CLIENT.to_string());
        found.with_context(|| format!("no {CLIENT} in {text}"))
    }

    /// Waits until the daemon shows the client.
    fn seen(&self) -> Result<Client> {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            match self.client() {
                Ok(client) if client.connections > 0 => return Ok(client),
                Ok(_) | Err(_) if Instant::now() < deadline => sleep(Duration::from_millis(200)),
                other => return other,
            }
        }
    }

    /// Every file but those that apt and dpkg write for any package.
    fn files(&self) -> Result<BTreeSet<String>> {
        let list = self.container.ok(
            "find / -xdev \\( -path /root/target -o -path /var/log -o -path /var/cache \
             -o -path /var/lib/apt -o -path /var/lib/dpkg -o -path /var/lib/systemd/timers \
             -o -path '/tmp/*' -o -path '/var/tmp/*' \\) -prune -o -print",
        )?;
        let mut files: BTreeSet<String> = list.lines().map(str::to_owned).collect();
        // Mounts of their own.
        for directory in ["/run/shaper", "/sys/fs/bpf"] {
            files.extend(
                leftovers::files(&self.container.path(directory))
                    .into_iter()
                    .map(|file| file.display().to_string()),
            );
        }
        Ok(files)
    }

    /// Fails when there is something that was not there before.
    fn nothing_left(&self, before: &BTreeSet<String>, owned: &Owned) -> Result<()> {
        let left = owned.remaining();
        ensure!(left.is_empty(), "left in the kernel: {left:?}");
        let files = self.files()?;
        let left: Vec<_> = files.difference(before).collect();
        ensure!(left.is_empty(), "left behind: {left:?}");
        let gone: Vec<_> = before.difference(&files).collect();
        ensure!(gone.is_empty(), "taken away: {gone:?}");
        ensure!(
            self.container.processes("shaper").is_empty(),
            "a daemon runs on"
        );
        Ok(())
    }
}

struct Upload<'a> {
    scene: &'a Scene,
    transfer: Transfer,
}

impl Upload<'_> {
    /// The rate at which it arrives, from the IP header on.
    fn rate(&self, from: Instant) -> Result<f64> {
        let arrived = self.scene.server.accepted(self.transfer.stream())?;
        Ok(arrived.rate_bps(from, Instant::now()) * IP_OVERHEAD)
    }

    fn rate_over(&self, time: Duration) -> Result<f64> {
        let from = Instant::now();
        sleep(time);
        self.rate(from)
    }

    /// Fails unless it is as fast as the path, in one of ten seconds.
    fn is_free(&self) -> Result<()> {
        let mut rate = 0.0;
        for _ in 0..10 {
            rate = self.rate_over(Duration::from_secs(1))?;
            if rate > FREE_BPS {
                return Ok(());
            }
        }
        bail!("held at {:.2} Mbit/s without a limit", rate / 1e6)
    }
}

fn is_held(what: &str, rate: f64) -> Result<()> {
    println!("  {what}: {:.2} Mbit/s", rate / 1e6);
    ensure!(
        (0.85..1.05).contains(&(rate / LIMIT_BPS)),
        "{what}: {:.2} Mbit/s, where the limit is {:.2}",
        rate / 1e6,
        LIMIT_BPS / 1e6
    );
    Ok(())
}

/// The README's commands, and what they promise.
pub(super) fn first_limit(scene: &Scene, options: &Options) -> Result<()> {
    let commands = readme::commands(&fs::read_to_string(&options.readme)?)?;
    scene.copy(&options.package)?;
    let upload = scene.upload()?;
    upload.is_free().context("before anything is installed")?;
    let started = Instant::now();
    for line in &commands {
        let before = Instant::now();
        // As a shell reads it where somebody types it.
        let answer = scene.container.run(&format!("{SUDO}{line}"))?;
        println!("  {:5.1} s  {line}", before.elapsed().as_secs_f32());
        ensure!(
            answer.code == 0,
            "`{line}`: {}{}",
            answer.stdout,
            answer.stderr
        );
    }
    println!(
        "  from a clean Debian to a first limit: {:.1} s, {} commands",
        started.elapsed().as_secs_f32(),
        commands.len()
    );
    let client = scene.seen()?;
    ensure!(
        client.upload.limit_bps == Some(LIMIT_BPS as u64),
        "the limit is {:?}",
        client.upload.limit_bps
    );
    // The bucket's burst, and what was under way.
    sleep(Duration::from_secs(2));
    is_held("the client's upload", upload.rate_over(MEASURED)?)?;
    scene.container.ok("systemctl is-enabled shaper")?;
    used_as_documented(scene)
}

/// What else the package brings.
fn used_as_documented(scene: &Scene) -> Result<()> {
    let container = &scene.container;
    container.ok("shaper check /etc/shaper/policy.toml")?;
    container.ok("bash -n /usr/share/bash-completion/completions/shaper")?;
    for file in [
        "/usr/share/man/man8/shaper.8.gz",
        "/usr/share/man/man8/shaper-limit.8.gz",
        "/usr/share/zsh/vendor-completions/_shaper",
        "/usr/share/fish/vendor_completions.d/shaper.fish",
        "/usr/share/doc/shaper/changelog.gz",
        "/usr/share/doc/shaper/copyright",
    ] {
        container.ok(&format!("test -s {file}"))?;
    }
    // The program is where the unit starts it, and of root alone to write.
    container.ok("test \"$(stat -c '%U %a' /usr/bin/shaper)\" = 'root 755'")?;
    Ok(())
}

/// Upgrade, remove, install again, purge.
pub(super) fn whole_life(scene: &Scene, options: &Options) -> Result<()> {
    let container = &scene.container;
    let before = scene.files()?;
    scene.install(&options.package)?;
    let upload = scene.upload()?;
    scene.seen().context("installing started no daemon")?;
    upload.is_free().context("as installed it only observes")?;
    container.ok(
        "sed -i 's/^mode = .*/mode = \"enforce\"/; s/^on_exit = .*/on_exit = \"detach\"/' \
         /etc/shaper/policy.toml && systemctl reload shaper",
    )?;
    let policy = fs::read_to_string(container.path("/etc/shaper/policy.toml"))?;
    ensure!(policy.contains("\non_exit = \"detach\""), "{policy}");
    container.ok(&format!("shaper limit {CLIENT} --upload 2mbit"))?;
    sleep(Duration::from_secs(2));
    is_held("before the upgrade", upload.rate_over(MEASURED)?)?;
    let user = "journalctl -u shaper SHAPER_EVENT=limit_set --output-fields=SHAPER_USER -o cat";
    ensure!(
        container.ok(user)?.trim() == "root",
        "the journal has no fields of the event: {}",
        container.ok("journalctl -u shaper -o json")?
    );
    let daemon = scene.daemon()?;
    let owned = Owned::by(daemon)?;

    let from = Instant::now();
    scene.install(&options.newer)?;
    println!("  upgraded in {:.1} s", from.elapsed().as_secs_f32());
    is_held("during the upgrade", upload.rate(from)?)?;
    ensure!(scene.daemon()? != daemon, "the daemon was not restarted");
    let kept = fs::read_to_string(container.path("/etc/shaper/policy.toml"))?;
    ensure!(kept == policy, "the upgrade changed the policy");
    let client = scene.seen()?;
    ensure!(client.upload.limit_bps == Some(LIMIT_BPS as u64));
    is_held("after the upgrade", upload.rate_over(MEASURED)?)?;
    let version = container.ok("dpkg-query -W -f '${Version}' shaper")?;
    ensure!(version.ends_with("+newer"), "{version}");
    let mut all = Owned::by(scene.daemon()?)?;
    ensure!(
        all.links == owned.links,
        "the links were made anew: {:?}, then {:?}",
        owned.links,
        all.links
    );
    // A stop that is no upgrade does what the policy says.
    container.ok("systemctl stop shaper")?;
    upload.is_free().context("after on_exit = \"detach\"")?;
    container.ok("systemctl start shaper")?;
    scene.seen()?;
    add(&mut all, owned);
    add(&mut all, Owned::by(scene.daemon()?)?);

    container.ok("apt-get remove -y shaper")?;
    let left = all.remaining();
    ensure!(left.is_empty(), "removing left in the kernel: {left:?}");
    upload.is_free().context("after removing")?;
    ensure!(
        fs::read_to_string(container.path("/etc/shaper/policy.toml"))? == policy,
        "removing took the policy"
    );

    scene.install(&options.package)?;
    scene.seen().context("installed again")?;
    add(&mut all, Owned::by(scene.daemon()?)?);
    // So that what a daemon keeps is there: usage and history.
    container.ok(
        "printf 'quota = { bytes = \"1TB\", per = \"day\", then = \"block\" }\\n' > /root/quota && \
         sed -i '/^\\[default\\]/r /root/quota' /etc/shaper/policy.toml && rm /root/quota && \
         systemctl restart shaper",
    )?;
    scene.seen().context("with a quota")?;
    container.ok("cd /var/lib/shaper && test -s usage.redb && test -s history.redb")?;
    add(&mut all, Owned::by(scene.daemon()?)?);
    container.ok("apt-get purge -y shaper")?;
    upload.is_free().context("after purging")?;
    container.ok("! systemctl cat shaper 2>&1")?;
    scene.nothing_left(&before, &all)
}

fn add(all: &mut Owned, owned: Owned) {
    all.programs.extend(owned.programs);
    all.maps.extend(owned.maps);
    all.links.extend(owned.links);
}

/// In a chroot, or a container that has no systemd.
pub(super) fn without_systemd(scene: &Scene, options: &Options) -> Result<()> {
    let container = &scene.container;
    let before = scene.files()?;
    scene.install(&options.package)?;
    ensure!(
        container.processes("shaper").is_empty(),
        "a daemon was started"
    );
    container.ok("test -L /etc/systemd/system/multi-user.target.wants/shaper.service")?;
    // By hand, and forgotten when the package goes.
    container.ok("setsid -f shaper run >/run/log 2>&1 </dev/null")?;
    let upload = scene.upload()?;
    scene.seen().context("the daemon started by hand")?;
    let owned = Owned::by(scene.daemon()?)?;
    ensure!(!owned.links.is_empty(), "nothing is attached");
    drop(upload);
    container.ok("rm /run/log; apt-get purge -y shaper")?;
    scene.nothing_left(&before, &owned)
}
