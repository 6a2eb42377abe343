//! Minutes add up to the sampler's counters, whatever comes and goes.

use super::*;
use crate::history::record::FlowRow;
use crate::kernel::Sample;
use crate::testing::{NOW, at, client, compiled, flow, secs, view};
use proptest::prelude::*;
use shaper_common::flow::{Client, Flow, Traffic};
use shaper_common::key::{FlowKey, TCP};

const FLOW_MIN: u64 = 10_000;

/// What happens in a second.
#[derive(Clone, Debug)]
enum Step {
    /// A client and its flow in this place move bytes; they come if they must.
    Move(u8, u64, u64),
    /// The flow closes; its client stays.
    Close(u8),
    /// The flow's ports are used again at once.
    Again(u8, u64),
    /// The client leaves.
    Leave(u8),
    /// The client's entry begins anew.
    Anew(u8),
    /// So many seconds pass.
    Wait(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let place = 0..6_u8;
    prop_oneof![
        6 => (place.clone(), 0..9_000_u64, 0..4_000_u64).prop_map(|(n, a, b)| Step::Move(n, a, b)),
        2 => place.clone().prop_map(Step::Close),
        1 => (place.clone(), 0..20_000_u64).prop_map(|(n, a)| Step::Again(n, a)),
        1 => place.clone().prop_map(Step::Leave),
        1 => place.prop_map(Step::Anew),
        2 => (1..50_u8).prop_map(Step::Wait),
    ]
}

/// The kernel, and what each flow moved in its life.
#[derive(Default)]
struct World {
    second: u64,
    flows: Vec<(FlowKey, Flow)>,
    clients: Vec<(ClientKey, Client)>,
    lives: Vec<(FlowKey, u64, Both, bool)>,
}

fn ip(n: u8) -> String {
    format!("203.0.113.{n}")
}

fn grow(traffic: &mut [Traffic; 2], up: u64, down: u64) {
    for (traffic, bytes) in traffic.iter_mut().zip([up, down]) {
        traffic.bytes += bytes;
        traffic.dropped_bytes += bytes / 7;
    }
}

impl World {
    fn moves(&mut self, n: u8, up: u64, down: u64) {
        let (key, new) = client(&ip(n));
        if !self.clients.iter().any(|(k, _)| *k == key) {
            self.clients.push((key, new));
        }
        for (k, client) in &mut self.clients {
            if *k == key {
                grow(&mut client.traffic, up, down);
                client.connections = 1;
            }
        }
        let (key, mut new) = flow(&ip(n), 4_000, TCP);
        if !self.flows.iter().any(|(k, _)| *k == key) {
            // Never twice at the same time.
            new.created = NOW + secs(self.second) + self.lives.len() as u64;
            self.flows.push((key, new));
            self.lives.push((key, new.created, Both::default(), true));
        }
        for (k, flow) in &mut self.flows {
            if *k == key {
                grow(&mut flow.traffic, up, down);
                let life = self.lives.iter_mut().rev().find(|life| life.0 == key);
                life.unwrap().2 = both(&flow.traffic);
            }
        }
    }

    fn close(&mut self, n: u8) {
        let (key, _) = flow(&ip(n), 4_000, TCP);
        self.flows.retain(|(k, _)| *k != key);
        if let Some(life) = self.lives.iter_mut().rev().find(|life| life.0 == key) {
            life.3 = false;
        }
    }

    fn step(&mut self, step: &Step) {
        self.second += 1;
        match *step {
            Step::Move(n, up, down) => self.moves(n, up, down),
            Step::Close(n) => self.close(n),
            Step::Again(n, bytes) => {
                self.close(n);
                self.moves(n, bytes, 1);
            }
            Step::Leave(n) => {
                let (key, _) = client(&ip(n));
                self.clients.retain(|(k, _)| *k != key);
            }
            Step::Anew(n) => {
                let (key, _) = client(&ip(n));
                for (k, client) in &mut self.clients {
                    if *k == key {
                        // Only what falls can be seen to begin anew.
                        client.traffic = client.traffic.map(|traffic| match traffic.bytes {
                            0 => traffic,
                            _ => Traffic::default(),
                        });
                    }
                }
            }
            Step::Wait(seconds) => self.second += u64::from(seconds),
        }
    }

    fn sample(&self) -> Sample {
        Sample {
            now: NOW + secs(self.second),
            flows: self.flows.clone(),
            clients: self.clients.clone(),
            ..Sample::default()
        }
    }
}

fn totals(sampler: &Sampler) -> Both {
    sampler.totals().traffic.map(|traffic| Passed {
        bytes: traffic.bytes,
        dropped: traffic.dropped_bytes,
    })
}

fn sums(minutes: &[Minute]) -> (Both, Both) {
    let (mut heads, mut rows) = (Both::default(), Both::default());
    for minute in minutes {
        add(&mut heads, minute.head.total);
        add(&mut rows, minute.head.others_passed);
        for rate in &minute.rates {
            if let Rate::Client(_, _, passed) = rate {
                add(&mut rows, *passed);
            }
        }
    }
    (heads, rows)
}

fn rows_of(minutes: &[Minute], key: &FlowKey, created: u64) -> Vec<FlowRow> {
    let ip = from_kernel(&key.client);
    let rows = minutes.iter().flat_map(|minute| minute.flows.clone());
    rows.filter(|row| row.client == ip && row.created == created)
        .collect()
}

proptest! {
    #[test]
    fn rows_add_up_to_the_counters(
        before in proptest::collection::vec(step(), 0..10),
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let mut world = World::default();
        for step in &before {
            world.step(step);
        }
        let started: Vec<_> = world.lives.clone();
        let mut sampler = Sampler::new(Arc::new(compiled()), 1, at(0));
        let mut collector = Collector::default();
        let mut minutes = Vec::new();
        let mut begin = None;
        for step in std::iter::once(None).chain(steps.iter().map(Some)) {
            if let Some(step) = step {
                world.step(step);
            }
            let now = at(i64::try_from(world.second).unwrap());
            sampler.observe(world.sample(), now);
            minutes.extend(collector.observe(&sampler, now.as_second(), FLOW_MIN));
            begin.get_or_insert_with(|| totals(&sampler));
        }
        minutes.extend(collector.finish(&sampler, FLOW_MIN));
        let (heads, rows) = sums(&minutes);
        prop_assert_eq!(heads, since(totals(&sampler), begin.unwrap()));
        prop_assert_eq!(rows, heads);
        for (key, created, total, open) in &world.lives {
            let was = started.iter().find(|life| life.0 == *key && life.1 == *created);
            // One that was over before we came is none of ours.
            if was.is_some_and(|life| !life.3) {
                continue;
            }
            let total = since(*total, was.map(|life| life.2).unwrap_or_default());
            let rows = rows_of(&minutes, key, *created);
            let mut sum = Both::default();
            rows.iter().for_each(|row| add(&mut sum, row.passed));
            let closed = rows.iter().filter(|row| row.closed).count();
            if moved(&total) < FLOW_MIN {
                prop_assert!(rows.is_empty(), "{rows:?} of {total:?}");
            } else if *open {
                prop_assert!(moved(&total) - moved(&sum) < FLOW_MIN);
                prop_assert_eq!(closed, 0);
            } else {
                prop_assert_eq!(sum, total);
                prop_assert_eq!(closed, 1, "counted once");
            }
        }
    }
}

fn many(n: u32, bytes: u64) -> Sample {
    let mut sample = Sample {
        now: NOW + secs(60 * bytes),
        ..Sample::default()
    };
    for n in 0..n {
        let ip = std::net::Ipv4Addr::from(0x0a00_0000 + n).to_string();
        let (mut client, mut flow) = (client(&ip), flow(&ip, 4_000, TCP));
        grow(&mut client.1.traffic, bytes * u64::from(n + 1) * 1_000, 0);
        grow(&mut flow.1.traffic, bytes * u64::from(n + 1) * 1_000, 0);
        sample.clients.push(client);
        sample.flows.push(flow);
    }
    sample
}

#[test]
fn with_50_000_clients_a_minute_stays_bounded() {
    let mut sampler = Sampler::new(Arc::new(compiled()), 1, at(0));
    let mut collector = Collector::default();
    sampler.observe(many(50_000, 0), at(0));
    assert_eq!(collector.observe(&sampler, at(0).as_second(), 1), None);
    sampler.observe(many(50_000, 1), at(60));
    let minute = collector.observe(&sampler, at(60).as_second(), 1).unwrap();
    assert_eq!(minute.head.clients, 50_000);
    assert_eq!(minute.head.others, 50_000 - 500);
    assert_eq!(minute.rates.len(), CLIENTS);
    assert_eq!(minute.flows.len(), flows::OPEN);
    // Those that moved most have their rows.
    let least = minute.rates.iter().map(|rate| match rate {
        Rate::Client(_, _, passed) => moved(passed),
        Rate::Server(..) => 0,
    });
    assert_eq!(least.min(), Some((50_000 - 499) * 1_000));
    let (heads, rows) = sums(std::slice::from_ref(&minute));
    assert_eq!(heads, rows);
    // All close at once: the rest of the flows is counted, not kept.
    sampler.observe(many(0, 2), at(61));
    collector = Collector::default();
    sampler.observe(many(50_000, 3), at(120));
    collector.observe(&sampler, at(120).as_second(), 1);
    sampler.observe(many(50_000, 4), at(121));
    collector.observe(&sampler, at(121).as_second(), 1);
    sampler.observe(many(0, 5), at(122));
    collector.observe(&sampler, at(122).as_second(), 1);
    let minute = collector.finish(&sampler, 1).unwrap();
    assert_eq!(minute.flows.len(), flows::CLOSED);
    assert_eq!(minute.head.flows_cut, 50_000 - 4_000);
}

#[test]
fn servers_add_up_and_a_closed_flow_names_its_server() {
    let mut sampler = Sampler::new(Arc::new(compiled()), 1, at(0));
    let mut collector = Collector::default();
    let mut sample = |sampler: &mut Sampler, second: u64, bytes: Option<u64>| {
        let mut flow = flow("203.0.113.9", 4_000, TCP);
        grow(&mut flow.1.traffic, bytes.unwrap_or(0), 0);
        let sample = Sample {
            now: NOW + secs(second),
            flows: bytes.map(|_| flow).into_iter().collect(),
            ..Sample::default()
        };
        let now = at(i64::try_from(second).unwrap());
        sampler.observe(sample, now);
        collector.observe(sampler, now.as_second(), FLOW_MIN)
    };
    assert_eq!(sample(&mut sampler, 0, Some(0)), None);
    sampler.set_view(view(&[("203.0.113.9:4000", "be_ws/srv1")]));
    for (second, bytes) in [(1, 6_000), (30, 9_000), (59, 12_000)] {
        assert_eq!(sample(&mut sampler, second, Some(bytes)), None);
    }
    let first = sample(&mut sampler, 60, Some(15_000)).unwrap();
    // HAProxy's session ends, then the flow.
    sampler.set_view(view(&[]));
    assert_eq!(sample(&mut sampler, 61, Some(15_500)), None);
    assert_eq!(sample(&mut sampler, 62, None), None);
    let second = sample(&mut sampler, 121, None).unwrap();
    let server = |minute: &Minute| {
        let rows = minute.rates.iter();
        rows.filter_map(|rate| match rate {
            Rate::Server(_, server, passed) => Some((server.clone(), moved(passed))),
            Rate::Client(..) => None,
        })
        .collect::<Vec<_>>()
    };
    assert_eq!(server(&first), [("srv1".to_owned(), 15_000)]);
    assert!(server(&second).is_empty(), "nobody's");
    let row = &second.flows[0];
    assert!(row.closed && first.flows.len() == 1 && !first.flows[0].closed);
    let place = Some(("be_ws".to_owned(), "srv1".to_owned()));
    assert_eq!((&row.place, moved(&row.passed)), (&place, 500));
}

/// HAProxy forgets a session before the kernel's last word of its flow, which has
/// lived for less than a minute; others come and go meanwhile.
#[test]
fn a_short_flow_names_the_server_that_forgot_it() {
    let mut sampler = Sampler::new(Arc::new(compiled()), 1, at(0));
    let mut collector = Collector::default();
    let mut sample = |sampler: &mut Sampler, second: u64, ports: &[(u16, u64)]| {
        let flows = ports.iter().map(|(port, created)| {
            let mut flow = flow("203.0.113.9", *port, TCP);
            flow.1.created = NOW + secs(*created);
            grow(&mut flow.1.traffic, 90_000, 0);
            flow
        });
        let sample = Sample {
            now: NOW + secs(second),
            flows: flows.collect(),
            ..Sample::default()
        };
        let now = at(i64::try_from(second).unwrap());
        sampler.observe(sample, now);
        collector.observe(sampler, now.as_second(), FLOW_MIN)
    };
    sample(&mut sampler, 0, &[]);
    sample(&mut sampler, 1, &[(4000, 0), (5000, 0)]);
    let both = [
        ("203.0.113.9:5000", "be_ws/srv2"),
        ("203.0.113.9:4000", "be_ws/srv1"),
    ];
    sampler.set_view(view(&both));
    sample(&mut sampler, 2, &[(4000, 0), (5000, 0)]);
    sampler.set_view(view(&both[..1]));
    sample(&mut sampler, 3, &[(4000, 0), (5000, 0)]);
    sampler.set_view(view(&both[..1]));
    // The same port again is another connection.
    sample(&mut sampler, 4, &[(4000, 4), (5000, 0)]);
    sampler.set_view(view(&[]));
    sample(&mut sampler, 5, &[]);
    let minute = sample(&mut sampler, 61, &[]).unwrap();
    let mut rows: Vec<_> = minute
        .flows
        .iter()
        .map(|row| {
            (
                row.client_port,
                row.place.as_ref().map(|(_, server)| server.as_str()),
            )
        })
        .collect();
    rows.sort_unstable();
    assert_eq!(
        rows,
        [(4000, None), (4000, Some("srv1")), (5000, Some("srv2"))]
    );
}
