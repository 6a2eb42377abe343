//! One case, once.

use super::{Args, Kind, Used};
use crate::bench::cpu;
use crate::bench::report::PAYLOAD;
use crate::bench::upload::Upload;
use crate::haproxy::{Haproxy, Installed, Spec};
use crate::lab::{INTERFACE, Lab, LabSpec, client_v4};
use crate::relay::PathSpec;
use crate::shaper::Shaper;
use crate::ws::Backend;
use anyhow::{Context, Result};
use aya::sys::{Stats, enable_stats};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The proxy's, and the others'.
const HOST: usize = 0;
const OTHERS: usize = 1;
/// Until the bursts that limits let through are over.
const SETTLE: Duration = Duration::from_secs(6);

/// Keeps this thread, and all that it starts from now on, off the proxy's CPU.
pub(super) fn leave_the_first_cpu(cpus: usize) -> Result<()> {
    let mut set = CpuSet::new();
    for cpu in OTHERS..cpus {
        set.set(cpu)?;
    }
    sched_setaffinity(Pid::from_raw(0), &set).context("cannot leave CPU 0")
}

/// Measures one case for its share of the time.
pub(super) fn case(args: &Args, haproxy: &Installed, kind: Kind) -> Result<Used> {
    let lab = Lab::new(LabSpec {
        path: Some(PathSpec {
            one_way: Duration::try_from_secs_f64(args.rtt / 2e3).context("--rtt")?,
            ..PathSpec::default()
        }),
        clients: args.clients,
        backends: 1,
        ..LabSpec::default()
    })?;
    let threads = steer(&lab)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let backend = Backend::start(
        runtime.handle(),
        lab.backends.first().context("no backend")?,
    )?;
    let rate = args.rate * 1000;
    let mut spec = Spec {
        program: haproxy.program.clone(),
        threads: Some(1),
        ..Spec::default()
    };
    if let Kind::Bwlim(size) = kind {
        let size = size.map_or_else(String::new, |size| format!(" min-size {size}"));
        spec.frontend = vec![
            format!("filter bwlim-in up default-limit {rate} default-period 1s{size}"),
            "http-request set-bandwidth-limit up".into(),
        ];
    }
    let haproxy = Haproxy::start_with(&lab, &spec)?;
    cpu::pin(haproxy.pid(), HOST)?;
    let shaper = match kind {
        Kind::Ours => Some(daemon(&lab, rate)?),
        _ => None,
    };
    let daemon = shaper.as_ref().and_then(Shaper::pid);
    let uploads = (0..args.clients)
        .map(|n| {
            let pace = kind.pace(rate);
            Upload::start(runtime.handle(), &lab, client_v4(n), &args.cc, pace)
        })
        .collect::<Result<Vec<_>>>()?;
    sleep(SETTLE);

    // The kernel counts the time of programs as long as this is open.
    let _statistics = shaper
        .as_ref()
        .map(|_| enable_stats(Stats::RunTime))
        .transpose()?;
    let now = || -> Result<Used> {
        Ok(Used {
            haproxy: cpu::of_process(haproxy.pid())?,
            kernel: threads.iter().try_fold(Duration::ZERO, |sum, thread| {
                anyhow::Ok(sum + cpu::of_process(*thread)?)
            })?,
            others: cpu::idle(HOST)?,
            daemon: daemon.map_or(Ok(Duration::ZERO), cpu::of_process)?,
            programs: shaper
                .as_ref()
                .map_or(Duration::ZERO, |shaper| cpu::of_programs(shaper.owned())),
            bytes: (0..args.clients)
                .filter_map(|n| backend.uploads(client_v4(n)))
                .map(|meter| meter.total())
                .sum(),
            ..Used::default()
        })
    };
    let (from, before) = (Instant::now(), now()?);
    sleep(Duration::from_secs(args.seconds) / args.rounds);
    let (time, after) = (from.elapsed(), now()?);
    let mut used = Used {
        time,
        haproxy: after.haproxy.saturating_sub(before.haproxy),
        kernel: after.kernel.saturating_sub(before.kernel),
        daemon: after.daemon.saturating_sub(before.daemon),
        programs: after.programs.saturating_sub(before.programs),
        bytes: after.bytes - before.bytes,
        frames: lab.relay()?.up().frames,
        lost: lab.relay()?.lost(),
        ..Used::default()
    };
    let busy = time.saturating_sub(after.others.saturating_sub(before.others));
    used.others = busy.saturating_sub(used.host());
    for upload in &uploads {
        used.segments += upload.segments()?;
    }
    runtime.block_on(async {
        for upload in uploads {
            upload.stop().await?;
        }
        anyhow::Ok(())
    })?;
    Ok(used)
}

/// Our daemon; its rates are those of IP packets.
fn daemon(lab: &Lab, rate: u32) -> Result<Shaper> {
    let bits = (f64::from(rate) * 8.0 / PAYLOAD) as u64;
    let policy = format!("[default]\nupload = {{ rate = \"{bits}bit\" }}\n");
    let shaper = Shaper::start(lab, &policy, &[])?;
    if let Some(pid) = shaper.pid() {
        cpu::pin(pid, HOST)?;
    }
    Ok(shaper)
}

/// Has each end's packets processed on the CPU of its host; returns the
/// kernel threads of the proxy's.
fn steer(lab: &Lab) -> Result<Vec<u32>> {
    cpu::steer(&lab.client, INTERFACE, OTHERS)?;
    for backend in &lab.backends {
        cpu::steer(backend, INTERFACE, OTHERS)?;
    }
    if let Some(path) = &lab.path {
        cpu::steer(path, "c", OTHERS)?;
        cpu::steer(path, "p", OTHERS)?;
    }
    let mut threads = cpu::receive_by_threads(&lab.proxy, INTERFACE, HOST)?;
    threads.extend(cpu::receive_by_threads(&lab.proxy, "be1", HOST)?);
    Ok(threads)
}
