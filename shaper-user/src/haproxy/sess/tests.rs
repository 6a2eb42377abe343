use super::*;
use proptest::prelude::*;

/// By version: two WebSockets over IPv4, two over IPv6, one connection that
/// waits and the question itself.
const RECORDED: [(&str, &str); 3] = [
    ("2.6", include_str!("../testdata/sess-2.6.txt")),
    ("3.0", include_str!("../testdata/sess-3.0.txt")),
    ("3.2", include_str!("../testdata/sess-3.2.txt")),
];

#[test]
fn recorded_answers() {
    for (version, answer) in RECORDED {
        let streams: Vec<_> = streams(answer).collect();
        let mut of: Vec<_> = streams
            .iter()
            .map(|stream| {
                assert_eq!((stream.frontend, stream.backend), ("fe_ws", "be_ws"));
                assert!(answer.contains(&format!("{:#x}: ", stream.id)));
                assert!(stream.client.port() > 1024);
                (stream.server, stream.client.ip().to_string())
            })
            .collect();
        of.sort();
        let expected = [
            ("srv1", "127.0.0.1"),
            ("srv1", "::1"),
            ("srv2", "127.0.0.1"),
            ("srv2", "::1"),
        ]
        .map(|(server, ip)| (server, ip.to_owned()));
        assert_eq!(of, expected, "{version}");
    }
}

fn one(fields: &str) -> Option<String> {
    let line = format!("0x7f: {fields}\n");
    let stream = streams(&line).next()?;
    assert_eq!(stream.id, 0x7f);
    Some(format!(
        "{} {}/{}/{}",
        stream.client, stream.frontend, stream.backend, stream.server
    ))
}

#[test]
fn a_stream_is_what_a_tcp_client_opened_and_a_server_has() {
    for (fields, expected) in [
        (
            "proto=tcpv4 src=192.0.2.1:4000 fe=f be=b srv=s ts=00",
            Some("192.0.2.1:4000 f/b/s"),
        ),
        (
            "proto=tcpv6 src=2001:db8::1:4000 fe=f be=b srv=s",
            Some("[2001:db8::1]:4000 f/b/s"),
        ),
        (
            "proto=tcpv6 src=::ffff:192.0.2.1:4000 fe=f be=b srv=s",
            Some("192.0.2.1:4000 f/b/s"),
        ),
        (
            "new=1 srv=s be=b proto=mptcpv4 x fe=f:-._1 src=192.0.2.1:1 fe=later",
            Some("192.0.2.1:1 f:-._1/b/s"),
        ),
        (
            "proto=tcpv4 src=192.0.2.1:1 fe=f be=<NONE> srv=<none>",
            None,
        ),
        ("proto=tcpv4 src=192.0.2.1:1 fe=f be=b srv=", None),
        ("proto=tcpv4 src=192.0.2.1:1 fe=f be=b", None),
        ("proto=unix_stream src=unix:1 fe=f be=b srv=s", None),
        ("proto=tcpv4 src=unix:1 fe=f be=b srv=s", None),
        ("proto=quic4 src=192.0.2.1:1 fe=f be=b srv=s", None),
        ("proto=? fe=f be=b srv=s", None),
        ("proto=tcpv4 src=192.0.2.1:65536 fe=f be=b srv=s", None),
        ("proto=tcpv4 src=4000 fe=f be=b srv=s", None),
        ("proto=tcpv4 src= fe=f be=b srv=s", None),
    ] {
        assert_eq!(one(fields).as_deref(), expected, "{fields}");
    }
}

#[test]
fn lines_that_are_none_are_passed_over() {
    let good = "proto=tcpv4 src=192.0.2.1:1 fe=f be=b srv=s\n";
    for id in [
        "0x",
        "x: ",
        "0xg: ",
        "  0x1: ",
        "0x11112222333344445: ",
        "7: ",
    ] {
        let answer = format!("{id}{good}\n0x2: {good}");
        let ids: Vec<_> = streams(&answer).map(|stream| stream.id).collect();
        assert_eq!(ids, [2], "{id}");
    }
}

#[test]
fn a_line_that_is_cut_is_left_out() {
    let line = "0x1: proto=tcpv4 src=192.0.2.1:1 fe=f be=b srv=server";
    assert_eq!(streams(line).count(), 0);
    assert_eq!(streams(&format!("{line}\n{line}")).count(), 1);
}

proptest! {
    #[test]
    fn any_text_is_read(text in any::<String>()) {
        streams(&text).for_each(drop);
    }

    #[test]
    fn a_damaged_answer_gives_no_stream_that_it_does_not_hold(
        which in 0..RECORDED.len(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20),
        end in any::<prop::sample::Index>(),
    ) {
        let mut bytes = RECORDED[which].1.as_bytes().to_vec();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(end.index(bytes.len() + 1));
        let answer = String::from_utf8_lossy(&bytes);
        for stream in streams(&answer) {
            for name in [stream.frontend, stream.backend, stream.server] {
                prop_assert!(!name.is_empty() && !name.contains([' ', '\n']));
                let held = format!("={name}");
                prop_assert!(answer.contains(&held));
            }
        }
    }
}
