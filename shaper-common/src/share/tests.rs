use super::*;

const EPOCH: u64 = 1 << EPOCH_SHIFT;
/// The middle of an epoch far from the clock's start.
const START: u64 = 1000 * EPOCH + EPOCH / 2;

/// A client with its flows, as the kernel keeps them.
#[derive(Default)]
struct Client {
    word: u64,
    flows: Vec<u64>,
}

impl Client {
    fn with_flows(n: usize) -> Self {
        Self {
            word: 0,
            flows: vec![0; n],
        }
    }

    fn packet(&mut self, flow: usize, now: u64, cost: u64, debt: u64, direction: u32) {
        let active = active(self.word, now, direction);
        let (word, counted) = take(self.flows[flow], now, cost, active, debt);
        self.flows[flow] = word;
        if counted {
            self.word = count(self.word, now, direction);
        }
    }
}

#[test]
fn nobody_counts_as_one() {
    assert_eq!(active(0, START, 0), 1);
    assert!(!is_active(0, START));
}

#[test]
fn flows_that_share_are_all_counted_once() {
    let mut client = Client::with_flows(8);
    for round in 0..50 {
        let now = START + round * 1_000_000;
        for flow in 0..8 {
            client.packet(flow, now, 1_000_000, 100_000_000, 0);
        }
    }
    assert_eq!(active(client.word, START + 50_000_000, 0), 8);
    assert_eq!(active(client.word, START + 50_000_000, 1), 1);
    assert!(
        client
            .flows
            .iter()
            .all(|f| is_active(*f, START + 50_000_000))
    );
}

#[test]
fn those_who_begin_together_are_known_at_once() {
    let mut client = Client::with_flows(8);
    for flow in 0..8 {
        // Ten segments each; the debt is what all have sent so far.
        let debt = (flow as u64 + 1) * 14_000_000;
        client.packet(flow, START, 14_000_000, debt, 0);
    }
    assert_eq!(active(client.word, START, 0), 8);
}

#[test]
fn a_little_traffic_is_no_share() {
    let mut client = Client::with_flows(31);
    let debt = 100_000_000;
    client.packet(0, START, 60_000_000, debt, 0);
    for flow in 1..31 {
        client.packet(flow, START, 100_000, debt, 0);
    }
    assert_eq!(active(client.word, START, 0), 1);
    assert!(is_active(client.flows[0], START));
    assert!(!is_active(client.flows[1], START));
}

#[test]
fn who_stops_is_forgotten_after_the_next_epoch() {
    let mut client = Client::with_flows(2);
    for flow in 0..2 {
        client.packet(flow, START, 100_000_000, 100_000_000, 0);
    }
    assert_eq!(active(client.word, START + EPOCH, 0), 2);
    client.packet(0, START + EPOCH, 600_000_000, 100_000_000, 0);
    assert_eq!(active(client.word, START + EPOCH, 0), 2);
    assert!(is_active(client.flows[1], START + EPOCH));
    assert_eq!(active(client.word, START + 2 * EPOCH, 0), 1);
    assert!(!is_active(client.flows[1], START + 2 * EPOCH));
    assert!(is_active(client.flows[0], START + 2 * EPOCH));
}

#[test]
fn who_waits_stays_active() {
    let (mut word, counted) = take(0, START, 100_000_000, 1, 100_000_000);
    assert!(counted);
    for epoch in 1..5 {
        let now = START + epoch * EPOCH;
        let (next, counted) = wait(word, now);
        assert!(counted && !wait(next, now).1);
        assert!(is_active(next, now));
        word = next;
    }
}

#[test]
fn directions_are_counted_apart_and_stop_at_their_width() {
    let mut word = 0;
    for _ in 0..5_000 {
        word = count(word, START, 1);
    }
    assert_eq!(active(word, START, 1), 4095);
    assert_eq!(active(word, START, 0), 1);
    word = count(word, START, 0);
    word = count(word, START + EPOCH, 0);
    assert_eq!(active(word, START + EPOCH, 0), 1);
    assert_eq!(active(word, START + EPOCH, 1), 4095);
}

#[test]
fn the_cost_of_an_epoch_saturates() {
    let (word, _) = take(0, START, u64::MAX, 1, u64::MAX);
    let (word, _) = take(word, START, u64::MAX, 4095, u64::MAX);
    assert_eq!(used(word, START), COST_MASK);
    assert_eq!(used(word, START + EPOCH), 0);
    assert_eq!(elapsed(START), EPOCH / 2);
}
