//! The cursor of the history tab, and what is asked for.

use super::*;
use crate::top::fake::{Bench, World, start};
use crossterm::event::KeyCode;

fn bench() -> Bench {
    let mut bench = Bench::new(World::lab(), 80, 24, 1);
    bench.write("4");
    bench.second();
    bench
}

fn at(minutes: i64) -> i64 {
    start().as_second() - minutes * 60
}

#[test]
fn the_newest_minute_is_under_the_cursor_until_another_is_chosen() {
    let mut bench = bench();
    assert_eq!(bench.app.minutes.chosen, None);
    assert_eq!(bench.app.minutes.cursor(), Some(at(1)));
    bench.press(KeyCode::Left);
    bench.press(KeyCode::Left);
    assert_eq!(bench.app.minutes.chosen, Some(at(3)));
    let behind = bench.app.minutes.behind.as_ref().unwrap();
    assert_eq!(behind.since.as_second(), at(3));
    assert_eq!(behind.flows.len(), 3, "the flows of that minute alone");
    bench.press(KeyCode::Right);
    bench.press(KeyCode::Right);
    assert_eq!(bench.app.minutes.chosen, None, "the newest again");
    bench.press(KeyCode::Home);
    assert_eq!(bench.app.minutes.cursor(), Some(at(240)));
    bench.press(KeyCode::PageDown);
    assert_eq!(bench.app.minutes.cursor(), Some(at(180)));
    bench.press(KeyCode::End);
    assert_eq!(bench.app.minutes.cursor(), Some(at(1)));
}

#[test]
fn minutes_are_not_asked_for_every_second() {
    let mut bench = bench();
    let ask = |bench: &Bench| bench.app.minutes.queries(bench.world.now());
    assert_eq!(ask(&bench), [None, None]);
    bench.world.second += FRESH + 1;
    let [all, behind] = ask(&bench);
    assert_eq!(all.unwrap().limit, Some(0), "the minutes alone");
    assert_eq!(behind, None, "it is here");
}

#[test]
fn its_flows_scroll_and_no_further() {
    let mut bench = bench();
    for _ in 0..9 {
        bench.press(KeyCode::Down);
    }
    assert_eq!(bench.app.minutes.offset, 2);
    bench.press(KeyCode::Up);
    assert_eq!(bench.app.minutes.offset, 1);
    bench.press(KeyCode::Left);
    assert_eq!(bench.app.minutes.offset, 0, "another minute");
}

#[test]
fn keys_of_lists_change_nothing_there() {
    let mut bench = bench();
    for key in ["l", "b", "s", "r", "/", " "] {
        bench.write(key);
        assert!(bench.app.dialog.is_none(), "{key}");
    }
    assert!(bench.app.frozen.is_none() && !bench.app.clients.reverse);
    bench.write("q");
    assert!(bench.left);
}
