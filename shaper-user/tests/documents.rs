//! The documents say what the program does: examples parse, keys and counters are all
//! there, links lead somewhere.

#![allow(clippy::unwrap_used, reason = "so a test fails")]

use shaper_common::stats::Stat;
use shaper_user::policy::Policy;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap()
}

/// README and all pages of `docs`, by their path.
fn pages() -> Vec<(String, String)> {
    let mut pages = vec!["README.md".to_owned()];
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".md") {
            pages.push(format!("docs/{name}"));
        }
    }
    assert!(pages.len() > 5, "{pages:?}");
    pages
        .into_iter()
        .map(|page| (page.clone(), read(&page)))
        .collect()
}

/// The blocks of a language, each with the line that it begins in.
fn blocks(text: &str, language: &str) -> Vec<(usize, String)> {
    let fence = format!("```{language}");
    let mut found = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if line.trim() == fence {
            let block: Vec<_> = lines
                .by_ref()
                .map(|(_, line)| line)
                .take_while(|line| line.trim() != "```")
                .collect();
            found.push((number + 2, block.join("\n")));
        }
    }
    found
}

#[test]
fn every_policy_in_the_documents_is_one() {
    let mut tried = 0;
    for (page, text) in pages() {
        for (line, block) in blocks(&text, "toml") {
            let name = format!("{page}, line {line}");
            let policy = Policy::parse(&name, &block).unwrap_or_else(|error| panic!("{error}"));
            policy
                .compile(&[])
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            tried += 1;
        }
    }
    assert!(tried >= 10, "only {tried}");
}

/// Keys and sections of the packaged policy, those that are commented out too.
fn keys(policy: &str) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for line in policy.lines() {
        let line = line.strip_prefix("#| ").unwrap_or(line);
        if line.starts_with('#') {
            continue;
        }
        if line.starts_with('[') {
            let end = line.rfind(']').unwrap() + 1;
            keys.insert(line[..end].to_owned());
        }
        // Those of inline tables too.
        for part in line.split(['{', ',']) {
            if let Some((key, _)) = part.split_once(" = ") {
                let key = key.trim();
                if key
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || "_0123456789".contains(c))
                {
                    keys.insert(key.to_owned());
                }
            }
        }
    }
    keys
}

#[test]
fn every_key_of_the_packaged_policy_is_in_the_reference() {
    let reference = read("docs/policy.md");
    let keys = keys(&read("packaging/policy.toml"));
    assert!(keys.len() > 25, "{keys:?}");
    let missing: Vec<_> = keys
        .iter()
        .filter(|key| !reference.contains(&format!("`{key}`")))
        .collect();
    assert!(missing.is_empty(), "not in docs/policy.md: {missing:?}");
}

#[test]
fn every_key_of_the_widest_policy_is_in_the_reference() {
    let reference = read("docs/policy.md");
    let policy = read("shaper-user/tests/policies/valid/every_key.toml");
    for key in keys(&policy) {
        assert!(reference.contains(&key), "not in docs/policy.md: {key}");
    }
}

#[test]
fn every_counter_is_explained() {
    let guide = read("docs/operating.md");
    for stat in Stat::ALL {
        let name = format!("`{}`", stat.name());
        assert!(guide.contains(&name), "{name} is not in docs/operating.md");
    }
}

#[test]
fn links_lead_to_files() {
    for (page, text) in pages() {
        let directory = root().join(&page).parent().unwrap().to_owned();
        for target in text.split("](").skip(1) {
            let target = target.split(')').next().unwrap();
            let file = target.split('#').next().unwrap();
            if file.is_empty() || file.contains("://") {
                continue;
            }
            assert!(directory.join(file).exists(), "{page}: {target}");
        }
    }
}
