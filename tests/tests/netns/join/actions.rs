//! What is done to HAProxy's sessions.

use super::bed::{Bed, both_families, ensure_joined, wait};
use crate::tools::SECOND;
use anyhow::{Context, Result, ensure};
use shaper_tests::haproxy::Installed;
use shaper_tests::lab::PORT;
use shaper_tests::shaper::Shaper;
use shaper_tests::ws::Pinned;
use std::net::SocketAddr;
use std::path::Path;
use tokio::task::JoinHandle;

const ALLOWED: &str = "actions = [\"kill\", \"drain\"]\n";
const NOBODY: u32 = 65_534;

/// A command that must be refused with these words.
fn ensure_refused(shaper: &Shaper, arguments: &[&str], words: &[&str]) -> Result<()> {
    let answer = shaper.cli(arguments)?;
    ensure!(
        answer.code == 1 && words.iter().all(|word| answer.stderr.contains(word)),
        "{arguments:?}: {answer:?}"
    );
    Ok(())
}

/// The clients whose WebSocket has ended.
fn ended(open: &[&Pinned]) -> Vec<SocketAddr> {
    open.iter()
        .filter(|one| !one.is_open())
        .map(|one| one.client)
        .collect()
}

/// That one ends, on the old worker as on the new one, and no other.
pub fn kill(haproxy: &Installed) -> Result<()> {
    let bed = Bed::start(haproxy, |spec| {
        spec.master = true;
        spec.level = "operator";
    })?;
    let master = bed.haproxy.master().context("no master")?;
    let shaper = bed.shaper(&[master], ALLOWED)?;
    let first = bed
        .haproxy
        .workers()?
        .first()
        .copied()
        .context("no worker")?;
    let old = bed.open(&both_families(5, 1), PORT)?;
    let second = bed.haproxy.reload()?;
    let new = bed.open(&both_families(5, 1), PORT)?;
    let old_and_new = || {
        let old = old.iter().map(|one| (one, first));
        old.chain(new.iter().map(|one| (one, second)))
    };
    ensure_joined(&shaper, old_and_new())?;
    let all: Vec<&Pinned> = old.iter().chain(&new).collect();

    let (by_address, by_id) = (old[3].client, new[6].client);
    let name = by_address.to_string();
    let said = shaper.cli(&["kill", &name, "--dry-run"])?.ok()?;
    ensure!(
        said.contains(&format!("would close {name}")) && said.contains(&old[3].server),
        "{said}"
    );
    let denied = shaper.cli_as(NOBODY, NOBODY, &["kill", &name])?;
    ensure!(denied.code == 1, "{denied:?}");
    ensure!(ended(&all).is_empty(), "closed by a dry run or a stranger");

    let said = shaper.cli(&["kill", &name])?.ok()?;
    ensure!(said.contains(&format!("closed {name}")), "{said}");
    wait("its end", SECOND, || Ok(!ended(&all).is_empty()))?;
    let flows = shaper.flows()?.flows;
    let session = flows
        .iter()
        .find(|flow| (flow.client, flow.client_port) == (by_id.ip(), by_id.port()))
        .and_then(|flow| Some(flow.haproxy.as_ref()?.session.clone()))
        .context("no session")?;
    shaper.cli(&["kill", &session])?.ok()?;
    wait("its end", SECOND, || Ok(ended(&all).len() == 2))?;
    let gone = ended(&all);
    ensure!(gone == [by_address, by_id], "{gone:?} ended");
    // Once more: nobody else is meant.
    shaper.cli(&["kill", &session])?;
    shaper.cli(&["kill", &name])?;

    let other = new[7].client.to_string();
    // Only this socket is asked, which may not.
    let socket = bed.haproxy.socket();
    shaper.reload(&bed.policy(&[socket], ALLOWED))?;
    let answered = |path: &Path, least: u64| {
        wait("the socket's answer", 3 * SECOND, || {
            let rows = shaper.status()?.haproxy;
            let [row] = &rows[..] else {
                return Ok(false);
            };
            Ok(Path::new(&row.path) == path && row.sessions >= least)
        })
    };
    answered(socket, 9)?;
    let line = format!("stats socket {} level admin", socket.display());
    ensure_refused(&shaper, &["kill", &other], &[&line])?;
    shaper.reload(&bed.policy(&[master], ""))?;
    answered(master, 18)?;
    ensure_refused(&shaper, &["kill", &other], &["actions"])?;
    ensure!(ended(&all) == gone, "{:?} ended", ended(&all));
    Ok(())
}

/// A WebSocket that sends until it ends.
struct Sender {
    client: SocketAddr,
    server: String,
    task: JoinHandle<()>,
}

impl Sender {
    fn start(bed: &Bed, mut open: Pinned, length: usize) -> Self {
        let (client, server) = (open.client, open.server.clone());
        let task = bed.runtime.spawn(async move {
            while open.send(length).await.is_ok() {
                tokio::time::sleep(SECOND / 10).await;
            }
        });
        Self {
            client,
            server,
            task,
        }
    }
}

/// The heaviest of that server, and only when it is meant.
pub fn drain(haproxy: &Installed) -> Result<()> {
    let bed = Bed::start(haproxy, |_| ())?;
    let shaper = bed.shaper(&[bed.haproxy.socket()], ALLOWED)?;
    let open = bed.open(&both_families(20, 1), PORT)?;
    ensure_joined(&shaper, open.iter().map(|one| (one, bed.haproxy.pid())))?;
    // One sends 20 times what each other one does: two thirds of its server.
    let senders: Vec<Sender> = open
        .into_iter()
        .enumerate()
        .map(|(n, one)| Sender::start(&bed, one, if n == 0 { 40_000 } else { 2_000 }))
        .collect();
    let heavy = &senders[0];
    let ended = || -> Vec<SocketAddr> {
        let ended = senders.iter().filter(|sender| sender.task.is_finished());
        ended.map(|sender| sender.client).collect()
    };
    wait("the load", 5 * SECOND, || {
        let servers = shaper.servers()?.servers;
        Ok(servers.iter().any(|row| row.upload.rate_bps > 3_000_000))
    })?;
    let on_it = senders.iter().filter(|one| one.server == heavy.server);
    let command = ["drain", &heavy.server, "--share", "0.5", "--over", "1s"];
    let mut dry = command.to_vec();
    dry.push("--dry-run");
    let said = shaper.cli(&dry)?.ok()?;
    let words = format!("would close 1 of the {} sessions", on_it.count());
    ensure!(
        said.contains(&words) && said.contains(&heavy.client.to_string()),
        "{said}"
    );
    std::thread::sleep(SECOND + SECOND / 2);
    ensure!(ended().is_empty(), "closed by a dry run: {:?}", ended());
    shaper.cli(&command)?.ok()?;
    wait("the end of the heaviest", 3 * SECOND, || {
        Ok(!ended().is_empty())
    })?;
    std::thread::sleep(SECOND);
    ensure!(ended() == [heavy.client], "{:?} ended", ended());
    Ok(())
}
