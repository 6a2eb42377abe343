//! The servers tab.

use super::row::ServerKey;
use super::*;
use crate::protocol::SortKey;
use crate::top::fake::{Bench, World};
use crossterm::event::KeyCode;

fn bench() -> Bench {
    let mut bench = Bench::new(World::lab(), 80, 24, 3);
    bench.write("3");
    bench
}

fn names(bench: &Bench) -> Vec<String> {
    let items = bench.app.servers.items.iter();
    items.map(|item| item.key.to_string()).collect()
}

#[test]
fn servers_come_with_their_backends_and_history() {
    let mut bench = bench();
    bench.second();
    assert_eq!(names(&bench)[0], "be_ws/srv1");
    let backends: Vec<_> = bench.app.backends.iter().map(|b| &b.backend).collect();
    assert_eq!(backends, ["be_chat", "be_ws"]);
    let key = ServerKey {
        backend: "be_ws".to_owned(),
        server: "srv1".to_owned(),
    };
    let past = &bench.app.servers.past[&key];
    let heard = past.cells(60, |rates| rates[0]).into_iter().flatten();
    assert_eq!(heard.count(), 2, "since the tab was opened");
}

#[test]
fn sorting_leaves_out_the_age_that_servers_have_not() {
    let mut bench = bench();
    let mut seen = Vec::new();
    for _ in 0..5 {
        bench.write("s");
        seen.push(bench.app.servers.sort);
    }
    assert_eq!(seen[4], SortKey::Total);
    assert!(!seen.contains(&SortKey::Age));
    bench.write("<");
    assert_eq!(
        names(&bench),
        ["be_chat/chat-1", "be_ws/srv1", "be_ws/srv2", "be_ws/srv3"]
    );
    assert!(bench.text().contains("sorted by name"));
    bench.write("r");
    assert_eq!(names(&bench)[0], "be_ws/srv3");
    bench.write("<");
    assert!(bench.text().contains("sorted by dropped reversed"));
}

#[test]
fn enter_shows_the_flows_of_a_server() {
    let mut bench = bench();
    bench.press(KeyCode::Down);
    bench.press(KeyCode::Down);
    bench.press(KeyCode::Enter);
    assert_eq!(bench.app.tab, Tab::Flows);
    assert_eq!(bench.app.flows.filter, "server:be_ws/srv2");
    let flows = &bench.app.flows.items;
    assert!(!flows.is_empty());
    assert!(flows.iter().all(|item| {
        let at = item.row.haproxy.as_ref().unwrap();
        at.server == "srv2"
    }));
    assert!(bench.text().contains("filter server:be_ws/srv2"));
    // There and back: the other tab is as it was.
    bench.write("3");
    assert_eq!(bench.app.servers.cursor, Some(1));
    assert_eq!(bench.app.servers.filter, "");
    // The first row, where nobody chose one; a frozen picture goes on.
    bench.press(KeyCode::Esc);
    bench.write(" ");
    bench.press(KeyCode::Enter);
    assert!(bench.app.frozen.is_none());
    assert_eq!(bench.app.flows.filter, "server:be_ws/srv1");
    assert_eq!(bench.app.flows.cursor, None);
}

#[test]
fn without_servers_there_is_nothing_to_choose() {
    let mut world = World::lab();
    for flow in &mut world.flows {
        flow.haproxy = None;
    }
    let mut bench = Bench::new(world, 80, 24, 3);
    bench.write("3");
    for key in [KeyCode::Enter, KeyCode::Char('l'), KeyCode::Char('b')] {
        bench.press(key);
        assert_eq!(bench.app.tab, Tab::Servers);
        assert!(bench.app.dialog.is_none());
        let said = &bench.app.notice.as_ref().unwrap().text;
        assert_eq!(said, "there is no row to choose");
    }
}

#[test]
fn limiting_and_blocking_are_about_the_top_client() {
    let mut bench = bench();
    bench.write("l");
    let Some(Dialog::Limit(form)) = &bench.app.dialog else {
        panic!("the form");
    };
    assert_eq!(form.client, "203.0.113.7");
    bench.press(KeyCode::Esc);
    bench.write("b");
    assert!(bench.text().contains("Block 203.0.113.7?"));
}

#[test]
fn a_server_whose_clients_left_has_none_to_block() {
    let mut app = bench().app;
    let row = &mut app.servers.items[0].row;
    row.top_client = None;
    let key = KeyEvent::new(KeyCode::Char('b'), crossterm::event::KeyModifiers::NONE);
    app.update(Msg::Key(key));
    assert!(app.dialog.is_none());
    assert_eq!(app.notice.unwrap().text, "this server has no client");
}
