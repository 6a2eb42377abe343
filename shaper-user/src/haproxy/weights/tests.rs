use super::*;
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

fn load(server: &str, connections: u64, rate: u64) -> Load {
    Load {
        backend: "be_ws".into(),
        server: server.into(),
        connections,
        rates: [rate / 4, rate - rate / 4],
    }
}

fn percent(weights: &Weights, server: &str) -> Option<u16> {
    let mut percents = weights.percents();
    let found = percents.find(|((backend, name), _)| &**backend == "be_ws" && &**name == server);
    found.map(|(_, percent)| percent)
}

fn percents(loads: &[Load]) -> Vec<u16> {
    let mut weights = Weights::default();
    weights.observe(loads, SECOND);
    loads
        .iter()
        .map(|load| percent(&weights, &load.server).unwrap())
        .collect()
}

#[test]
fn a_server_whose_connections_carry_less_gets_more_of_them() {
    let loads = [load("srv1", 10, 80_000_000), load("srv2", 10, 20_000_000)];
    // 11 / (80 + 5) and 11 / (20 + 5), by the lower.
    assert_eq!(percents(&loads), [100, 340]);
    let loads = [load("srv1", 10, 80_000_000), load("srv2", 40, 80_000_000)];
    let (few, many) = (11.0 / 83.2, 41.0 / 83.2);
    let expected = whole(100.0 * many / few);
    assert_eq!(percents(&loads), [100, expected]);
}

#[test]
fn next_to_nothing_moves_no_weight() {
    let loads = [load("srv1", 10, 190_000), load("srv2", 10, 1_000)];
    assert_eq!(percents(&loads), [100, 100]);
    let mut weights = Weights::default();
    let busy = [load("srv1", 10, 80_000_000), load("srv2", 10, 20_000_000)];
    weights.observe(&busy, SECOND);
    assert_eq!(percent(&weights, "srv2"), Some(340));
    let quiet = [load("srv1", 10, 0), load("srv2", 10, 0)];
    for _ in 0..60 {
        weights.observe(&quiet, SECOND);
    }
    assert_eq!(percent(&weights, "srv2"), Some(100));
}

#[test]
fn backends_do_not_mix() {
    let mut weights = Weights::default();
    let mut other = load("srv1", 10, 1_000_000_000);
    other.backend = "be_api".into();
    let loads = [
        load("srv1", 10, 1_000_000),
        load("srv2", 10, 1_000_000),
        other,
    ];
    weights.observe(&loads, SECOND);
    assert!(weights.percents().all(|(_, percent)| percent == 100));
    assert_eq!(weights.percents().count(), 3);
}

#[test]
fn a_small_change_changes_nothing() {
    let mut weights = Weights::default();
    let of = |rate| [load("srv1", 10, 80_000_000), load("srv2", 10, rate)];
    weights.observe(&of(20_000_000), SECOND);
    for _ in 0..60 {
        weights.observe(&of(20_500_000), SECOND);
    }
    assert_eq!(percent(&weights, "srv2"), Some(340));
    for _ in 0..60 {
        weights.observe(&of(40_000_000), SECOND);
    }
    let now = percent(&weights, "srv2").unwrap();
    assert!((180..200).contains(&now), "{now}");
}

#[test]
fn a_second_does_not_decide() {
    let mut weights = Weights::default();
    let even = [load("srv1", 10, 20_000_000), load("srv2", 10, 20_000_000)];
    for _ in 0..10 {
        weights.observe(&even, SECOND);
    }
    let burst = [load("srv1", 10, 80_000_000), load("srv2", 10, 20_000_000)];
    weights.observe(&burst, SECOND);
    let now = percent(&weights, "srv2").unwrap();
    assert!((120..170).contains(&now), "{now}");
}

#[test]
fn a_server_without_connections_is_forgotten_in_the_end() {
    let mut weights = Weights::default();
    weights.observe(
        &[load("srv1", 10, 1_000_000), load("srv2", 1, 1_000_000)],
        SECOND,
    );
    for _ in 0..30 {
        weights.observe(&[load("srv1", 11, 1_000_000)], SECOND);
    }
    assert!(percent(&weights, "srv2").is_some());
    for _ in 0..60 {
        weights.observe(&[load("srv1", 11, 1_000_000)], SECOND);
    }
    assert_eq!(percent(&weights, "srv2"), None);
    assert_eq!(percent(&weights, "srv1"), Some(100));
}

prop_compose! {
    fn servers()(of in prop::collection::vec((1..1_000_000_u64, any::<u64>()), 1..20)) -> Vec<Load> {
        let each = of.into_iter().enumerate();
        each.map(|(i, (connections, rate))| load(&format!("srv{i}"), connections, rate)).collect()
    }
}

proptest! {
    #[test]
    fn whatever_they_carry_no_server_is_drained(
        mut seconds in prop::collection::vec(servers(), 1..10),
        idle in prop::option::of(0..20_usize),
        elapsed in prop::collection::vec(0..1_000_000_u64, 10),
    ) {
        // A server may have no connection any more.
        for load in seconds.iter_mut().filter_map(|loads| loads.get_mut(idle?)) {
            load.connections = 0;
        }
        let mut weights = Weights::default();
        for (loads, elapsed) in seconds.iter().zip(elapsed) {
            weights.observe(loads, Duration::from_millis(elapsed));
            for (name, percent) in weights.percents() {
                prop_assert!((LOWEST..=HIGHEST).contains(&percent), "{name:?}: {percent}");
            }
        }
    }

    #[test]
    fn one_of_a_backend_is_at_its_configured_weight(loads in servers()) {
        prop_assert_eq!(percents(&loads).into_iter().min(), Some(LOWEST));
    }

    #[test]
    fn with_as_many_connections_the_busier_never_gets_more(
        connections in 1..1000_u64,
        a in 0..1_000_000_000_u64,
        b in 0..1_000_000_000_u64,
    ) {
        let of = percents(&[load("a", connections, a), load("b", connections, b)]);
        prop_assert_eq!(of[0] >= of[1], a <= b || of[0] == of[1]);
    }
}

/// What one run of [`Balancer`] ends with: rate of the busiest by the mean.
struct Run {
    imbalance: f64,
}

/// HAProxy's `leastconn` (2.6 to 3.2): the lowest of `(n + 1) ÷ weight`, zero for
/// a server without connections, and of equals the one that was chosen least
/// recently.
struct Balancer {
    weights: Vec<u64>,
    chosen: Vec<u64>,
    turn: u64,
}

impl Balancer {
    fn choose(&mut self, connections: impl Fn(usize) -> u64) -> usize {
        let key = |i: usize| match connections(i) {
            0 => 0,
            n => (n + 1) * 4096 / (self.weights[i] * 16),
        };
        let servers = 0..self.weights.len();
        let choice = servers.min_by_key(|i| (key(*i), self.chosen[*i])).unwrap();
        self.turn += 1;
        self.chosen[choice] = self.turn;
        choice
    }
}

/// xorshift64*: the same numbers on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
}

const CONFIGURED: u64 = 25;

/// WebSockets of these rates open one after the other over a minute; `show
/// sess` is polled every 5 s, the agent is asked every 2 s.
fn run(rates: &[u64], servers: usize, with_agent: bool) -> Run {
    let mut law = Weights::default();
    let mut balancer = Balancer {
        weights: vec![CONFIGURED; servers],
        chosen: vec![0; servers],
        turn: 0,
    };
    // (rate, known to the daemon)
    let mut open: Vec<Vec<(u64, bool)>> = vec![Vec::new(); servers];
    let mut next = 0;
    for second in 1..=60 {
        while next * 60 < second * rates.len() && next < rates.len() {
            let server = balancer.choose(|i| open[i].len() as u64);
            open[server].push((rates[next], false));
            next += 1;
        }
        if second % 5 == 0 {
            open.iter_mut()
                .flatten()
                .for_each(|(_, known)| *known = true);
        }
        let loads: Vec<Load> = open
            .iter()
            .enumerate()
            .map(|(i, open)| {
                let known = || open.iter().filter(|(_, known)| *known);
                let rate = known().map(|(rate, _)| rate).sum();
                load(&format!("srv{i}"), known().count() as u64, rate)
            })
            .filter(|load| load.connections > 0)
            .collect();
        law.observe(&loads, SECOND);
        if with_agent && second % 2 == 0 {
            for (i, weight) in balancer.weights.iter_mut().enumerate() {
                if let Some(percent) = percent(&law, &format!("srv{i}")) {
                    *weight = (CONFIGURED * u64::from(percent) / 100).min(256);
                }
            }
        }
    }
    let sums = open
        .iter()
        .map(|open| open.iter().map(|(rate, _)| *rate).sum::<u64>());
    let (most, sum) = sums.fold((0, 0), |(most, sum), one| (most.max(one), sum + one));
    #[allow(clippy::cast_precision_loss)]
    let imbalance = (most * servers as u64) as f64 / sum as f64;
    Run { imbalance }
}

const LIGHT: u64 = 100_000;
const HEAVY: u64 = 20 * LIGHT;

/// Six heavy ones, each two after the other: `leastconn` by itself then pins all
/// of them to the same of two servers.
#[test]
fn heavy_websockets_that_open_in_step_are_parted() {
    let mut rates = vec![LIGHT; 66];
    for heavy in 0..6 {
        rates[10 * heavy] = HEAVY;
    }
    let alone = run(&rates, 2, false).imbalance;
    let agent = run(&rates, 2, true).imbalance;
    assert!(alone > 1.5, "{alone}");
    assert!(agent <= 1.2, "{agent}");
}

#[test]
fn in_any_order_the_servers_end_up_more_even() {
    let mut random = Random(0x5EED);
    let (mut alone, mut agent, mut even) = (0.0, 0.0, [0_u32; 2]);
    let (mut bad, mut mended) = (0_u32, 0.0);
    for _ in 0..300 {
        let mut rates = [vec![HEAVY; 6], vec![LIGHT; 60]].concat();
        for i in (1..rates.len()).rev() {
            let other = random.next() as usize % (i + 1);
            rates.swap(i, other);
        }
        let ends = [run(&rates, 2, false), run(&rates, 2, true)].map(|run| run.imbalance);
        alone += ends[0] / 300.0;
        agent += ends[1] / 300.0;
        for (even, end) in even.iter_mut().zip(ends) {
            *even += u32::from(end <= 1.2);
        }
        if ends[0] >= 1.4 {
            bad += 1;
            mended += ends[1];
        }
    }
    let mended = mended / f64::from(bad);
    println!(
        "mean {alone:.3} alone, {agent:.3} with the agent; at most 1.2 in {even:?} of 300; {bad} \
         at 1.4 or more alone have a mean of {mended:.3} with it"
    );
    assert!(alone > 1.15 && agent < 1.11, "{alone} {agent}");
    assert!(even[0] < 150 && even[1] > 270, "{even:?}");
    assert!(bad > 10 && mended < 1.15, "{bad} {mended}");
}
