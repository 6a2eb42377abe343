//! Closing a flow, draining a server.

use super::*;
use crate::model::Drain;
use crate::protocol::{Command, ErrorBody, ErrorCode};
use crate::top::fake::{Bench, World};
use crossterm::event::KeyCode;

fn bench(tab: &str) -> Bench {
    let mut bench = Bench::new(World::lab(), 80, 24, 3);
    bench.write(tab);
    bench
}

fn said(bench: &Bench) -> &str {
    &bench.app.notice.as_ref().unwrap().text
}

fn drain(server: &str) -> Command {
    Command::Drain {
        server: server.to_owned(),
        percent: 30,
        over_ms: 600_000,
        dry_run: false,
    }
}

#[test]
fn k_closes_the_chosen_flow_after_a_question() {
    let mut bench = bench("2");
    let at = bench.app.flows.items.iter();
    let at = at
        .map(|item| &item.row)
        .position(|flow| flow.haproxy.is_some());
    for _ in 0..=at.unwrap() {
        bench.press(KeyCode::Down);
    }
    let row = &bench.app.flows.items[bench.app.flows.cursor.unwrap()].row;
    let flow = std::net::SocketAddr::new(row.client, row.client_port).to_string();
    bench.write("K");
    assert!(
        bench
            .text()
            .contains(&format!("Have HAProxy close {flow}?"))
    );
    bench.write("n");
    assert!(bench.world.asked.is_empty() && bench.app.dialog.is_none());
    bench.write("Ky");
    let dry_run = false;
    assert_eq!(bench.world.asked, [Command::Kill { flow, dry_run }]);
    assert_eq!(said(&bench), "done");
}

#[test]
fn a_flow_that_haproxy_does_not_know_is_not_closed() {
    let mut world = World::lab();
    for flow in &mut world.flows {
        flow.haproxy = None;
    }
    let mut bench = Bench::new(world, 80, 24, 3);
    bench.write("2K");
    assert!(bench.app.dialog.is_none());
    assert!(said(&bench).starts_with("HAProxy has not told of this flow"));
}

#[test]
fn d_drains_the_chosen_server_and_ends_it() {
    let mut bench = bench("3");
    bench.write("D");
    assert!(bench.text().contains("Drain be_ws/srv1?"));
    bench.write("y");
    assert_eq!(bench.world.asked, [drain("be_ws/srv1")]);
    let running = Drain {
        server: "be_ws/srv1".to_owned(),
        state: "running".to_owned(),
        share: 0.3,
        rate_bps: 10,
        target_bps: 7,
        now_bps: 9,
        planned: 4,
        closed: 1,
        gone: 0,
        since: crate::testing::at(0),
        until: crate::testing::at(600),
        reason: None,
    };
    let status = bench.app.status.as_mut().unwrap();
    status.drains = vec![running];
    bench.write("D");
    assert!(bench.text().contains("End the drain of be_ws/srv1?"));
    bench.press(KeyCode::Esc);
    bench.app.status.as_mut().unwrap().drains[0].state = "done".to_owned();
    bench.write("D");
    assert!(bench.text().contains("Drain be_ws/srv1?"));
}

#[test]
fn in_other_tabs_the_keys_say_where_they_work() {
    let mut bench = bench("1");
    bench.write("K");
    assert!(said(&bench).contains("flows tab (2)"));
    bench.write("D");
    assert!(said(&bench).contains("servers tab (3)"));
    bench.write("2D3K");
    assert!(bench.app.dialog.is_none() && bench.world.asked.is_empty());
}

#[test]
fn what_is_refused_is_readable() {
    for (code, message) in [
        (ErrorCode::Denied, "as root"),
        (
            ErrorCode::Failed,
            "the policy does not allow to drain: write `actions = [\"drain\"]` under [haproxy], then `shaper reload`",
        ),
    ] {
        let mut bench = bench("3");
        bench.world.verdict = Err(ErrorBody {
            code,
            message: message.to_owned(),
        });
        bench.write("Dy");
        let Some(Dialog::Message(shown)) = &bench.app.dialog else {
            panic!("a message");
        };
        assert!(shown.text.contains(message), "{}", shown.text);
        let typed = "shaper drain be_ws/srv1 --share 0.3 --over 10m";
        assert_eq!(shown.text.contains(typed), code == ErrorCode::Denied);
        bench.press(KeyCode::Enter);
        assert!(bench.app.dialog.is_none());
    }
}
