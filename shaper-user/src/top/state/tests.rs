//! What each key and each answer does.

use super::dialog::Dialog;
use super::*;
use crate::protocol::{Command, ErrorBody, ErrorCode, SortKey};
use crate::top::fake::servers::at;
use crate::top::fake::{Bench, World, client, flow, refused, start};
use crossterm::event::{KeyCode, KeyModifiers};

fn bench() -> Bench {
    Bench::new(World::lab(), 80, 24, 3)
}

fn selected(bench: &Bench) -> Option<String> {
    bench.app.selected_client().map(|key| key.name)
}

fn say_no(bench: &mut Bench, code: ErrorCode, message: &str) {
    bench.world.verdict = Err(ErrorBody {
        code,
        message: message.to_owned(),
    });
}

#[test]
fn q_and_control_c_leave_even_from_a_dialog() {
    let mut bench = bench();
    bench.write("q");
    assert!(bench.left);
    for keys in ["/", "l", "b", "?"] {
        let mut bench = self::bench();
        bench.write(keys);
        assert!(bench.app.dialog.is_some(), "{keys}");
        let key = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        bench.send(Msg::Key(key));
        assert!(bench.left, "{keys}");
    }
    // Text is text.
    let mut bench = self::bench();
    bench.write("/q");
    assert!(!bench.left);
}

#[test]
fn arrows_and_pages_move_the_cursor() {
    let mut bench = bench();
    assert_eq!(selected(&bench), None, "nobody chose yet");
    bench.press(KeyCode::Down);
    assert_eq!(selected(&bench).as_deref(), Some("203.0.113.7"));
    bench.press(KeyCode::Down);
    assert_eq!(bench.app.clients.cursor, Some(1));
    bench.press(KeyCode::Up);
    bench.press(KeyCode::Up);
    assert_eq!(bench.app.clients.cursor, Some(0));
    bench.press(KeyCode::PageDown);
    assert_eq!(bench.app.clients.cursor, Some(18));
    bench.press(KeyCode::End);
    assert_eq!(bench.app.clients.cursor, Some(20));
    assert_eq!(bench.app.clients.offset, 3);
    bench.press(KeyCode::PageUp);
    assert_eq!(bench.app.clients.cursor, Some(2));
    bench.press(KeyCode::Home);
    assert_eq!(
        (bench.app.clients.cursor, bench.app.clients.offset),
        (Some(0), 0)
    );
    bench.press(KeyCode::Esc);
    assert_eq!(selected(&bench), None);
}

#[test]
fn tabs_open_with_their_rows() {
    let mut bench = bench();
    for (code, tab) in [
        (KeyCode::Tab, Tab::Flows),
        (KeyCode::Tab, Tab::Servers),
        (KeyCode::Tab, Tab::History),
        (KeyCode::Tab, Tab::Clients),
        (KeyCode::Char('4'), Tab::History),
        (KeyCode::Char('3'), Tab::Servers),
        (KeyCode::Char('2'), Tab::Flows),
        (KeyCode::Char('1'), Tab::Clients),
        (KeyCode::BackTab, Tab::History),
        (KeyCode::BackTab, Tab::Servers),
        (KeyCode::BackTab, Tab::Flows),
    ] {
        bench.press(code);
        assert_eq!(bench.app.tab, tab);
    }
    // Without waiting for the next second.
    assert_eq!(bench.app.flows.items.len(), 21);
    assert_eq!(bench.app.servers.items.len(), 4);
}

#[test]
fn flows_and_servers_are_asked_for_only_where_they_are_shown() {
    let mut app = bench().app;
    let now = app.now;
    let Some(Action::Fetch(wanted)) = app.update(Msg::Tick(now)) else {
        panic!("a tick asks");
    };
    assert_eq!((&wanted.flows, &wanted.detail), (&None, &None));
    assert_eq!(wanted.servers, None);
    assert_eq!(wanted.clients.limit, Some(crate::top::source::ROWS));
}

#[test]
fn sorting_goes_round_both_ways_and_is_asked_of_the_daemon() {
    let mut bench = bench();
    let mut seen = Vec::new();
    for _ in 0..6 {
        bench.write("s");
        seen.push(bench.app.clients.sort);
    }
    assert_eq!(seen[0], SortKey::Upload);
    assert_eq!(seen[5], SortKey::Total);
    bench.write("<");
    assert_eq!(bench.app.clients.sort, SortKey::Client);
    bench.write(">");
    assert_eq!(bench.app.clients.sort, SortKey::Total);
    assert_eq!(bench.app.flows.sort, SortKey::Total, "each tab has its own");
    let key = |c| Msg::Key(KeyEvent::new(KeyCode::Char(c), KeyModifiers::NONE));
    let Some(Action::Fetch(wanted)) = bench.app.update(key('r')) else {
        panic!("it asks at once");
    };
    assert!(wanted.clients.reverse && bench.app.clients.reverse);
    let first = &bench.app.clients.items[0].row;
    assert_eq!(first.client, "198.51.100.7", "the quietest");
}

#[test]
fn a_filter_narrows_and_an_empty_one_shows_all() {
    let mut bench = bench();
    bench.write("/client:10.");
    bench.press(KeyCode::Enter);
    assert!(bench.app.dialog.is_none());
    assert_eq!(bench.app.clients.filter, "client:10.");
    assert_eq!(bench.app.clients.items.len(), 16);
    bench.write("/");
    let Some(Dialog::Filter(filter)) = &bench.app.dialog else {
        panic!("the filter's line");
    };
    assert_eq!(
        filter.input.value(),
        "client:10.",
        "the old one can be mended"
    );
    bench.send(Msg::Key(KeyEvent::new(
        KeyCode::Char('u'),
        KeyModifiers::CONTROL,
    )));
    bench.press(KeyCode::Enter);
    assert_eq!(bench.app.clients.items.len(), 21);
}

#[test]
fn a_bad_filter_says_why_and_leaves_the_old_one() {
    for (tab, good, left) in [
        ("1", "client:10.", 16),
        ("2", "client:10.", 16),
        ("3", "server:be_ws", 3),
    ] {
        let mut bench = bench();
        bench.write(tab);
        bench.write(&format!("/{good}"));
        bench.press(KeyCode::Enter);
        bench.write("/");
        let line = KeyEvent::new(KeyCode::Char('u'), KeyModifiers::CONTROL);
        bench.send(Msg::Key(line));
        bench.write("nonsense");
        bench.press(KeyCode::Enter);
        let Some(Dialog::Filter(filter)) = &bench.app.dialog else {
            panic!("still typing");
        };
        assert!(filter.error.as_ref().unwrap().contains("unknown term"));
        assert_eq!(filter.input.value(), "nonsense");
        bench.press(KeyCode::Esc);
        bench.second();
        assert!(bench.app.gone.is_none());
        let (filter, rows) = match tab {
            "1" => (&bench.app.clients.filter, bench.app.clients.items.len()),
            "2" => (&bench.app.flows.filter, bench.app.flows.items.len()),
            _ => (&bench.app.servers.filter, bench.app.servers.items.len()),
        };
        assert_eq!((filter.as_str(), rows), (good, left));
    }
}

#[test]
fn freezing_keeps_the_picture_and_loses_no_history() {
    let mut bench = bench();
    bench.write(" ");
    let before = bench.text();
    bench.world.clients[0].upload.traffic.rate_bps = 1_000_000;
    for _ in 0..10 {
        bench.second();
    }
    let rate = |bench: &Bench| {
        let heavy = ClientKey::new("203.0.113.7");
        bench.app.client(&heavy).unwrap().upload.traffic.rate_bps
    };
    assert_eq!(rate(&bench), 7_980_000);
    let rows = |text: &str| text.lines().skip(4).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(rows(&before), rows(&bench.text()));
    // Sorting works on what is there.
    bench.write("r");
    assert_eq!(bench.app.clients.items[0].row.client, "198.51.100.7");
    bench.write("r ");
    assert_eq!(rate(&bench), 1_000_000);
    let past = &bench.app.clients.past[&ClientKey::new("203.0.113.7")];
    let heard = past.cells(60, |r| r[0]).into_iter().flatten().count();
    assert_eq!(heard, 13);
}

#[test]
fn a_limit_is_typed_asked_and_set() {
    let mut bench = bench();
    bench.write("l8mbit");
    bench.press(KeyCode::Down);
    bench.write("32mbi");
    bench.press(KeyCode::Backspace);
    bench.write("it");
    bench.press(KeyCode::Tab);
    bench.write("10m");
    bench.press(KeyCode::Enter);
    let Some(Dialog::Confirm(confirm)) = &bench.app.dialog else {
        panic!("a question");
    };
    assert_eq!(
        confirm.question,
        "Limit 203.0.113.7: upload to 8mbit and download to 32mbit, for 10m?"
    );
    // Only `y` is yes.
    bench.press(KeyCode::Enter);
    assert!(bench.world.asked.is_empty());
    bench.write("n");
    assert!(
        matches!(bench.app.dialog, Some(Dialog::Limit(_))),
        "back to the form"
    );
    bench.press(KeyCode::Enter);
    bench.write("y");
    assert_eq!(
        bench.world.asked,
        [Command::Limit {
            client: "203.0.113.7".to_owned(),
            upload: Some("8mbit".to_owned()),
            download: Some("32mbit".to_owned()),
            for_ms: Some(600_000),
        }]
    );
    assert!(bench.app.dialog.is_none());
    assert_eq!(bench.app.notice.as_ref().unwrap().text, "done");
}

#[test]
fn an_empty_form_clears_a_limit_of_the_runtime_and_nothing_else() {
    let mut bench = bench();
    bench.write("l");
    bench.press(KeyCode::Enter);
    let Some(Dialog::Limit(form)) = &bench.app.dialog else {
        panic!("still the form");
    };
    assert!(form.error.as_ref().unwrap().contains("write an upload"));
    bench.press(KeyCode::Esc);
    bench.press(KeyCode::Down);
    bench.press(KeyCode::Down);
    assert_eq!(selected(&bench).as_deref(), Some("198.51.100.23"));
    bench.write("l");
    bench.press(KeyCode::Enter);
    bench.write("y");
    let client = "198.51.100.23".to_owned();
    assert_eq!(bench.world.asked, [Command::ClearLimit { client }]);
}

#[test]
fn a_rate_that_the_daemon_refuses_can_be_mended() {
    let mut bench = bench();
    say_no(
        &mut bench,
        ErrorCode::BadRequest,
        "`8mbps`: write 8mbit or 8MB/s",
    );
    bench.write("l8mbps");
    bench.press(KeyCode::Enter);
    bench.write("y");
    let Some(Dialog::Limit(form)) = &bench.app.dialog else {
        panic!("the form again");
    };
    assert_eq!(form.error.as_deref(), Some("`8mbps`: write 8mbit or 8MB/s"));
    assert_eq!(form.fields[0].value(), "8mbps");
}

#[test]
fn without_the_right_the_refusal_is_polite_and_names_the_way() {
    for (keys, typed) in [
        ("l8mbit\n", "shaper limit 203.0.113.7 --upload 8mbit"),
        ("b", "shaper block 203.0.113.7"),
    ] {
        let mut bench = bench();
        say_no(
            &mut bench,
            ErrorCode::Denied,
            "only root may change limits.",
        );
        for c in keys.chars() {
            bench.press(if c == '\n' {
                KeyCode::Enter
            } else {
                KeyCode::Char(c)
            });
        }
        bench.write("y");
        let Some(Dialog::Message(message)) = &bench.app.dialog else {
            panic!("a message for {keys}");
        };
        assert_eq!(message.title, "Not allowed");
        assert!(message.text.contains("only root may change limits"));
        assert!(message.text.contains(typed), "{}", message.text);
        assert!(bench.text().contains("Nothing was changed."));
        bench.press(KeyCode::Enter);
        assert!(bench.app.dialog.is_none());
        assert!(!bench.left);
    }
}

#[test]
fn blocking_asks_first_and_unblocks_what_was_blocked_at_runtime() {
    let mut bench = bench();
    bench.write("b");
    assert!(bench.text().contains("its 3 open"));
    bench.write("n");
    assert!(bench.app.dialog.is_none());
    assert!(bench.world.asked.is_empty());
    bench.write("by");
    let name = || "203.0.113.7".to_owned();
    let block = Command::Block {
        client: name(),
        for_ms: None,
    };
    assert_eq!(bench.world.asked, [block]);
    let runtime = crate::model::Runtime {
        upload_bps: None,
        download_bps: None,
        blocked: true,
        limit_expires: None,
        block_expires: None,
    };
    bench.world.clients[0].blocked = true;
    bench.world.clients[0].runtime = Some(runtime);
    bench.second();
    bench.write("by");
    assert_eq!(bench.world.asked[1], Command::Unblock { client: name() });
}

#[test]
fn a_block_of_the_policy_is_left_to_the_policy() {
    let mut bench = bench();
    bench.press(KeyCode::End);
    assert_eq!(selected(&bench).as_deref(), Some("198.51.100.7"));
    bench.write("b");
    assert!(bench.app.dialog.is_none());
    let said = &bench.app.notice.as_ref().unwrap().text;
    assert!(said.contains("the policy's rule \"abuser\""), "{said}");
}

#[test]
fn a_question_names_its_client_whatever_happens_to_the_list() {
    let mut bench = bench();
    bench.write("b");
    bench.world.clients.remove(0);
    bench.second();
    bench.write("y");
    let client = "203.0.113.7".to_owned();
    assert_eq!(
        bench.world.asked,
        [Command::Block {
            client,
            for_ms: None
        }]
    );
}

#[test]
fn the_pane_follows_the_cursor_and_closes() {
    let mut bench = bench();
    bench.press(KeyCode::Enter);
    let pane = bench.app.pane.as_ref().unwrap();
    assert_eq!(
        (pane.key.name.as_str(), pane.flows.len()),
        ("203.0.113.7", 3)
    );
    bench.press(KeyCode::Down);
    let pane = bench.app.pane.as_ref().unwrap();
    assert_eq!(pane.key.name, "2001:db8:1:2::/64");
    assert_eq!(pane.flows.len(), 1);
    bench.press(KeyCode::Esc);
    assert!(bench.app.pane.is_none());
    assert!(selected(&bench).is_some(), "one thing at a time");
}

#[test]
fn a_flow_opens_the_client_it_belongs_to() {
    let mut bench = bench();
    bench.write("2");
    bench.press(KeyCode::Down);
    bench.press(KeyCode::Down);
    assert_eq!(selected(&bench).as_deref(), Some("2001:db8:1:2::/64"));
    bench.press(KeyCode::Enter);
    assert!(bench.app.pane.as_ref().unwrap().client.is_some());
}

#[test]
fn a_pane_can_be_opened_on_a_frozen_picture() {
    let mut bench = bench();
    bench.write(" ");
    bench.world.clients.push(client("10.9.9.9", 1, 1));
    bench.press(KeyCode::Down);
    bench.press(KeyCode::Enter);
    assert!(bench.app.pane.as_ref().unwrap().client.is_some());
    assert_eq!(bench.app.clients.items.len(), 21);
}

#[test]
fn a_daemon_that_goes_is_waited_for_and_comes_back_by_itself() {
    let mut bench = bench();
    bench.world.up = false;
    bench.second();
    let since = bench.app.gone.as_ref().unwrap().since;
    assert_eq!(since, start() + SignedDuration::from_secs(4));
    // Tries after 1, 2, 3, 5, 5 … seconds.
    let mut tries = Vec::new();
    for second in 1..=21 {
        let now = bench.world.now() + SignedDuration::from_secs(second);
        if let Some(Action::Fetch(wanted)) = bench.app.update(Msg::Tick(now)) {
            tries.push(second);
            let error = bench.world.answer(&wanted).unwrap_err();
            bench.app.update(Msg::Fetched(wanted, Err(error)));
        }
    }
    assert_eq!(tries, [1, 3, 6, 11, 16, 21]);
    assert_eq!(bench.app.gone.as_ref().unwrap().since, since);
    assert_eq!(bench.app.clients.items.len(), 21, "the old rows stay");
    bench.world.up = true;
    bench.world.second += 26;
    bench.second();
    assert!(bench.app.gone.is_none());
    assert!(!bench.text().contains("GONE"));
    // And from then on every second.
    bench.world.up = false;
    bench.second();
    assert_eq!(bench.app.gone.as_ref().unwrap().tries, 1);
}

#[test]
fn a_change_without_a_daemon_is_said_not_to_be_done() {
    let mut bench = bench();
    bench.write("b");
    bench.world.up = false;
    bench.write("y");
    assert!(bench.app.dialog.is_none());
    assert!(
        bench
            .app
            .notice
            .as_ref()
            .unwrap()
            .text
            .starts_with("not done")
    );
}

#[test]
fn an_answer_of_another_version_is_shown_as_such() {
    let mut bench = bench();
    let wanted = bench.app.wanted();
    let error = refused(ErrorCode::Version, "this daemon speaks version 2");
    bench.app.update(Msg::Fetched(wanted, Err(error)));
    assert!(bench.text().contains("this daemon speaks version 2"));
}

#[test]
fn a_slow_daemon_is_not_asked_twice() {
    let mut app = bench().app;
    let now = app.now;
    assert!(matches!(app.update(Msg::Tick(now)), Some(Action::Fetch(_))));
    assert_eq!(app.update(Msg::Tick(now)), None);
    // A key that wants other rows is served after the answer.
    let key = Msg::Key(KeyEvent::new(KeyCode::Char('2'), KeyModifiers::NONE));
    assert_eq!(app.update(key), None);
    let world = World::lab();
    let wanted = app.wanted();
    let frame = world.answer(&wanted).unwrap();
    let next = app.update(Msg::Fetched(wanted, Ok(Box::new(frame))));
    assert!(matches!(
        next,
        Some(Action::Fetch(Wanted { flows: Some(_), .. }))
    ));
}

#[test]
fn help_opens_and_closes() {
    let mut bench = bench();
    bench.write("?");
    assert!(bench.text().contains("Keys and marks"));
    bench.press(KeyCode::Esc);
    assert!(bench.app.dialog.is_none());
}

fn crowd(n: u32) -> World {
    let mut world = World::empty();
    for i in 0..n {
        let [_, a, b, c] = i.to_be_bytes();
        let ip = format!("10.{a}.{b}.{c}");
        let rate = u64::from(i.wrapping_mul(2_654_435_761) % 10_000_000);
        world.flows.push(flow(&ip, 40_000, rate, rate / 3));
    }
    world.clients.push(client("10.0.0.1", 1, 1));
    world
}

#[test]
fn fifty_thousand_flows_are_held_and_only_the_screen_is_drawn() {
    let mut bench = Bench::new(crowd(50_000), 120, 40, 1);
    bench.write("2");
    bench.second();
    assert_eq!(bench.app.flows.items.len(), 50_000);
    bench.press(KeyCode::End);
    assert_eq!(bench.app.flows.cursor, Some(49_999));
    let rows = bench.app.flows.items.windows(2);
    assert!(rows.into_iter().all(|pair| {
        let sum = |n: usize| pair[n].row.upload.rate_bps + pair[n].row.download.rate_bps;
        sum(0) + 1_000 >= sum(1)
    }));
    assert!(bench.text().contains("50,000 flows"));
}

#[test]
fn fifty_thousand_flows_at_many_servers_are_drawn_too() {
    let mut world = crowd(50_000);
    for (n, flow) in world.flows.iter_mut().enumerate() {
        flow.haproxy = Some(at("be_ws", &format!("srv{}", n % 700)));
    }
    let mut bench = Bench::new(world, 120, 40, 1);
    bench.write("3");
    bench.press(KeyCode::End);
    assert_eq!(bench.app.servers.cursor, Some(699));
    bench.press(KeyCode::Enter);
    assert_eq!(bench.app.tab, Tab::Flows);
    let text = bench.text();
    assert!(
        text.contains("50,000 flows") && text.contains("SERVER"),
        "{text}"
    );
}
