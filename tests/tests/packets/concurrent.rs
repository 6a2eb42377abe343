//! Packets on several CPUs at once, on the words and counters of one client.

use super::Test;
use super::build::{CLIENT_V4, Form};
use anyhow::{Result, bail, ensure};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use shaper_common::bucket::Limit;
use shaper_common::class::Class;
use shaper_common::flow::Traffic;
use shaper_common::key::{FlowKey, TCP, UDP};
use shaper_common::stats::Stat;
use shaper_tests::testbed::{DROP, Hook, PASS, Runner, Testbed, key, policy};
use shaper_user::addr::from_kernel;
use shaper_user::kernel::sys::ktime;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::sleep;
use std::time::{Duration, Instant};

pub const TESTS: &[(&str, Test)] = &[
    ("several_cpus_pass_the_rate_and_count_all", the_rate),
    ("several_cpus_keep_to_any_interval", any_interval),
    (
        "several_cpus_that_one_bucket_refuses_do_not_pay_the_other",
        refunds,
    ),
    (
        "limits_changed_while_several_cpus_send_hold_at_once",
        changed,
    ),
];

const SEC: u128 = 1_000_000_000;
/// Runs of a program in one call.
const REPEAT: u32 = 2_000;
/// How long the CPUs send.
const TIME: Duration = Duration::from_millis(300);

/// CPUs that this test may use; two threads on one CPU where there is no other.
fn cpus() -> Result<Vec<usize>> {
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    let mut cpus: Vec<_> = (0..CpuSet::count())
        .filter(|cpu| allowed.is_set(*cpu).unwrap_or(false))
        .take(8)
        .collect();
    if let [only] = cpus[..] {
        eprintln!("only one CPU: its threads take turns");
        cpus.push(only);
    }
    Ok(cpus)
}

/// A client whose packets come on several CPUs.
struct Crowd {
    testbed: Testbed,
    cpus: Vec<usize>,
    /// What each CPU sends.
    forms: Vec<Form>,
}

/// Its counters, and when they were read.
#[derive(Clone, Copy, Debug)]
struct Seen {
    from: u64,
    to: u64,
    client: Traffic,
    /// All its flows together; the bucket of the first.
    flows: Traffic,
}

impl Crowd {
    /// A flow for each CPU, or one for all.
    fn new(class: Class, shared: bool, udp: bool) -> Result<Self> {
        let testbed = Testbed::new(&policy(class, &[]))?;
        let cpus = cpus()?;
        let forms: Vec<_> = (0_u16..)
            .zip(&cpus)
            .map(|(nth, _)| Form {
                client_port: 50_000 + if shared { 0 } else { nth },
                udp,
                ..Form::v4()
            })
            .collect();
        let crowd = Self {
            testbed,
            cpus,
            forms,
        };
        for key in crowd.keys() {
            if !udp {
                crowd.testbed.open(key)?;
            }
        }
        Ok(crowd)
    }

    fn keys(&self) -> Vec<FlowKey> {
        let mut keys: Vec<_> = self
            .forms
            .iter()
            .map(|form| {
                let protocol = if form.udp { UDP } else { TCP };
                key(form.client, form.client_port, form.local(), protocol)
            })
            .collect();
        keys.dedup();
        keys
    }

    /// On the wire, from the IP header on.
    fn len(&self) -> u64 {
        self.forms[0].build().len() as u64 - 14
    }

    /// Sends aggregates of 50 ms until one is refused; when the last began.
    fn use_up_the_burst(&self, limit: &Limit) -> Result<u64> {
        let packet = self.forms[0].build();
        let headers = limit.cost(50);
        let segments = (TIME.as_nanos() as u64 / 6 / headers).clamp(2, 10_000) as u32;
        for _ in 0..100_000 {
            let now = ktime();
            let verdict = self
                .testbed
                .run_aggregate(Hook::Ingress, &packet, segments, 1_000)?;
            if verdict == DROP {
                return Ok(now);
            }
        }
        bail!("never refused")
    }

    fn see(&mut self) -> Result<Seen> {
        let from = ktime();
        let sample = self.testbed.sample()?;
        let to = ktime();
        let mut flows = Traffic::default();
        for (nth, key) in self.keys().iter().enumerate() {
            let flow = sample.flows.iter().find(|(other, _)| other == key);
            let Some((_, flow)) = flow else { continue };
            let traffic = flow.traffic[0];
            if nth == 0 {
                flows.tat = traffic.tat;
            }
            flows.packets += traffic.packets;
            flows.bytes += traffic.bytes;
            flows.dropped_packets += traffic.dropped_packets;
            flows.dropped_bytes += traffic.dropped_bytes;
        }
        let mut clients = sample.clients.iter();
        let client = clients.find(|(key, _)| from_kernel(&key.addr) == CLIENT_V4);
        Ok(Seen {
            from,
            to,
            client: client.map_or_else(Traffic::default, |(_, client)| client.traffic[0]),
            flows,
        })
    }

    /// Each CPU sends its packet while `watch` runs.
    fn send<T>(&mut self, watch: impl FnOnce(&mut Self) -> Result<T>) -> Result<(Vec<Sent>, T)> {
        let runner = self.testbed.runner(Hook::Ingress)?;
        let packets: Vec<_> = self.forms.iter().map(Form::build).collect();
        let cpus = self.cpus.clone();
        let ready = Barrier::new(cpus.len() + 1);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let threads: Vec<_> = cpus
                .iter()
                .zip(&packets)
                .map(|(cpu, packet)| {
                    let (runner, ready, stop) = (&runner, &ready, &stop);
                    scope.spawn(move || {
                        let pinned = pin(*cpu);
                        ready.wait();
                        pinned.and_then(|()| sender(runner, packet, stop))
                    })
                })
                .collect();
            ready.wait();
            let watched = watch(self);
            stop.store(true, Relaxed);
            let sent: Result<Vec<_>> = threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect();
            Ok((sent?, watched?))
        })
    }

    /// Passed and dropped are what was sent since, to the byte, wherever that is
    /// counted.
    fn counted_exactly(&mut self, since: &Seen, sent: &[Sent]) -> Result<Seen> {
        let now = self.see()?;
        let packets: u64 = sent.iter().map(|sent| sent.packets).sum();
        for (before, after) in [(&since.client, &now.client), (&since.flows, &now.flows)] {
            let passed = after.packets - before.packets;
            let dropped = after.dropped_packets - before.dropped_packets;
            ensure!(
                passed + dropped == packets,
                "{passed} passed and {dropped} were dropped of {packets}"
            );
            ensure!(
                after.bytes - before.bytes == passed * self.len()
                    && after.dropped_bytes - before.dropped_bytes == dropped * self.len(),
                "{passed} passed, {dropped} dropped: {before:?}, {after:?}"
            );
        }
        ensure!(now.client.packets == now.flows.packets, "{now:?}");
        let limited = self.testbed.stat(Stat::LimitedPackets)?;
        ensure!(limited == now.client.dropped_packets, "{limited}: {now:?}");
        let limited = self.testbed.stat(Stat::LimitedBytes)?;
        ensure!(limited == now.client.dropped_bytes, "{limited}: {now:?}");
        Ok(now)
    }

    /// No bucket is further ahead than its burst and one packet a CPU, nor less
    /// than a packet that it refused says. Whether one was refused at the end.
    fn is_held(&self, limit: &Limit, before: &Seen, now: &Seen, sent: &[Sent]) -> Result<bool> {
        let most = now.to + limit.tau + self.cpus.len() as u64 * limit.cost(self.len());
        // Or as far as larger aggregates had brought it, which nothing passed since.
        let most = most.max(before.client.tat);
        ensure!(now.client.tat <= most, "{now:?} is more than {most}");
        let refused = sent.iter().filter(|sent| sent.last.1 == DROP);
        let Some(last) = refused.map(|sent| sent.last.0).max() else {
            return Ok(false);
        };
        let least = last + limit.tau;
        ensure!(now.client.tat > least, "{now:?} is less than {least}");
        Ok(true)
    }
}

/// What one CPU did.
#[derive(Clone, Copy)]
struct Sent {
    packets: u64,
    /// When its last call began, and the verdict on the last packet of that.
    last: (u64, i32),
}

fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

fn sender(runner: &Runner, packet: &[u8], stop: &AtomicBool) -> Result<Sent> {
    let mut sent = Sent {
        packets: 0,
        last: (0, PASS),
    };
    loop {
        let began = ktime();
        let verdict = runner.run(packet, REPEAT)?;
        sent.packets += u64::from(REPEAT);
        sent.last = (began, verdict);
        if stop.load(Relaxed) {
            return Ok(sent);
        }
    }
}

/// Bytes that a rate is in so many nanoseconds.
fn bytes(bps: u64, nanos: u64) -> u64 {
    (u128::from(bps) * u128::from(nanos) / 8 / SEC) as u64 + 1
}

/// Packets of 1 KB come faster than this on every machine, if it is busy or
/// emulated: some are refused.
const SLOW: u64 = 50_000_000;

/// A limit with a burst of 20 s. Once that is used up, the bucket is not full
/// for as long, so that what it says is exact.
fn long(bps: u64) -> Limit {
    Limit::new(bps, bps / 8 * 20)
}

fn the_rate() -> Result<()> {
    for (bps, shared, udp) in [
        (4_000_000_000, true, false),
        (1_000_000_000, false, false),
        (300_000_000, false, true),
        (2_000_000, true, false),
    ] {
        let limit = long(bps);
        let class = Class {
            upload: limit,
            ..Class::default()
        };
        let mut crowd = Crowd::new(class, shared, udp)?;
        let began = crowd.use_up_the_burst(&limit)?;
        let before = crowd.see()?;
        let (sent, ()) = crowd.send(|_| {
            sleep(TIME);
            Ok(())
        })?;
        let after = crowd.counted_exactly(&before, &sent)?;
        let passed = after.client.packets - before.client.packets;
        ensure!(
            after.client.tat - before.client.tat == passed * limit.cost(crowd.len()),
            "{passed} passed for {} each, and were charged otherwise: {before:?}, {after:?}",
            limit.cost(crowd.len())
        );
        let most = bytes(bps, after.to - began) + crowd.cpus.len() as u64 * crowd.len();
        ensure!(
            passed * crowd.len() <= most,
            "{bps} bit/s: {passed} packets passed, {most} bytes may"
        );
        let refused = crowd.is_held(&limit, &before, &after, &sent)?;
        ensure!(refused || bps > SLOW, "{bps} bit/s: none was refused");
    }
    Ok(())
}

fn any_interval() -> Result<()> {
    const BURST: u64 = 20_000;
    for (bps, shared) in [(2_000_000_000, true), (SLOW, false)] {
        let limit = Limit::new(bps, BURST);
        let class = Class {
            upload: limit,
            ..Class::default()
        };
        let mut crowd = Crowd::new(class, shared, false)?;
        let before = crowd.see()?;
        let (sent, seen) = crowd.send(|crowd| {
            let end = Instant::now() + TIME;
            let mut seen = vec![crowd.see()?];
            while Instant::now() < end {
                sleep(Duration::from_micros(500));
                seen.push(crowd.see()?);
            }
            Ok(seen)
        })?;
        let after = crowd.counted_exactly(&before, &sent)?;
        // One packet a CPU over the burst, and one that is not counted yet.
        let over = BURST + 2 * crowd.cpus.len() as u64 * crowd.len();
        for (nth, from) in seen.iter().enumerate() {
            for to in seen[nth + 1..].iter().chain([&after]) {
                let passed = to.client.bytes - from.client.bytes;
                let most = bytes(bps, to.to - from.from) + over;
                ensure!(passed <= most, "{passed} of {most}: {from:?}, {to:?}");
            }
        }
        let refused = after.client.dropped_packets > 0;
        ensure!(refused || bps > SLOW, "{bps} bit/s: none was refused");
        ensure!(after.client.bytes > BURST, "{after:?}");
    }
    Ok(())
}

/// The flow admits every packet, and takes back what the client refuses.
fn refunds() -> Result<()> {
    let class = Class {
        upload: long(SLOW),
        flow_upload: long(2 * SLOW),
        ..Class::default()
    };
    let mut crowd = Crowd::new(class, true, false)?;
    crowd.use_up_the_burst(&class.upload)?;
    let before = crowd.see()?;
    let (sent, ()) = crowd.send(|_| {
        sleep(TIME);
        Ok(())
    })?;
    let after = crowd.counted_exactly(&before, &sent)?;
    let passed = after.client.packets - before.client.packets;
    ensure!(after.client.dropped_packets > before.client.dropped_packets);
    for (before, after, limit) in [
        (before.client, after.client, class.upload),
        (before.flows, after.flows, class.flow_upload),
    ] {
        ensure!(
            after.tat - before.tat == passed * limit.cost(crowd.len()),
            "{passed} passed, and were charged otherwise: {before:?}, {after:?}"
        );
    }
    let refused = crowd.is_held(&class.upload, &before, &after, &sent)?;
    ensure!(refused, "none was refused");
    Ok(())
}

fn changed() -> Result<()> {
    const BURST: u64 = 30_000;
    let class = |bps| Class {
        upload: Limit::new(bps, BURST),
        ..Class::default()
    };
    let mut crowd = Crowd::new(class(SLOW), false, false)?;
    let before = crowd.see()?;
    let (sent, switched) = crowd.send(|crowd| {
        for nth in 0..12 {
            // The debt of a second of 1 kbit/s must not stay with the others.
            let bps = [800_000_000, 1_000, SLOW][nth % 3];
            crowd.testbed.apply(&policy(class(bps), &[]))?;
            sleep(TIME / 20);
        }
        let from = ktime();
        crowd.testbed.apply(&policy(class(SLOW), &[]))?;
        let seen = crowd.see()?;
        sleep(TIME / 4);
        Ok(Seen { from, ..seen })
    })?;
    let after = crowd.counted_exactly(&before, &sent)?;
    let passed = after.client.bytes - switched.client.bytes;
    let most =
        bytes(SLOW, after.to - switched.from) + BURST + 2 * crowd.cpus.len() as u64 * crowd.len();
    ensure!(passed <= most, "{passed} bytes passed, {most} may");
    let refused = crowd.is_held(&class(SLOW).upload, &before, &after, &sent)?;
    ensure!(refused, "none was refused");
    Ok(())
}
