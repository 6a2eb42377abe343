//! `docs/quotas.md` against the parser.

#![allow(clippy::unwrap_used, clippy::panic, reason = "so a test fails")]

use shaper_user::policy::{Per, Policy};
use std::path::Path;

#[test]
fn every_example_of_the_page_is_a_policy() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/quotas.md");
    let page = std::fs::read_to_string(path).unwrap();
    let examples: Vec<_> = page
        .split("```toml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    assert!(!examples.is_empty());
    for example in examples {
        let policy = Policy::parse("docs/quotas.md", example).unwrap_or_else(|e| panic!("{e}"));
        policy.compile(&[]).unwrap();
        assert_eq!(policy.default.quota.as_ref().unwrap().per, Per::Day);
    }
}
