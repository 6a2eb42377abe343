use super::*;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn limit(text: &str) -> Option<RateLimit> {
    Some(RateLimit::of(text.parse().unwrap()))
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn some() -> Overrides {
    let mut overrides = Overrides::default();
    overrides.set_limit(net("192.0.2.1/32"), limit("1234567bit"), None, None);
    overrides.set_limit(net("2001:db8::/64"), None, limit("8mbit"), Some(at(100)));
    overrides.set_block(net("198.51.100.0/24"), Some(at(50)));
    overrides.set_block(net("192.0.2.1/32"), None);
    overrides
}

#[test]
fn each_change_says_whether_there_was_one() {
    let mut overrides = Overrides::default();
    let client = net("192.0.2.1/32");
    assert!(!overrides.clear_limit(client));
    assert!(!overrides.unblock(client));
    assert!(!overrides.set_limit(client, limit("1mbit"), None, None));
    assert!(overrides.set_limit(client, limit("2mbit"), None, None));
    assert!(!overrides.set_block(client, None));
    assert!(overrides.set_block(client, Some(at(1))));
    assert!(overrides.clear_limit(client));
    assert_eq!(overrides.list().len(), 1, "the block is left");
    assert!(overrides.unblock(client));
    assert_eq!(overrides.list(), []);
    assert!(!overrides.unblock(client));
}

#[test]
fn a_direction_that_is_not_named_stays() {
    let mut overrides = Overrides::default();
    let client = net("192.0.2.1/32");
    overrides.set_limit(client, limit("1mbit"), None, None);
    overrides.set_limit(client, None, limit("2mbit"), Some(at(9)));
    let set = overrides.get(&client).unwrap().limit.unwrap();
    assert_eq!((set.upload, set.download), (limit("1mbit"), limit("2mbit")));
    assert_eq!(set.expires, Some(at(9)));
}

#[test]
fn what_has_ended_goes_and_nothing_else() {
    let mut overrides = some();
    assert_eq!(overrides.next_expiry(), Some(at(50)));
    assert!(!overrides.expire(at(49)));
    assert_eq!(overrides, some());
    assert!(overrides.expire(at(50)));
    assert_eq!(overrides.get(&net("198.51.100.0/24")), None);
    assert_eq!(overrides.next_expiry(), Some(at(100)));
    assert!(overrides.expire(at(1000)));
    assert_eq!(overrides.list().len(), 1, "what never ends is left");
    assert_eq!(overrides.next_expiry(), None);
}

#[test]
fn they_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("runtime.json");
    let none = Overrides::load(&path);
    assert_eq!((none.overrides, none.damaged), (Overrides::default(), None));
    Overrides::default().save(&path).unwrap();
    some().save(&path).unwrap();
    let loaded = Overrides::load(&path);
    assert_eq!((loaded.overrides, loaded.damaged), (some(), None));
    let files = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(files, 1, "no temporary file is left");
}

#[test]
fn a_failed_save_leaves_the_old_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gone").join("runtime.json");
    assert!(some().save(&path).is_err());
    assert!(!path.exists());
}

#[test]
fn a_damaged_file_is_set_aside_and_reported() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("runtime.json");
    let aside = dir.path().join("runtime.json.damaged");
    for text in [
        "",
        "{",
        "[]",
        r#"{"version": 2, "overrides": []}"#,
        r#"{"version": 1, "overrides": [{"client": "somebody", "block": {"expires": null}}]}"#,
        r#"{"version": 1, "overrides": [{"client": "192.0.2.1/32",
            "limit": {"upload": {"rate": "0bit", "burst": "1MB"}, "expires": null}}]}"#,
    ] {
        std::fs::write(&path, text).unwrap();
        let loaded = Overrides::load(&path);
        assert_eq!(loaded.overrides, Overrides::default(), "{text}");
        let report = loaded.damaged.unwrap();
        assert!(report.contains("runtime.json.damaged"), "{report}");
        assert!(!path.exists(), "{text}");
        assert_eq!(std::fs::read_to_string(&aside).unwrap(), text);
    }
}

#[test]
fn clients_of_the_command_line_are_those_of_the_policy() {
    assert_eq!(parse_client("192.0.2.7", 24, 64), Ok(net("192.0.2.0/24")));
    assert_eq!(
        parse_client("2001:db8::1", 32, 64),
        Ok(net("2001:db8::/64"))
    );
    assert!(parse_client("192.0.2.0/25", 24, 64).is_err());
    assert!(parse_client("somebody", 32, 64).is_err());
}
