//! Who used how much of a CPU.

use crate::leftovers::Owned;
use crate::netns::Namespace;
use crate::{offload, process};
use anyhow::{Context, Result, bail};
use aya::programs::loaded_programs;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::{Pid, SysconfVar, sysconf};
use std::fs;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The time that the threads of a process have run, to the nanosecond
/// (`/proc/PID/task/*/schedstat`): user and system, and the interrupts that
/// came in between.
///
/// # Errors
/// When there is no such process.
pub fn of_process(pid: u32) -> Result<Duration> {
    let mut nanos = 0;
    for task in tasks(pid)? {
        let path = format!("/proc/{pid}/task/{task}/schedstat");
        // A thread may end meanwhile.
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        let first = text.split_whitespace().next().context(path)?;
        nanos += first.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanos))
}

/// The time that a CPU was idle, from the kernel's own clock of it
/// (`/proc/stat`), which unlike the other columns is not a sample of ticks.
/// Time stolen by the hypervisor counts as idle: it is nobody's work here.
///
/// # Errors
/// When there is no such CPU.
pub fn idle(cpu: usize) -> Result<Duration> {
    let stat = fs::read_to_string("/proc/stat")?;
    let name = format!("cpu{cpu}");
    let fields: Vec<u64> = stat
        .lines()
        .map(str::split_whitespace)
        .find_map(|mut words| (words.next() == Some(&name)).then_some(words))
        .with_context(|| format!("no {name}"))?
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let ticks: u64 = [3, 4, 7].iter().filter_map(|n| fields.get(*n)).sum();
    let hertz = sysconf(SysconfVar::CLK_TCK)?.context("no clock tick")?;
    Ok(Duration::from_secs_f64(ticks as f64 / hertz as f64))
}

/// The time that BPF programs have run while statistics were on.
#[must_use]
pub fn of_programs(owned: &Owned) -> Duration {
    loaded_programs()
        .flatten()
        .filter(|program| owned.programs.contains(&program.id()))
        .map(|program| program.run_time())
        .sum()
}

/// Keeps the threads of a process, and those that they start, on one CPU.
///
/// # Errors
/// When there is no such process or CPU.
pub fn pin(pid: u32, cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    for task in tasks(pid)? {
        sched_setaffinity(Pid::from_raw(task), &set)?;
    }
    Ok(())
}

/// Has the kernel process what an interface receives on one CPU (RPS), and
/// not in the context of the process that sent it from the other end.
///
/// # Errors
/// When the kernel has no RPS.
pub fn steer(namespace: &Namespace, interface: &str, cpu: usize) -> Result<()> {
    let mask = 1_u64.checked_shl(u32::try_from(cpu)?).context("CPU")?;
    write_sys(
        namespace,
        interface,
        "queues/rx-0/rps_cpus",
        &format!("{mask:x}"),
    )
}

/// Has kernel threads do the work on what an interface receives (threaded
/// NAPI), with GRO as at a network card, and keeps them on one CPU. So this
/// work has a clock of its own. Returns the threads.
///
/// # Errors
/// When the kernel has no such threads.
pub fn receive_by_threads(namespace: &Namespace, interface: &str, cpu: usize) -> Result<Vec<u32>> {
    namespace.enter(|| offload::set_gro(interface, true))?;
    let before = napi_threads(interface)?;
    write_sys(namespace, interface, "threaded", "1")?;
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        let mut threads = napi_threads(interface)?;
        threads.retain(|thread| !before.contains(thread));
        if !threads.is_empty() {
            for thread in &threads {
                pin(*thread, cpu)?;
                come_first(*thread)?;
            }
            return Ok(threads);
        }
        if Instant::now() > deadline {
            bail!("the kernel has no threads that receive for {interface}");
        }
        sleep(Duration::from_millis(5));
    }
}

/// Before every ordinary process, as the softirq that a thread stands for does:
/// a veth has room for 256 frames, and drops when it waits.
fn come_first(thread: u32) -> Result<()> {
    let mut command = Command::new("chrt");
    command.args(["--fifo", "--pid", "1", &thread.to_string()]);
    process::output(command).map(drop)
}

/// Kernel threads that receive for interfaces of that name.
fn napi_threads(interface: &str) -> Result<Vec<u32>> {
    let name = format!("napi/{interface}-");
    Ok(fs::read_dir("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid: &u32| {
            fs::read_to_string(format!("/proc/{pid}/comm"))
                .is_ok_and(|comm| comm.starts_with(&name))
        })
        .collect())
}

/// `ip netns exec` mounts the /sys of the namespace.
fn write_sys(namespace: &Namespace, interface: &str, key: &str, value: &str) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace.name(), "sh", "-c"]);
    command.arg(format!("echo {value} > /sys/class/net/{interface}/{key}"));
    process::output(command).map(drop)
}

fn tasks(pid: u32) -> Result<Vec<i32>> {
    let directory = format!("/proc/{pid}/task");
    let mut tasks = Vec::new();
    for entry in fs::read_dir(&directory).context(directory)? {
        if let Some(task) = entry?.file_name().to_str() {
            tasks.push(task.parse()?);
        }
    }
    Ok(tasks)
}
