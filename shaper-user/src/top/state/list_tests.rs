//! Order, cursor and hysteresis.

use super::super::row::ClientKey;
use super::*;
use crate::model::Client;
use crate::top::fake::{client, flow};

fn names(list: &List<Client>) -> Vec<&str> {
    list.items.iter().map(|i| i.row.client.as_str()).collect()
}

fn take(list: &mut List<Client>, second: i64, rates: &[(&str, u64)]) {
    let rows: Vec<_> = rates
        .iter()
        .map(|(name, up)| client(name, *up, 0))
        .collect();
    let matched = rows.len() as u64;
    list.take(rows, matched, second * 1000, 1);
}

#[test]
fn noise_moves_no_row() {
    let mut list = List::default();
    take(
        &mut list,
        1,
        &[("10.0.0.1", 1_000_000), ("10.0.0.2", 1_010_000)],
    );
    assert_eq!(names(&list), ["10.0.0.2", "10.0.0.1"]);
    for second in 2..120 {
        // Up to 8 % around one rate, each above the other in turn.
        let wobble = if second % 2 == 0 { 80_000 } else { 0 };
        take(
            &mut list,
            second,
            &[
                ("10.0.0.1", 960_000 + wobble),
                ("10.0.0.2", 1_040_000 - wobble),
            ],
        );
        assert_eq!(names(&list), ["10.0.0.2", "10.0.0.1"], "second {second}");
    }
}

#[test]
fn a_real_change_moves_a_row_within_seconds() {
    let mut list = List::default();
    take(
        &mut list,
        1,
        &[("10.0.0.1", 1_000_000), ("10.0.0.2", 2_000_000)],
    );
    let moved = (2..20).find(|second| {
        take(
            &mut list,
            *second,
            &[("10.0.0.1", 8_000_000), ("10.0.0.2", 2_000_000)],
        );
        names(&list)[0] == "10.0.0.1"
    });
    assert!(moved.unwrap() <= 4, "{moved:?}");
}

#[test]
fn ties_are_in_numeric_order_of_addresses_whichever_way_the_list_is_turned() {
    let mut list = List::default();
    let rates = [
        ("2001:db8::/64", 0),
        ("10.0.0.10", 0),
        ("10.0.0.9", 0),
        ("9.0.0.1", 500),
    ];
    take(&mut list, 1, &rates);
    assert_eq!(
        names(&list),
        ["9.0.0.1", "10.0.0.9", "10.0.0.10", "2001:db8::/64"]
    );
    list.turn();
    assert_eq!(
        names(&list),
        ["10.0.0.9", "10.0.0.10", "2001:db8::/64", "9.0.0.1"]
    );
    list.sort = SortKey::Client;
    list.arrange(true);
    assert_eq!(
        names(&list),
        ["2001:db8::/64", "10.0.0.10", "10.0.0.9", "9.0.0.1"]
    );
}

#[test]
fn asking_for_an_order_takes_the_values_anew() {
    let mut list = List::default();
    take(
        &mut list,
        1,
        &[("10.0.0.1", 1_000_000), ("10.0.0.2", 1_040_000)],
    );
    for second in 2..30 {
        take(
            &mut list,
            second,
            &[("10.0.0.1", 1_090_000), ("10.0.0.2", 1_040_000)],
        );
    }
    assert_eq!(names(&list), ["10.0.0.2", "10.0.0.1"], "held");
    list.cycle(true);
    list.cycle(false);
    assert_eq!(names(&list), ["10.0.0.1", "10.0.0.2"]);
}

#[test]
fn age_and_time_held_order_rows_too() {
    let mut list = List::default();
    let mut rows = vec![client("10.0.0.1", 0, 0), client("10.0.0.2", 0, 0)];
    rows[1].age_ms += 60_000;
    rows[0].upload.limited_ms = 5_000;
    for (sort, first) in [(SortKey::Age, "10.0.0.2"), (SortKey::Limited, "10.0.0.1")] {
        list.sort = sort;
        list.take(rows.clone(), 2, 1_000, 1);
        list.arrange(true);
        assert_eq!(names(&list)[0], first);
    }
    let mut flows = List {
        sort: SortKey::Limited,
        ..List::default()
    };
    let (quiet, mut lossy) = (flow("10.0.0.1", 1, 0, 0), flow("10.0.0.2", 2, 0, 0));
    lossy.upload.dropped_bytes = 5_000;
    flows.take(vec![quiet, lossy], 2, 1_000, 1);
    assert_eq!(flows.items[0].key.client.port(), 2);
}

#[test]
fn the_cursor_stays_on_its_row_while_rows_move() {
    let mut list = List::default();
    take(
        &mut list,
        1,
        &[("10.0.0.1", 3_000_000), ("10.0.0.2", 2_000_000)],
    );
    list.select(1);
    for second in 2..10 {
        take(
            &mut list,
            second,
            &[("10.0.0.1", 3_000_000), ("10.0.0.2", 9_000_000)],
        );
    }
    assert_eq!(names(&list), ["10.0.0.2", "10.0.0.1"]);
    assert_eq!(list.cursor, Some(0));
    assert_eq!(list.selected, Some(ClientKey::new("10.0.0.2")));
}

#[test]
fn when_its_row_goes_the_cursor_takes_the_next() {
    let mut list = List::default();
    take(
        &mut list,
        1,
        &[
            ("10.0.0.1", 3_000),
            ("10.0.0.2", 2_000),
            ("10.0.0.3", 1_000),
        ],
    );
    list.select(1);
    take(&mut list, 2, &[("10.0.0.1", 3_000), ("10.0.0.3", 1_000)]);
    assert_eq!(list.selected, Some(ClientKey::new("10.0.0.3")));
    take(&mut list, 3, &[]);
    assert_eq!((list.cursor, &list.selected), (None, &None));
}

#[test]
fn what_is_not_heard_of_for_a_minute_is_forgotten() {
    let mut list = List::default();
    take(&mut list, 1, &[("10.0.0.1", 1), ("10.0.0.2", 1)]);
    for second in 2..=61 {
        take(&mut list, second, &[("10.0.0.2", 1)]);
    }
    assert_eq!(list.past.len(), 2);
    take(&mut list, 62, &[("10.0.0.2", 1)]);
    assert_eq!(list.past.len(), 1);
}

#[test]
fn scrolling_keeps_the_cursor_on_the_screen() {
    let mut list = List::default();
    let rows: Vec<_> = (0..100)
        .map(|n| client(&format!("10.0.0.{n}"), 0, 0))
        .collect();
    list.take(rows, 100, 1_000, 1);
    list.select(50);
    list.scroll(10);
    assert_eq!(list.offset, 41);
    list.step(-20);
    list.scroll(10);
    assert_eq!(list.offset, 30);
    list.step(1000);
    list.scroll(10);
    assert_eq!((list.cursor, list.offset), (Some(99), 90));
    // A screen that grows shows more, not emptiness.
    list.scroll(40);
    assert_eq!(list.offset, 60);
    list.unselect();
    list.scroll(10);
    assert_eq!(list.offset, 0);
}

#[test]
fn a_client_contains_its_addresses() {
    let key = ClientKey::new("2001:db8:1:2::/64");
    assert!(key.contains("2001:db8:1:2::17".parse().unwrap()));
    assert!(!key.contains("2001:db8:1:3::17".parse().unwrap()));
    assert!(ClientKey::new("192.0.2.1").contains("192.0.2.1".parse().unwrap()));
}
