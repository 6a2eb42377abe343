use super::*;
use crate::haproxy::drain::server_name;
use crate::haproxy::{Session, View};
use crate::kernel::Sample;
use crate::testing::{NOW, at, compiled, flow, secs, session};
use shaper_common::flow::Flow;
use shaper_common::key::{FlowKey, TCP};
use std::sync::Arc;

fn sampler(mut flows: Vec<(FlowKey, Flow)>, sessions: Vec<(&str, Session)>) -> Sampler {
    let mut sampler = Sampler::new(Arc::new(compiled()), 1, at(0));
    for seconds in 0..2 {
        let sample = Sample {
            now: NOW + secs(seconds),
            flows: flows.clone(),
            ..Sample::default()
        };
        sampler.observe(sample, at(0));
        for (_, flow) in &mut flows {
            for traffic in &mut flow.traffic {
                traffic.bytes += 1000;
            }
        }
    }
    let sessions = sessions.into_iter();
    sampler.set_view(Arc::new(View {
        sessions: sessions
            .map(|(client, session)| (client.parse().unwrap(), session))
            .collect(),
        ..View::default()
    }));
    sampler
}

fn name(text: &str) -> FlowName {
    text.parse().unwrap()
}

#[test]
fn a_flow_is_found_by_either_name() {
    let sampler = sampler(
        vec![flow("192.0.2.1", 4000, TCP), flow("2001:db8::1", 4000, TCP)],
        vec![
            ("192.0.2.1:4000", session(0xa1, "srv1")),
            ("[2001:db8::1]:4000", session(0xa2, "srv2")),
        ],
    );
    for names in [["192.0.2.1:4000", "0xa1"], ["[2001:db8::1]:4000", "0xa2"]] {
        let targets = names.map(|text| sampler.target(&name(text)).unwrap());
        assert_eq!(targets[0], targets[1]);
        assert_eq!(targets[0].client.to_string(), names[0]);
        assert_eq!(targets[0].rate, 16_000, "both directions");
    }
}

#[test]
fn what_is_not_one_session_is_an_error() {
    let mut other_port = flow("192.0.2.2", 4000, TCP);
    other_port.0.local_port = 8443;
    let mut stale = session(0xa3, "srv1");
    stale.stale = true;
    let sampler = sampler(
        vec![
            flow("192.0.2.1", 4000, TCP),
            flow("192.0.2.2", 4000, TCP),
            other_port,
            flow("192.0.2.3", 4000, TCP),
            flow("192.0.2.4", 4000, UDP),
            flow("192.0.2.6", 4000, TCP),
            flow("192.0.2.7", 4000, TCP),
        ],
        vec![
            ("192.0.2.2:4000", session(0xa2, "srv1")),
            ("192.0.2.3:4000", stale),
            ("192.0.2.4:4000", session(0xa4, "srv1")),
            // Not in the kernel any more.
            ("192.0.2.5:4000", session(0xa5, "srv1")),
            // Two workers may use the same pointer.
            ("192.0.2.6:4000", session(0xa6, "srv1")),
            ("192.0.2.7:4000", session(0xa6, "srv1")),
        ],
    );
    let error = |text: &str| sampler.target(&name(text)).unwrap_err();
    assert_eq!(
        error("192.0.2.9:4000").to_string(),
        "no TCP flow 192.0.2.9:4000 is open; `shaper flows` lists what is"
    );
    assert_eq!(error("0xff"), NoTarget::Unknown(name("0xff")));
    assert_eq!(error("0xa5"), NoTarget::Unknown(name("0xa5")));
    assert_eq!(
        error("192.0.2.4:4000"),
        NoTarget::Unknown(name("192.0.2.4:4000"))
    );
    assert_eq!(
        error("192.0.2.1:4000"),
        NoTarget::NotJoined(name("192.0.2.1:4000"))
    );
    assert!(
        matches!(error("192.0.2.3:4000"), NoTarget::Stale { socket } if socket == "/run/haproxy/admin.sock")
    );
    assert!(matches!(
        error("192.0.2.2:4000"),
        NoTarget::Ambiguous { count: 2, .. }
    ));
    assert!(matches!(
        error("0xa6"),
        NoTarget::Ambiguous { count: 2, .. }
    ));
    assert!(sampler.target(&name("0xa2")).is_ok());
    assert!(sampler.target(&name("192.0.2.6:4000")).is_ok());
}

#[test]
fn a_flow_that_began_after_the_answer_has_no_session_yet() {
    let mut reused = flow("192.0.2.1", 4000, TCP);
    reused.1.created = NOW + 2;
    let mut before = session(0xa1, "srv1");
    before.answered = NOW + 1;
    let sampler = sampler(vec![reused], vec![("192.0.2.1:4000", before)]);
    let flow = name("192.0.2.1:4000");
    assert_eq!(sampler.target(&flow), Err(NoTarget::NotJoined(flow)));
}

#[test]
fn a_servers_sessions_are_those_pinned_to_it() {
    let sampler = sampler(
        vec![
            flow("192.0.2.1", 4000, TCP),
            flow("192.0.2.2", 4000, TCP),
            flow("192.0.2.3", 4000, TCP),
            flow("192.0.2.4", 4000, UDP),
        ],
        vec![
            ("192.0.2.1:4000", session(1, "srv1")),
            ("192.0.2.2:4000", session(2, "srv2")),
            ("192.0.2.4:4000", session(4, "srv1")),
        ],
    );
    let pinned = |server: &str| {
        let pinned = sampler.pinned(&server_name(server).unwrap());
        pinned
            .iter()
            .map(|target| target.session.id)
            .collect::<Vec<_>>()
    };
    assert_eq!(pinned("be_ws/srv1"), [1]);
    assert_eq!(pinned("be_ws/srv2"), [2]);
    assert!(pinned("be_ws/srv3").is_empty() && pinned("be_api/srv1").is_empty());
}
