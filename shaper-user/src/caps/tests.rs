use super::*;
use crate::addr::to_kernel;
use crate::kernel::FlowLimit;
use crate::policy::RateLimit;
use proptest::prelude::*;
use shaper_common::key::TCP;

const MBIT: f64 = 1_000_000.0;
const FREE: f64 = f64::INFINITY;

/// A sender: its client, what it sends if it may, and what it did send.
#[derive(Clone, Debug)]
struct Sender {
    client: u8,
    sends: f64,
    /// The client's limit by its rule; infinite: none.
    most: f64,
    /// Likewise, of the connection alone.
    each: f64,
    rate: f64,
    own: Limit,
}

/// Senders that upload to be/srv.
struct World {
    policy: Policy,
    caps: Caps,
    senders: Vec<Sender>,
    /// Connections that the kernel was told of in the last second.
    told: usize,
}

fn sender(client: u8, mbit: f64) -> Sender {
    Sender {
        client,
        sends: mbit * MBIT,
        most: FREE,
        each: FREE,
        rate: 0.0,
        own: Limit::NONE,
    }
}

fn key(index: usize, client: u8) -> FlowKey {
    FlowKey {
        client: to_kernel(format!("192.0.2.{client}").parse().unwrap()),
        client_port: u16::try_from(index).unwrap(),
        protocol: TCP,
        ..FlowKey::default()
    }
}

impl World {
    fn new(limit: &str, senders: Vec<Sender>) -> Self {
        let text = format!("[[server_limit]]\nserver = \"be/srv\"\n{limit}");
        Self::of(&text, senders)
    }

    fn of(policy: &str, senders: Vec<Sender>) -> Self {
        Self {
            policy: Policy::parse("p", policy).unwrap_or_else(|errors| panic!("{errors}")),
            caps: Caps::default(),
            senders,
            told: 0,
        }
    }

    /// A second: they send, then the limits are made.
    fn second(&mut self) {
        let mut clients: HashMap<u8, ClientNow> = HashMap::new();
        for (index, sender) in self.senders.iter_mut().enumerate() {
            let own = if sender.own.is_set() {
                sender.own.bits_per_sec() as f64
            } else {
                FREE
            };
            sender.rate = sender.sends.min(own).min(sender.most).min(sender.each);
            let key = key(index, sender.client);
            let now = ClientNow {
                client: ClientKey { addr: key.client },
                exempt: false,
                most: [sender.most, FREE],
                each: [sender.each, FREE],
                flows: Vec::new(),
            };
            let client = clients.entry(sender.client).or_insert(now);
            client.flows.push(FlowNow {
                key,
                rates: [sender.rate as u64, 0],
                own: [sender.own, Limit::NONE],
                held: [false; 2],
            });
        }
        let servers = [ServerNow {
            name: ("be".into(), "srv".into()),
            clients: clients.into_values().collect(),
        }];
        let second = Duration::from_secs(1);
        let wanted = self.caps.limits(&self.policy, &servers, second);
        let freed = freed(&servers, &wanted, Vec::new());
        let changes = changes(&wanted, &freed);
        self.told = changes.len();
        for FlowLimit { key, limits } in changes {
            let sender = &mut self.senders[usize::from(key.client_port)];
            sender.own = RateLimit::to_kernel(limits[0]);
        }
    }

    fn seconds(&mut self, seconds: usize) {
        for _ in 0..seconds {
            self.second();
        }
    }

    /// In Mbit/s.
    fn total(&self) -> f64 {
        self.senders.iter().map(|sender| sender.rate).sum::<f64>() / MBIT
    }

    fn rates(&self) -> Vec<f64> {
        let rates = self.senders.iter().map(|sender| sender.rate / MBIT);
        rates.map(|rate| (rate * 10.0).round() / 10.0).collect()
    }

    fn limits(&self) -> Vec<f64> {
        let limit = |own: &Limit| match own.is_set() {
            true => own.bits_per_sec() as f64 / MBIT,
            false => FREE,
        };
        self.senders.iter().map(|s| limit(&s.own)).collect()
    }
}

const CAP: &str = "upload = { rate = \"200mbit\" }";

#[test]
fn greedy_senders_share_the_cap_and_stay_there() {
    for count in [1, 2, 7, 60] {
        let mut world = World::new(CAP, (0..count).map(|i| sender(i, 500.0)).collect());
        world.seconds(2);
        for second in 2..20 {
            world.second();
            let total = world.total();
            assert!(
                (190.0..=201.0).contains(&total),
                "{count}: {second} {total}"
            );
        }
        assert_eq!(world.told, 0, "all is told");
        let limits = world.limits();
        assert!(limits.iter().all(|limit| (limit - limits[0]).abs() < 0.01));
    }
}

#[test]
fn connections_of_a_client_share_what_it_has() {
    let mut senders = vec![sender(1, 500.0)];
    senders.extend((0..4).map(|_| sender(2, 500.0)));
    let mut world = World::new(CAP, senders);
    world.seconds(4);
    assert_eq!(world.rates(), [100.0, 25.0, 25.0, 25.0, 25.0]);
}

#[test]
fn who_wants_little_has_it_and_the_greedy_have_the_rest() {
    let mut world = World::new(CAP, vec![sender(1, 20.0), sender(2, 500.0), sender(3, 0.0)]);
    world.seconds(4);
    assert_eq!(world.rates(), [20.0, 170.0, 0.0]);
    // It begins on the floor and has its part after that.
    world.senders[2].sends = 500.0 * MBIT;
    world.second();
    assert!((0.05..0.07).contains(&(world.senders[2].rate / MBIT)));
    world.seconds(2);
    assert_eq!(world.rates(), [20.0, 85.0, 85.0]);
}

#[test]
fn a_client_that_its_rule_holds_wastes_nothing() {
    for each in [false, true] {
        let mut senders: Vec<_> = (0..20).map(|i| sender(i, 500.0)).collect();
        for sender in &mut senders {
            let limit = if each {
                &mut sender.each
            } else {
                &mut sender.most
            };
            *limit = 8.0 * MBIT;
        }
        senders.push(sender(99, 500.0));
        let mut world = World::new(CAP, senders);
        world.seconds(4);
        assert!(world.total() > 195.0, "{}", world.total());
        assert!((39.0..41.0).contains(&world.rates()[20]));
    }
}

#[test]
fn a_client_that_joins_has_its_part_a_second_later() {
    let mut world = World::new(CAP, vec![sender(1, 500.0), sender(2, 500.0)]);
    world.seconds(4);
    world.senders.push(sender(3, 500.0));
    world.seconds(2);
    for rate in world.rates() {
        assert!((66.0..67.0).contains(&rate), "{rate}");
    }
    world.senders.remove(0);
    world.seconds(3);
    assert_eq!(world.rates(), [100.0, 100.0]);
}

#[test]
fn a_cap_that_is_not_reached_has_limits_for_a_burst_all_the_same() {
    let mut world = World::new(CAP, vec![sender(1, 10.0), sender(2, 0.0), sender(3, 40.0)]);
    world.seconds(3);
    let sum: f64 = world.limits().iter().sum();
    assert!((190.0..=206.0).contains(&sum), "{sum}");
    // All of them burst at once.
    for sender in &mut world.senders {
        sender.sends = 500.0 * MBIT;
    }
    for _ in 0..5 {
        world.second();
        assert!((190.0..=206.0).contains(&world.total()));
    }
}

#[test]
fn a_cap_that_cannot_be_reached_limits_nobody() {
    let mut senders = vec![sender(1, 500.0), sender(2, 500.0)];
    for sender in &mut senders {
        sender.most = 90.0 * MBIT;
    }
    let mut world = World::new(CAP, senders);
    world.seconds(3);
    assert_eq!(world.limits(), [FREE, FREE]);
}

#[test]
fn the_held_are_greedy_whatever_their_rate_looks_like() {
    let own = Limit::new(10_000_000, 125_000);
    let mut flow = Flow {
        own: [own; 2],
        ..Flow::default()
    };
    flow.traffic[0].tat = 1000 + own.tau / 2 + 1;
    flow.traffic[1].tat = 1000 + own.tau / 2;
    let now = FlowNow::new(FlowKey::default(), &flow, [1_000_000, 1_000_000], 1000);
    assert_eq!([now.is_greedy(0), now.is_greedy(1)], [true, false]);
    assert_eq!(now.want(1), 1_500_000.0);
}

const SHARE: &str = "share = 0.25\nabove = \"100mbit\"";

#[test]
fn no_client_has_more_than_its_share() {
    let mut senders = vec![sender(1, 800.0)];
    senders.extend((2..22).map(|i| sender(i, 10.0)));
    let mut world = World::new(SHARE, senders);
    world.seconds(3);
    let share = world.rates()[0] / world.total();
    assert!((0.24..0.26).contains(&share), "{:?}", world.rates());
    assert!(world.rates()[1..].iter().all(|rate| *rate == 10.0));
    assert_eq!(world.limits()[1..], [FREE; 20], "nor is anybody else told");
}

#[test]
fn a_share_of_few_clients_ends_at_the_rate_above_which_it_holds() {
    for count in [1, 2, 3] {
        let mut world = World::new(SHARE, (0..count).map(|i| sender(i, 500.0)).collect());
        world.seconds(3);
        for _ in 0..30 {
            world.second();
            assert!((95.0..=105.0).contains(&world.total()), "{}", world.total());
        }
        for sender in &mut world.senders {
            sender.sends = 10.0 * MBIT;
        }
        world.seconds(10);
        assert!(world.limits().iter().all(|limit| *limit == FREE), "lifted");
    }
}

#[test]
fn below_its_rate_a_share_holds_nobody() {
    let mut world = World::new(SHARE, vec![sender(1, 90.0), sender(2, 1.0)]);
    world.seconds(10);
    assert_eq!(world.limits(), [FREE, FREE]);
    assert_eq!(world.told, 0);
}

#[test]
fn a_place_rule_holds_all_connections_of_a_client_together() {
    let policy = "[[rule]]\nname = \"w\"\nservers = [\"be/srv\"]\nupload = { rate = \"10mbit\" }";
    let senders = vec![
        sender(1, 50.0),
        sender(2, 50.0),
        sender(2, 1.0),
        sender(2, 50.0),
    ];
    let mut world = World::of(policy, senders);
    world.seconds(4);
    assert_eq!(world.rates(), [10.0, 4.3, 1.0, 4.3]);
}

proptest! {
    #[test]
    fn never_more_than_the_cap_and_the_floors_is_given(
        each in proptest::collection::vec((0_u8..20, 0.0..400.0, 1.0..400.0), 1..80),
        cap in 1_u32..1000,
    ) {
        let senders = each.iter().map(|(client, sends, most)| Sender {
            most: most * MBIT,
            ..sender(*client, *sends)
        });
        let mut world = World::new(&format!("upload = {{ rate = \"{cap}mbit\" }}"), senders.collect());
        for _ in 0..6 {
            world.second();
            let limits = world.limits();
            // Limits are left out where nothing can reach the cap.
            if limits.iter().all(|limit| limit.is_finite()) {
                let sum: f64 = limits.iter().sum();
                prop_assert!(sum <= f64::from(cap) * 1.14 + 0.1, "{sum}");
            }
        }
    }
}
