//! `docs/security.md` and `packaging/` say the same.

#![allow(clippy::unwrap_used, reason = "so a test fails")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn read(file: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    fs::read_to_string(root.join(file)).unwrap()
}

/// The words of a setting of the unit.
fn setting(unit: &str, key: &str) -> BTreeSet<String> {
    unit.lines()
        .filter_map(|line| line.strip_prefix(key)?.strip_prefix('='))
        .flat_map(str::split_whitespace)
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_table_of_capabilities_is_the_units() {
    let documented: BTreeSet<String> = read("docs/security.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .filter(|name| name.starts_with("CAP_"))
        .map(str::to_owned)
        .collect();
    let unit = setting(&read("packaging/shaper.service"), "CapabilityBoundingSet");
    assert_eq!(documented, unit);
}

#[test]
fn the_page_names_the_sockets_and_files_that_the_unit_allows() {
    let (page, unit) = (read("docs/security.md"), read("packaging/shaper.service"));
    let mut named = setting(&unit, "RestrictAddressFamilies");
    named.extend(setting(&unit, "BindPaths"));
    for name in &named {
        assert!(page.contains(&format!("`{name}`")), "{name} is not named");
    }
    let files: BTreeSet<_> = page
        .split('`')
        .filter(|word| word.starts_with("AF_"))
        .map(str::to_owned)
        .collect();
    assert_eq!(files, setting(&unit, "RestrictAddressFamilies"));
}
