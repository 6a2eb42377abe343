use super::*;
use crate::testing::session;
use proptest::prelude::*;

pub(in crate::haproxy) fn target(port: u16, rate: u64) -> Target {
    Target {
        client: format!("192.0.2.1:{port}").parse().unwrap(),
        session: session(port.into(), "srv1"),
        rate,
    }
}

fn srv1() -> ServerName {
    server_name("be_ws/srv1").unwrap()
}

fn plan(rates: &[u64], percent: u8, over: u64) -> Result<Plan, PlanError> {
    let pinned = (1..)
        .zip(rates)
        .map(|(port, rate)| target(port, *rate))
        .collect();
    Plan::new(&srv1(), pinned, percent, Duration::from_secs(over))
}

fn ports(plan: &Plan) -> Vec<u16> {
    plan.targets
        .iter()
        .map(|target| target.client.port())
        .collect()
}

#[test]
fn the_heaviest_that_carry_the_share_are_closed() {
    let rates = [10, 30, 20, 40, 0];
    assert_eq!(ports(&plan(&rates, 40, 600).unwrap()), [4]);
    assert_eq!(ports(&plan(&rates, 41, 600).unwrap()), [4, 2]);
    assert_eq!(ports(&plan(&rates, 1, 600).unwrap()), [4]);
    // Those that carry nothing are in nobody's way.
    assert_eq!(ports(&plan(&rates, 100, 600).unwrap()), [4, 2, 3, 1]);
    let plan = plan(&rates, 70, 600).unwrap();
    assert_eq!(
        (plan.target_rate(), plan.interval()),
        (30, Duration::from_secs(300))
    );
}

#[test]
fn what_cannot_be_drained_is_told() {
    let error = |rates: &[u64], percent, over| plan(rates, percent, over).unwrap_err().to_string();
    assert_eq!(
        error(&[], 30, 600),
        "no open session is pinned to be_ws/srv1; `shaper servers` lists the servers that have some"
    );
    assert!(error(&[0, 0], 30, 600).starts_with("nothing moves on be_ws/srv1"));
    assert!(error(&[1], 0, 600).contains("1% to 100%"));
    assert!(error(&[1], 101, 600).contains("1% to 100%"));
    assert!(error(&[1], 30, 0).contains("1s to 24h"));
    assert!(error(&[1], 30, 86_401).contains("1s to 24h"));
    assert_eq!(
        error(&[1; 100], 100, 9),
        "these are 100 sessions, and at most 10 are closed in a second: take at least 10s"
    );
    assert!(plan(&[1; 100], 100, 10).is_ok());
}

#[test]
fn servers_are_named_with_their_backend() {
    assert_eq!(
        server_name("be_ws/srv1:8.a-b").unwrap().1.as_ref(),
        "srv1:8.a-b"
    );
    for wrong in [
        "",
        "srv1",
        "/srv1",
        "be_ws/",
        "be/srv/1",
        "be ws/srv1",
        "be_ws/srv1\nquit",
        "b/\u{e9}",
    ] {
        let error = server_name(wrong).unwrap_err().to_string();
        assert!(
            error.contains("backend/server") && !error.contains('\n'),
            "{error}"
        );
    }
}

#[test]
fn a_dry_run_names_what_would_be_closed() {
    let rates = [40_000_000, 30_000_000, 20_000_000, 10_000_000];
    insta::assert_snapshot!(plan(&rates, 70, 600).unwrap().dry_run(), @r"
    would close 2 of the 4 sessions of be_ws/srv1, which carry 70.0 Mbit/s of its 100 Mbit/s, one every 5m, until it carries at most 30.0 Mbit/s:
      192.0.2.1:1  0x1  40.0 Mbit/s
      192.0.2.1:2  0x2  30.0 Mbit/s
    ");
    let many = plan(&[1; 60], 100, 60).unwrap().dry_run();
    assert!(many.ends_with("\n  and 10 more"), "{many}");
    assert_eq!(many.lines().count(), 1 + NAMED + 1);
}

proptest! {
    #[test]
    fn the_planned_carry_the_share_and_none_is_needless(
        rates in prop::collection::vec(0..1_000_000_000_u64, 1..50),
        percent in 1..=100_u8,
    ) {
        let sum: u64 = rates.iter().sum();
        prop_assume!(sum > 0);
        let plan = plan(&rates, percent, 86_400).unwrap();
        let carried: u64 = plan.targets.iter().map(|target| target.rate).sum();
        prop_assert!(sum - carried <= plan.target_rate());
        let last = plan.targets.last().unwrap().rate;
        prop_assert!((carried - last) * 100 < sum * u64::from(percent));
        let left_max = rates.iter().filter(|rate| **rate > last).count();
        prop_assert!(left_max <= plan.targets.len());
    }
}
