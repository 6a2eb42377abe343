//! Policies as data files: each invalid one with its message, each valid one
//! with what `shaper check` prints. `UPDATE_EXPECTED=1` writes the expectations
//! anew; read the difference before committing it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "so a test fails")]

use proptest::prelude::*;
use shaper_user::policy::{LoadError, Mode, Policy, report};
use std::fmt::Write;
use std::path::{Path, PathBuf};

fn data(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/policies")
        .join(folder)
}

/// Compares `output` of every `.toml` of a folder with the `.expected` beside
/// it, and returns how many there are.
fn compare(folder: &str, output: impl Fn(&str, &str) -> Result<String, String>) -> usize {
    let update = std::env::var_os("UPDATE_EXPECTED").is_some();
    let mut files: Vec<_> = std::fs::read_dir(data(folder))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let mut failures = String::new();
    let (policies, rest): (Vec<_>, Vec<_>) = files
        .iter()
        .partition(|path| path.extension().is_some_and(|e| e == "toml"));
    for path in &policies {
        let name = path.file_name().unwrap().to_str().unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        let expected_path = path.with_extension("expected");
        match output(name, &text) {
            Err(problem) => writeln!(failures, "{name}: {problem}").unwrap(),
            Ok(found) if update => std::fs::write(expected_path, found).unwrap(),
            Ok(found) => match std::fs::read_to_string(expected_path) {
                Err(_) => writeln!(failures, "{name}: no .expected beside it").unwrap(),
                Ok(expected) if expected != found => {
                    writeln!(failures, "{name}: expected\n{expected}\nfound\n{found}").unwrap();
                }
                Ok(_) => {}
            },
        }
    }
    for path in rest {
        if !policies.contains(&&path.with_extension("toml")) {
            writeln!(failures, "{}: no .toml beside it", path.display()).unwrap();
        }
    }
    assert!(failures.is_empty(), "{failures}");
    policies.len()
}

#[test]
fn every_invalid_policy_has_its_message() {
    let files = compare("invalid", |name, text| match Policy::parse(name, text) {
        Ok(_) => Err("is valid".to_owned()),
        Err(errors) => Ok(format!("{errors}\n")),
    });
    assert!(files >= 40, "{files} files");
}

#[test]
fn every_valid_policy_has_its_table() {
    let files = compare("valid", |name, text| {
        let policy = Policy::parse(name, text).map_err(|errors| errors.to_string())?;
        policy.compile(&[]).map_err(|error| error.to_string())?;
        Ok(report(&policy))
    });
    assert!(files >= 4, "{files} files");
}

#[test]
fn tables_fit_a_terminal() {
    for entry in std::fs::read_dir(data("valid")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "expected") {
            for line in std::fs::read_to_string(&path).unwrap().lines() {
                assert!(line.chars().count() <= 80, "{}: {line}", path.display());
            }
        }
    }
}

#[test]
fn the_packaged_policy_only_observes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/policy.toml");
    let policy = Policy::load(&path).unwrap();
    assert_eq!(policy, Policy::observe_only());
    assert_eq!(policy.mode, Mode::Observe);
    // What is commented out there is right too.
    let text = std::fs::read_to_string(path).unwrap();
    let shown: String = text
        .lines()
        .map(|line| format!("{}\n", line.strip_prefix("#| ").unwrap_or(line)))
        .collect();
    let policy = Policy::parse("shown", &shown).unwrap_or_else(|errors| panic!("{errors}"));
    assert!(policy.rules.len() >= 3);
    assert!(policy.default.upload.is_some());
}

#[test]
fn a_file_that_is_absent_or_no_text_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("policy.toml");
    assert!(matches!(Policy::load(&path), Err(LoadError::Read { .. })));
    std::fs::write(&path, b"mode = \"observe\"\n# caf\xe9\n").unwrap();
    let Err(LoadError::Invalid(errors)) = Policy::load(&path) else {
        panic!("no mistake");
    };
    let mistake = &errors.mistakes[0];
    assert_eq!((mistake.line, mistake.column), (2, 6));
    let first = errors.to_string().lines().next().unwrap().to_owned();
    assert_eq!(
        first,
        format!("{}:2:6: not text; allowed: TOML in UTF-8", path.display())
    );
}

fn rules(rules: usize, clients: usize) -> String {
    let mut text = String::new();
    let mut address = 0_u32;
    for rule in 0..rules {
        writeln!(text, "[[rule]]\nname = \"r{rule}\"\nclients = [").unwrap();
        for _ in 0..clients {
            writeln!(text, "\"{}\",", std::net::Ipv4Addr::from(address)).unwrap();
            address += 1;
        }
        text.push_str("]\n");
    }
    text
}

#[test]
fn a_policy_has_as_many_rules_as_the_kernel_has_classes() {
    let policy = Policy::parse("p", &rules(4_095, 1)).unwrap();
    assert_eq!(policy.compile(&[]).unwrap().classes.len(), 4_096);
    let errors = Policy::parse("p", &rules(4_097, 1)).unwrap_err();
    assert_eq!(errors.mistakes.len(), 1, "told once");
    assert_eq!(errors.mistakes[0].line, 4_095 * 5 + 1);
    assert_eq!(
        errors.mistakes[0].message,
        "more rules than the kernel's table holds; allowed: at most 4095"
    );
}

#[test]
fn a_policy_has_as_many_prefixes_as_the_kernel_holds_twice() {
    let policy = Policy::parse("p", &rules(1, 65_535)).unwrap();
    assert_eq!(policy.compile(&[]).unwrap().rules.len(), 65_535);
    let errors = Policy::parse("p", &rules(3, 65_535)).unwrap_err();
    assert_eq!(errors.mistakes.len(), 1, "told once");
    assert_eq!(
        errors.mistakes[0].message,
        "more clients in all rules than the kernel's table holds; allowed: at most 65535"
    );
}

/// Pieces that make a text nearly a policy.
fn piece() -> impl Strategy<Value = String> {
    let words = [
        "interfaces",
        "ports",
        "mode",
        "xdp",
        "[client]",
        "[default]",
        "[[rule]]",
        "[haproxy]",
        "[[server_limit]]",
        "[control]",
        "backends",
        "servers",
        "server",
        "share",
        "above",
        "0.25",
        "[\"be_ws\"]",
        "\"be_ws/srv3\"",
        "name",
        "clients",
        "upload",
        "rate",
        "burst",
        "exempt",
        "block",
        "poll",
        "sockets",
        "uids",
        "=",
        "=",
        "=",
        "[",
        "]",
        "{",
        "}",
        ",",
        "\n",
        "\n",
        "\r\n",
        "\"",
        "'",
        "\"8mbit\"",
        "\"1MB\"",
        "\"192.0.2.0/24\"",
        "\"::/0\"",
        "443",
        "-1",
        "1e9",
        "true",
        "\"enforce\"",
        "\"50/s\"",
        "\"5s\"",
        "#",
        "é",
        "端",
        "\t",
        "\u{feff}",
        "2020-01-01",
        "inf",
        "99999999999999999999999999",
        ".",
        "\\u0000",
    ];
    prop_oneof![
        9 => proptest::sample::select(words.to_vec()).prop_map(str::to_owned),
        1 => "\\PC{0,8}",
    ]
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(pieces in proptest::collection::vec(piece(), 0..40), any in "(?s).*") {
        for text in [pieces.join(" "), pieces.concat(), any] {
            match Policy::parse("p", &text) {
                Ok(policy) => {
                    prop_assert!(policy.compile(&[]).is_ok());
                    prop_assert!(report(&policy).ends_with('\n'));
                }
                Err(errors) => {
                    prop_assert!(!errors.mistakes.is_empty());
                    let lines = text.split('\n').count();
                    for mistake in &errors.mistakes {
                        prop_assert!((1..=lines).contains(&mistake.line));
                        prop_assert!(mistake.column >= 1);
                    }
                    prop_assert!(errors.to_string().starts_with("p:"));
                }
            }
        }
    }
}
