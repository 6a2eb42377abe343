use super::*;

fn matches(filter: &str, client: &str, rule: &str) -> bool {
    let net: IpNet = client
        .parse()
        .or_else(|_| client.parse::<IpAddr>().map(IpNet::from))
        .unwrap();
    let (addr, bits) = addr::prefix_to_kernel(net);
    Filter::parse(filter).unwrap().matches_client(&Subject {
        addr: &addr,
        bits,
        rule,
        limited: true,
        blocked: false,
        exempt: false,
        active: true,
        place: None,
    })
}

#[test]
fn all_terms_must_match() {
    assert!(matches("", "192.0.2.7", "default"));
    assert!(matches("state:limited rule:gold", "192.0.2.7", "gold"));
    assert!(!matches("state:limited rule:gold", "192.0.2.7", "golden"));
    assert!(!matches("state:blocked rule:gold", "192.0.2.7", "gold"));
    assert!(!matches("state:idle", "192.0.2.7", "gold"));
    assert!(matches("state:active", "192.0.2.7", "gold"));
}

#[test]
fn clients_are_found_by_address_prefix_and_text() {
    for yes in [
        "client:192.0.2.7",
        "client:192.0.2.0/24",
        "192.0.2.0/24",
        "client:192.0.",
        "92.0",
    ] {
        assert!(matches(yes, "192.0.2.7", "default"), "{yes}");
    }
    for no in [
        "client:192.0.2.70",
        "client:192.0.3.0/24",
        "client:92.0",
        "client:2001:db8::/32",
    ] {
        assert!(!matches(no, "192.0.2.7", "default"), "{no}");
    }
    for yes in [
        "client:2001:db8:1:2::9",
        "2001:db8::/32",
        "2001:DB8:1",
        "client:2001:db8:",
    ] {
        assert!(matches(yes, "2001:db8:1:2::/64", "default"), "{yes}");
    }
    assert!(!matches(
        "client:2001:db8:1:3::9",
        "2001:db8:1:2::/64",
        "default"
    ));
}

#[test]
fn text_is_found_in_the_rule_in_either_case() {
    assert!(matches("PART", "192.0.2.7", "Partners"));
    assert!(!matches("partx", "192.0.2.7", "Partners"));
}

#[test]
fn flow_terms_look_at_ports_and_protocol() {
    let key = FlowKey {
        client_port: 40_000,
        local_port: 443,
        protocol: UDP,
        ..FlowKey::default()
    };
    let matches = |text: &str| Filter::parse(text).unwrap().matches_flow(&key, None);
    assert!(matches("port:443 protocol:udp"));
    assert!(matches("port:40000"));
    assert!(!matches("port:443 protocol:tcp"));
    assert!(!matches("port:80"));
    assert!(Filter::parse("port:1").unwrap().asks_for_flows());
    assert!(!Filter::parse("rule:a").unwrap().asks_for_flows());
}

#[test]
fn server_terms_look_at_where_a_flow_is_pinned() {
    let place = Place {
        backend: "be_ws",
        server: "Srv1",
    };
    let parse = |text: &str| Filter::parse(text).unwrap();
    for (text, yes) in [
        ("backend:be_ws", true),
        ("backend:be", false),
        ("server:Srv1", true),
        ("server:srv1", false),
        ("server:be_ws/Srv1", true),
        ("server:be_x/Srv1", false),
        ("backend:be_ws server:Srv2", false),
    ] {
        let filter = parse(text);
        assert!(filter.asks_for_flows(), "{text}");
        let key = FlowKey::default();
        assert_eq!(filter.matches_flow(&key, Some(place)), yes, "{text}");
        assert!(!filter.matches_flow(&key, None), "{text} without a server");
        assert_eq!(filter.matches_server(place), yes, "{text}");
    }
    assert!(parse("SRV").matches_server(place));
    assert!(parse("be_ srv1").matches_server(place));
    assert!(!parse("srv2").matches_server(place));
    assert!(
        !parse("srv1 port:443").matches_server(place),
        "needs a flow"
    );
}

#[test]
fn bad_terms_are_named_with_what_is_allowed() {
    let message = |text: &str| Filter::parse(text).unwrap_err().to_string();
    insta::assert_snapshot!(
        "bad_terms",
        [
            "ok state:limit",
            "port:0",
            "port:https",
            "protocol:quic",
            "client:",
            "client:192.0.2.0/33",
            "client:example.org",
            "rule:",
            "backend:",
            "server:",
            "server:be/",
            "server:/web1",
            "server:be/web1/x",
            "sever:web1",
        ]
        .map(message)
        .join("\n")
    );
}
