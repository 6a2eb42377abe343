use super::*;
use crate::addr::to_kernel;
use crate::policy::{Rate, RuntimeLimit};
use proptest::prelude::*;
use std::net::{Ipv4Addr, Ipv6Addr};

const POLICY: &str = r#"
mode = "observe"
[default]
upload = { rate = "8mbit", burst = "1MB" }
max_connections = 200
connection_rate = "50/m"
[[rule]]
name = "partners"
clients = ["203.0.113.0/24", "2001:db8:1::/48"]
upload = { rate = "50mbit" }
[[rule]]
name = "office"
clients = ["203.0.113.64/26"]
download = { rate = "1mbit" }
[[rule]]
name = "monitoring"
clients = ["192.0.2.10"]
exempt = true
[[rule]]
name = "abuser"
clients = ["198.51.100.7"]
block = true
"#;

fn policy(text: &str) -> Policy {
    Policy::parse("test.toml", text).unwrap_or_else(|e| panic!("{e}"))
}

fn limit(text: &str) -> RateLimit {
    RateLimit::of(text.parse().unwrap())
}

fn over(client: &str, upload: Option<&str>, download: Option<&str>, block: bool) -> Override {
    let limit = (upload.is_some() || download.is_some()).then(|| RuntimeLimit {
        upload: upload.map(limit),
        download: download.map(limit),
        expires: None,
    });
    Override {
        client: client.parse().unwrap(),
        limit,
        block: block.then_some(None),
    }
}

fn class<'c>(compiled: &'c Compiled, client: &str) -> &'c NamedClass {
    let addr = to_kernel(client.parse().unwrap());
    &compiled.classes[compiled.class_of(&compiled.settings.client(&addr))]
}

#[test]
fn a_rule_takes_from_default_what_it_does_not_name() {
    let compiled = policy(POLICY).compile(&[]).unwrap();
    let partners = class(&compiled, "203.0.113.1");
    assert_eq!(partners.rule, "partners");
    assert_eq!(partners.class.upload, Limit::new(50_000_000, 625_000));
    assert_eq!(partners.class.download, Limit::NONE);
    assert_eq!(partners.class.max_connections, 200);
    assert_eq!(
        partners.class.connections,
        Limit::per_event(50, 60_000_000_000, 50)
    );
    let office = class(&compiled, "203.0.113.65");
    assert_eq!(office.rule, "office");
    assert_eq!(office.class.upload, Limit::new(8_000_000, 1_000_000));
    assert_eq!(office.upload.unwrap().rate, Rate(8_000_000));
    assert_eq!(office.download, Some(limit("1mbit")));
    let other = class(&compiled, "8.8.8.8");
    assert_eq!(other.rule, "default");
    assert_eq!(compiled.classes[0], *other);
    assert_eq!(class(&compiled, "2001:db8:1:9::1").rule, "partners");
    assert_eq!(class(&compiled, "2001:db8:2::1").rule, "default");
}

#[test]
fn exempt_and_blocked_clients_have_a_flag_and_no_limit() {
    let compiled = policy(POLICY).compile(&[]).unwrap();
    for (client, flags) in [("192.0.2.10", CLASS_EXEMPT), ("198.51.100.7", CLASS_BLOCK)] {
        let bare = Class {
            flags,
            ..Class::default()
        };
        assert_eq!(class(&compiled, client).class, bare);
        assert_eq!(class(&compiled, client).upload, None);
    }
}

#[test]
fn settings_have_the_masks_and_the_mode() {
    let mut policy = policy("ports = [8443, 443]\n[client]\nipv4_prefix = 24\nipv6_prefix = 56");
    let compiled = policy.compile(&[]).unwrap();
    assert_eq!(compiled.settings.mask_v4, mask(120));
    assert_eq!(compiled.settings.mask_v6, mask(56));
    assert_eq!(compiled.settings.flags, 0);
    assert_eq!(compiled.ports, [443, 8443]);
    policy.mode = Mode::Observe;
    let compiled = policy.compile(&[]).unwrap();
    assert_eq!(compiled.settings.flags, SETTING_OBSERVE);
}

#[test]
fn a_runtime_limit_replaces_its_direction_only() {
    let overrides = [over("203.0.113.65/32", Some("1mbit"), None, false)];
    let compiled = policy(POLICY).compile(&overrides).unwrap();
    let one = class(&compiled, "203.0.113.65");
    assert_eq!(one.rule, "office", "the rule keeps its name");
    assert_eq!(one.upload, Some(limit("1mbit")));
    assert_eq!(one.download, Some(limit("1mbit")));
    assert_eq!(one.class.max_connections, 200);
    let next = class(&compiled, "203.0.113.66");
    assert_eq!(next.upload.unwrap().rate, Rate(8_000_000));
}

#[test]
fn an_override_holds_for_every_rule_within_it() {
    let overrides = [
        over("203.0.113.0/24", Some("2mbit"), Some("3mbit"), false),
        over("203.0.113.65/32", Some("4mbit"), None, false),
    ];
    let compiled = policy(POLICY).compile(&overrides).unwrap();
    let limits = |client| {
        let class = class(&compiled, client);
        (class.rule.as_str(), class.upload, class.download)
    };
    let (two, three) = (Some(limit("2mbit")), Some(limit("3mbit")));
    assert_eq!(limits("203.0.113.1"), ("partners", two, three));
    assert_eq!(limits("203.0.113.66"), ("office", two, three));
    assert_eq!(
        limits("203.0.113.65"),
        ("office", Some(limit("4mbit")), three),
        "the longest prefix wins in each direction"
    );
}

#[test]
fn a_runtime_block_holds_whatever_lies_within() {
    let overrides = [
        over("192.0.2.0/24", None, None, true),
        over("192.0.2.11/32", Some("9mbit"), None, false),
    ];
    let compiled = policy(POLICY).compile(&overrides).unwrap();
    for client in ["192.0.2.1", "192.0.2.10", "192.0.2.11"] {
        assert_eq!(
            class(&compiled, client).class.flags,
            CLASS_BLOCK,
            "{client}"
        );
    }
    assert_eq!(class(&compiled, "192.0.3.1").class.flags, 0);
}

#[test]
fn a_runtime_limit_ends_an_exemption_but_no_block() {
    let overrides = [
        over("192.0.2.10/32", Some("1mbit"), None, false),
        over("198.51.100.7/32", Some("1mbit"), None, false),
    ];
    let compiled = policy(POLICY).compile(&overrides).unwrap();
    let exempt = class(&compiled, "192.0.2.10");
    assert_eq!(exempt.class.flags, 0);
    assert_eq!(exempt.upload, Some(limit("1mbit")));
    assert_eq!(exempt.class.max_connections, 0);
    assert_eq!(class(&compiled, "198.51.100.7").class.flags, CLASS_BLOCK);
}

#[test]
fn an_override_of_a_longer_client_prefix_is_cut() {
    let mut policy = policy("[client]\nipv4_prefix = 24");
    let overrides = [
        over("192.0.2.7/32", None, None, true),
        over("192.0.2.9/32", Some("1mbit"), None, false),
    ];
    let compiled = policy.compile(&overrides).unwrap();
    assert_eq!(compiled.rules.len(), 1);
    assert_eq!(class(&compiled, "192.0.2.1").class.flags, CLASS_BLOCK);
    policy.ipv4_prefix = 32;
    let compiled = policy.compile(&overrides).unwrap();
    assert_eq!(class(&compiled, "192.0.2.1").class.flags, 0);
}

#[test]
fn a_rule_for_all_of_ipv6_is_not_for_ipv4() {
    for v6 in ["::/0", "::/8", "::/64"] {
        let text = format!("[[rule]]\nname = \"v6\"\nclients = [\"{v6}\"]\nblock = true");
        let compiled = policy(&text).compile(&[]).unwrap();
        assert_eq!(class(&compiled, "192.0.2.1").rule, "default", "{v6}");
        assert_eq!(class(&compiled, "::1").rule, "v6", "{v6}");
        let both = text
            .replace(']', ", \"0.0.0.0/0\"]")
            .replacen(", \"0.0.0.0/0\"]", "]", 2);
        let compiled = policy(&both).compile(&[]).unwrap();
        assert_eq!(class(&compiled, "192.0.2.1").rule, "v6", "{both}");
    }
}

#[test]
fn one_class_serves_all_prefixes_of_a_rule_and_all_equal_overrides() {
    let overrides: Vec<_> = (0..5_000_u32)
        .map(|i| {
            over(
                &format!("{}/32", Ipv4Addr::from(i << 8)),
                Some("1mbit"),
                None,
                false,
            )
        })
        .collect();
    let compiled = policy(POLICY).compile(&overrides).unwrap();
    assert_eq!(compiled.classes.len(), 6);
    assert_eq!(compiled.rules.len(), 5_005);
}

#[test]
fn too_many_classes_or_prefixes_are_refused() {
    let limits: Vec<_> = (0..4_096_u32)
        .map(|i| {
            let rate = format!("{}kbit", i + 1);
            over(
                &format!("{}/32", Ipv4Addr::from(i)),
                Some(&rate),
                None,
                false,
            )
        })
        .collect();
    assert_eq!(
        Policy::observe_only().compile(&limits),
        Err(CompileError::Classes { found: 4_097 })
    );
    assert!(Policy::observe_only().compile(&limits[1..]).is_ok());
    let blocks: Vec<_> = (0..=65_536_u32)
        .map(|i| over(&format!("{}/32", Ipv4Addr::from(i)), None, None, true))
        .collect();
    assert_eq!(
        Policy::observe_only().compile(&blocks),
        Err(CompileError::Prefixes { found: 65_537 })
    );
    assert!(Policy::observe_only().compile(&blocks[1..]).is_ok());
}

/// A prefix near others, so that they nest.
fn nets() -> impl Strategy<Value = IpNet> {
    let v4 = (any::<u32>(), 0..=32_u8)
        .prop_map(|(a, len)| (IpAddr::V4(Ipv4Addr::from(0x0a00_0000 | (a & 0xf0f0))), len));
    let v6 = (any::<u128>(), 0..=64_u8).prop_map(|(a, len)| {
        let addr = Ipv6Addr::from((a & 0xf0f0_f0f0_f0f0_f0f0) << 64);
        (IpAddr::V6(addr), len)
    });
    prop_oneof![v4, v6].prop_map(|(addr, len)| IpNet::new(addr, len).unwrap().trunc())
}

proptest! {
    #[test]
    fn the_longest_prefix_is_found(
        nets in proptest::collection::btree_set(nets(), 0..60),
        clients in proptest::collection::vec(nets(), 1..60),
    ) {
        let mut policy = Policy::observe_only();
        policy.rules = nets
            .iter()
            .map(|net| Rule {
                name: net.to_string(),
                clients: vec![*net],
                limits: Limits::default(),
                group: GroupLimits::default(),
                exempt: false,
                block: false,
            })
            .collect();
        let compiled = policy.compile(&[]).unwrap();
        for client in clients.iter().map(IpNet::addr) {
            let naive = nets
                .iter()
                .filter(|net| net.contains(&client))
                .max_by_key(|net| net.prefix_len())
                .map_or("default".to_owned(), ToString::to_string);
            let found = &compiled.classes[
                compiled.class_of(&compiled.settings.client(&to_kernel(client)))
            ];
            prop_assert_eq!(&found.rule, &naive, "{}", client);
        }
    }
}
