//! Interfaces as a policy names them: by name, or by a pattern.

use wildmatch::WildMatch;

/// `IFNAMSIZ` without its closing zero byte.
const NAME_MAX: usize = 15;

/// Whether it stands for every interface that matches, and not for one by its
/// name.
#[must_use]
pub fn is_pattern(wanted: &str) -> bool {
    wanted.contains(['*', '?'])
}

/// Whether an interface of this name is meant. As in a shell, `*` is any number
/// of characters and `?` is one.
#[must_use]
pub fn matches(wanted: &str, name: &str) -> bool {
    WildMatch::new(wanted).matches(name)
}

/// Checks a name by the kernel's own rules (`dev_valid_name`); a pattern must be
/// able to match such a name.
///
/// # Errors
/// What is wrong with it, and what is allowed.
pub fn check(wanted: String) -> Result<String, String> {
    let shown = wanted.escape_debug();
    // The shortest name that a pattern matches.
    let least = wanted.len() - wanted.matches('*').count();
    let characters =
        !wanted.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control());
    if wanted.contains('[') {
        Err(format!(
            "`{shown}` has a bracket; allowed in patterns: `*` for any characters, `?` for one"
        ))
    } else if is_pattern(&wanted) && least > NAME_MAX {
        Err(format!(
            "`{shown}` can match no interface; allowed: what matches names of 1 to {NAME_MAX} bytes"
        ))
    } else if !wanted.is_empty()
        && least <= NAME_MAX
        && wanted != "."
        && wanted != ".."
        && characters
    {
        Ok(wanted)
    } else {
        Err(format!(
            "`{shown}` is not the name of an interface; allowed: 1 to {NAME_MAX} bytes \
             without spaces, `/` and `:`"
        ))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "so a test fails")]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_as_in_a_shell() {
        for (wanted, name, meant) in [
            ("eth0", "eth0", true),
            ("eth0", "eth00", false),
            ("eth*", "eth", true),
            ("eth*", "eth0", true),
            ("eth*", "eth0.100", true),
            ("eth*", "veth0", false),
            ("eth*", "Eth0", false),
            ("eth?", "eth0", true),
            ("eth?", "eth", false),
            ("eth?", "eth10", false),
            ("eth??", "eth10", true),
            ("en*s?", "enp3s0", true),
            ("en*s?", "enp3s0f1", false),
            ("*", "lo", true),
            ("?*", "lo", true),
            ("*.100", "bond0.100", true),
            ("*.100", "bond0_100", false),
            // Neither is of a regular expression.
            ("eth.", "eth0", false),
            ("eth+", "ethh", false),
            // A character, not a byte.
            ("k?che", "küche", true),
        ] {
            assert_eq!(matches(wanted, name), meant, "{wanted} and {name}");
        }
    }

    #[test]
    fn names_and_patterns_are_told_apart_and_checked() {
        for (wanted, pattern) in [("eth0", false), ("eth*", true), ("eth?", true)] {
            assert_eq!(is_pattern(wanted), pattern, "{wanted}");
            assert_eq!(check(wanted.to_owned()).as_deref(), Ok(wanted));
        }
        for fits in [
            "*",
            "an-interface-15",
            // The stars match nothing then.
            "an-inter*face-15*",
            "an-interface-1?",
        ] {
            assert_eq!(check(fits.to_owned()).as_deref(), Ok(fits));
        }
        for wrong in [
            "",
            ".",
            "..",
            "a/b",
            "a:1",
            "eth *",
            "eth\n",
            "eth[01]",
            "an-interface-016",
            "an-interface-016*",
            "an-interface-15?",
        ] {
            assert!(check(wrong.to_owned()).is_err(), "{wrong}");
        }
    }
}
