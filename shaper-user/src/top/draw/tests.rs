//! Pictures of every state, at three sizes, with and without colours.

use crate::model::Quota;
use crate::top::fake::{Bench, World, flow, start};
use crossterm::event::KeyCode;
use insta::assert_snapshot;
use jiff::SignedDuration;
use ratatui::style::Color;

/// A lab with a minute of history that rises and falls.
fn lab(width: u16, height: u16) -> Bench {
    let mut bench = Bench::new(World::lab(), width, height, 0);
    for n in 0..66_u64 {
        bench.world.clients[0].upload.traffic.rate_bps = match n {
            0..20 => 320_000 * (n + 1),
            20..30 => 11_000_000,
            _ => 7_980_000,
        };
        bench.world.clients[4].download.traffic.rate_bps = 5_210_000 - (n % 7) * 400_000;
        bench.second();
    }
    bench
}

#[test]
fn clients_at_80x24() {
    assert_snapshot!(lab(80, 24).text());
}

#[test]
fn clients_at_120x40() {
    assert_snapshot!(lab(120, 40).text());
}

#[test]
fn clients_at_200x50() {
    assert_snapshot!(lab(200, 50).text());
}

/// A client past its quota, one near to it and one that has used nothing.
fn quotas(width: u16, height: u16) -> Bench {
    let mut bench = lab(width, height);
    let states = [(51, "reached"), (43, "near"), (0, "within")];
    for (client, (used, state)) in bench.world.clients.iter_mut().zip(states) {
        client.quota = Some(Quota {
            bytes: 50_000_000_000,
            used: used * 1_000_000_000,
            per: "day".to_owned(),
            counts: "both".to_owned(),
            resets_at: Some(start() + SignedDuration::from_hours(5)),
            then: "slow".to_owned(),
            state: state.to_owned(),
            added: 0,
        });
    }
    bench.second();
    bench
}

#[test]
fn quotas_at_80x24() {
    assert_snapshot!(quotas(80, 24).text());
}

#[test]
fn quotas_at_200x50() {
    assert_snapshot!(quotas(200, 50).text());
}

#[test]
fn the_pane_has_the_quota() {
    let mut bench = quotas(120, 40);
    bench.press(KeyCode::Down);
    bench.press(KeyCode::Enter);
    bench.second();
    assert_snapshot!(bench.text());
}

#[test]
fn flows_at_80x24() {
    let mut bench = lab(80, 24);
    bench.write("2");
    bench.second();
    assert_snapshot!(bench.text());
}

#[test]
fn flows_at_200x50() {
    let mut bench = lab(200, 50);
    bench.write("2");
    for _ in 0..5 {
        bench.second();
    }
    assert_snapshot!(bench.text());
}

fn servers(width: u16, height: u16) -> Bench {
    let mut bench = lab(width, height);
    bench.write("3");
    for _ in 0..5 {
        bench.second();
    }
    bench
}

#[test]
fn servers_at_80x24() {
    let text = servers(80, 24).text();
    for word in [
        "be_ws/srv1",
        "IMBAL",
        "TOP CLIENT",
        "203.0.113.7",
        "[3 Servers]",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert_snapshot!(text);
}

#[test]
fn servers_at_120x40() {
    assert_snapshot!(servers(120, 40).text());
}

fn history(width: u16, height: u16) -> Bench {
    let mut bench = lab(width, height);
    bench.write("4");
    bench.second();
    bench
}

#[test]
fn history_at_80x24() {
    let text = history(80, 24).text();
    for word in ["[4 History]", "203.0.113.7:40112", "be_ws/srv1", "▲"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert_snapshot!(text);
}

#[test]
fn history_at_120x40_with_an_earlier_minute() {
    let mut bench = history(120, 40);
    for _ in 0..75 {
        bench.press(KeyCode::Left);
    }
    bench.second();
    let text = bench.text();
    assert!(text.contains("01:58"), "{text}");
    assert_snapshot!(text);
}

#[test]
fn a_minute_without_the_daemon_says_so() {
    let mut bench = history(80, 24);
    for _ in 0..32 {
        bench.press(KeyCode::Left);
    }
    let text = bench.text();
    assert!(text.contains("the daemon did not run"), "{text}");
}

#[test]
fn without_a_history_the_tab_says_why() {
    let mut world = World::lab();
    world.no_history = Some("no history is kept: there is no /var/lib/shaper");
    let mut bench = Bench::new(world, 80, 24, 1);
    bench.write("4");
    let text = bench.text();
    assert!(text.contains("no history is kept"), "{text}");
    assert!(!text.contains("DAEMON GONE"), "{text}");
}

#[test]
fn flows_at_120x40() {
    let mut bench = lab(120, 40);
    bench.write("2");
    bench.second();
    let text = bench.text();
    assert!(text.contains("~be_chat/chat-1"), "{text}");
    assert_snapshot!(text);
}

#[test]
fn without_servers_the_tab_says_why() {
    let mut world = World::empty();
    let mut bench = Bench::new(world.clone(), 80, 24, 1);
    bench.write("3");
    let text = bench.text();
    assert!(text.contains("`stats socket"), "{text}");
    assert!(text.contains("`sockets` of [haproxy]"), "{text}");
    let mut socket = crate::top::fake::servers::socket();
    socket.age_ms = None;
    socket.error = Some("permission denied".to_owned());
    world.haproxy = vec![socket];
    let mut bench = Bench::new(world, 80, 24, 1);
    bench.write("3");
    assert!(bench.text().contains("permission denied"));
    bench.write("/server:be");
    bench.press(KeyCode::Enter);
    assert!(bench.text().contains("nothing matches server:be"));
}

#[test]
fn the_pane_tells_the_frontend_server_session_and_worker() {
    let mut bench = lab(80, 24);
    bench.write("2");
    // The heaviest flow, then one of a client with a stale session.
    bench.press(KeyCode::Enter);
    let line = ":40112 → be_ws/srv1  frontend fe_ws  session 0x55df672d6cc0  worker 4243";
    assert!(bench.text().contains(line), "{}", bench.text());
    bench.press(KeyCode::Down);
    bench.press(KeyCode::Down);
    let text = bench.text();
    assert!(
        text.contains(":33000 → be_chat/chat-1  stale  frontend fe_ws"),
        "{text}"
    );
    bench.press(KeyCode::Down);
    assert!(
        bench.text().contains(":40118 → be_ws/srv1"),
        "the chosen flow"
    );
    // The last has no session.
    bench.press(KeyCode::Down);
    bench.press(KeyCode::Down);
    let text = bench.text();
    assert!(
        text.contains(" 10.0.3.25 ─") && !text.contains("frontend"),
        "{text}"
    );
}

#[test]
fn detail_at_80x24() {
    let mut bench = lab(80, 24);
    bench.press(KeyCode::Enter);
    assert_snapshot!(bench.text());
}

#[test]
fn detail_at_120x40() {
    let mut bench = lab(120, 40);
    bench.press(KeyCode::Enter);
    for port in 0..20 {
        bench
            .world
            .flows
            .push(flow("203.0.113.7", 41_000 + port, 0, 1_000));
    }
    bench.second();
    assert_snapshot!(bench.text());
}

#[test]
fn detail_at_200x50_of_a_limit_set_at_runtime() {
    let mut bench = lab(200, 50);
    for _ in 0..3 {
        bench.press(KeyCode::Down);
    }
    bench.press(KeyCode::Enter);
    let text = bench.text();
    assert!(
        text.contains("* limit set at runtime, until 03:54:00"),
        "{text}"
    );
    assert_snapshot!(text);
}

#[test]
fn observing_is_loud_and_holds_nothing() {
    let mut world = World::lab();
    world.mode = "observe";
    world.lost = vec!["eth1"];
    world.warnings = vec![
        "the table of flows is full".to_owned(),
        "another".to_owned(),
    ];
    let bench = Bench::new(world, 80, 24, 3);
    let text = bench.text();
    assert!(text.contains("OBSERVE: nothing is limited"));
    assert!(text.contains("eth1 GONE!"));
    assert!(text.contains("1 over a limit now"));
    assert!(text.contains("over 6m12s") && !text.contains("held"));
    assert_snapshot!(text);
}

#[test]
fn a_daemon_that_is_gone_is_said_and_old_numbers_are_grey() {
    let mut bench = lab(80, 24);
    bench.world.up = false;
    for _ in 0..7 {
        bench.second();
    }
    let buffer = bench.buffer(true);
    let row = super::areas::Areas::of(&bench.app).rows.y;
    for x in 0..80 {
        let cell = &buffer[(x, row)];
        assert_eq!((cell.fg, cell.bg), (Color::Reset, Color::Reset));
        assert!(cell.modifier.contains(ratatui::style::Modifier::DIM));
    }
    assert_snapshot!(bench.text());
}

#[test]
fn nothing_heard_yet() {
    let mut world = World::empty();
    world.up = false;
    assert_snapshot!(Bench::new(world, 80, 24, 2).text());
}

#[test]
fn help_fits_the_smallest_terminal() {
    let mut bench = lab(80, 24);
    bench.write("?");
    let text = bench.text();
    for word in ["PgUp", "space", "Ctrl-C", "over"] {
        assert!(text.contains(word), "{word}");
    }
    assert!(text.contains("IMBAL"), "to its last line");
    assert_snapshot!(text);
}

#[test]
fn the_limit_form_and_its_question() {
    let mut bench = lab(80, 24);
    bench.write("l4mbit");
    bench.press(KeyCode::Tab);
    bench.press(KeyCode::Tab);
    bench.write("soon");
    bench.press(KeyCode::Enter);
    assert_snapshot!("limit_form", bench.text());
    for _ in 0..4 {
        bench.press(KeyCode::Backspace);
    }
    bench.write("10m");
    bench.press(KeyCode::Enter);
    assert_snapshot!("limit_question", bench.text());
}

#[test]
fn a_filter_being_typed_and_refused() {
    let mut bench = lab(80, 24);
    bench.write("/nonsense:1");
    assert_snapshot!("filter_typed", bench.text());
    bench.press(KeyCode::Enter);
    let text = bench.text();
    assert!(text.contains("! unknown term"), "{text}");
    assert_snapshot!("filter_refused", text);
}

#[test]
fn frozen_filtered_reversed() {
    let mut bench = lab(80, 24);
    bench.write("/client:10.");
    bench.press(KeyCode::Enter);
    bench.write("r ");
    let text = bench.text();
    for word in ["FROZEN", "filter client:10."] {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert!(
        !text.contains("sorted"),
        "no room for what the columns say too"
    );
    bench.press(KeyCode::End);
    assert_snapshot!(bench.text());
}

#[test]
fn long_addresses_are_cut_only_where_they_must() {
    let mut world = World::lab();
    let name = "2001:db8:1111:2222:3333:4444:5555:6666";
    world.clients[0].client = name.to_owned();
    assert!(
        Bench::new(world.clone(), 80, 24, 2)
            .text()
            .contains("2001:db8:1111:2222:3333:4…")
    );
    assert!(Bench::new(world, 200, 50, 2).text().contains(name));
}

/// Every picture that has a look of its own.
fn pictures() -> Vec<Bench> {
    let keys = ["", "2", "3", "?", "l", "b", "/x", " "];
    let mut all: Vec<_> = keys
        .iter()
        .map(|keys| {
            let mut bench = lab(80, 24);
            bench.press(KeyCode::Down);
            bench.write(keys);
            bench
        })
        .collect();
    let mut detail = lab(120, 40);
    detail.press(KeyCode::Enter);
    all.push(detail);
    let mut gone = lab(80, 24);
    gone.world.up = false;
    gone.world.mode = "observe";
    gone.second();
    all.push(gone);
    all
}

#[test]
fn without_colours_there_are_none_and_the_words_are_the_same() {
    for bench in pictures() {
        let (plain, color) = (bench.buffer(false), bench.buffer(true));
        let colored =
            |cell: &ratatui::buffer::Cell| (cell.fg, cell.bg) != (Color::Reset, Color::Reset);
        assert!(!plain.content.iter().any(colored));
        assert!(color.content.iter().any(colored));
        assert_eq!(super::text(&plain), super::text(&color));
    }
}

#[test]
fn every_size_can_be_drawn() {
    for width in [1, 5, 39, 40, 60, 79, 80, 133, 300] {
        for height in [1, 3, 9, 10, 12, 18, 24, 60] {
            for keys in ["", "\n", "l", "?", "/abc", "2", "3"] {
                let mut bench = Bench::new(World::lab(), width, height, 2);
                bench.world.warnings.push("something".to_owned());
                bench.write(&keys.replace('\n', ""));
                if keys == "\n" {
                    bench.press(KeyCode::Enter);
                }
                bench.second();
                bench.text();
            }
        }
    }
}

#[test]
fn colours_of_the_whole_picture() {
    let mut bench = lab(120, 32);
    bench.press(KeyCode::Enter);
    assert_snapshot!(crate::top::svg::svg(&bench.buffer(true)));
}

/// A client's whole row and what is not cut from it at 80 columns.
#[test]
fn marks_stand_beside_colours() {
    let text = lab(80, 24).text();
    let row = |name: &str| {
        let row = text.lines().find(|line| line.contains(name));
        row.unwrap_or_else(|| panic!("{name} in {text}")).to_owned()
    };
    assert!(row("203.0.113.7").contains("held 6m12s"));
    assert!(row("198.51.100.23").contains("↑2.00M*"));
    let all = lab(80, 40).text();
    let blocked = all
        .lines()
        .find(|line| line.contains("198.51.100.7"))
        .unwrap();
    assert!(blocked.contains("BLOCK"));
    let exempt = all
        .lines()
        .find(|line| line.contains("192.0.2.10"))
        .unwrap();
    assert!(exempt.contains("exempt") && exempt.contains("no limit"));
}
