//! Which HAProxy binaries this machine has.

use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names the only binary to use, in place of all that are found.
pub const VARIABLE: &str = "SHAPER_HAPROXY";
/// Where `cargo xtask setup --haproxy3` puts one, below the target directory.
const UNPACKED: &str = "haproxy-3/haproxy";

/// A HAProxy binary that runs here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// The program.
    pub program: PathBuf,
    /// Its version as it says it, such as `3.0.11-1+deb13u3`.
    pub version: String,
    /// Major and minor number of that.
    pub branch: (u16, u16),
}

impl Installed {
    /// Asks a program for its version.
    ///
    /// # Errors
    /// When it does not run, or is no HAProxy.
    pub fn probe(program: impl Into<PathBuf>) -> Result<Self> {
        let program = program.into();
        let output = Command::new(&program)
            .arg("-v")
            .output()
            .with_context(|| format!("cannot run {}", program.display()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let Some((version, branch)) = parse(&text) else {
            bail!("{} -v names no HAProxy version", program.display());
        };
        Ok(Self {
            program,
            version,
            branch,
        })
    }

    /// Whether it has `filter bwlim-in` and `bwlim-out` (from 2.7 on).
    #[must_use]
    pub fn has_bwlim(&self) -> bool {
        self.branch >= (2, 7)
    }
}

impl fmt::Display for Installed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HAProxy {}", self.version)
    }
}

/// Every HAProxy here, the newest first: `SHAPER_HAPROXY` alone where it is
/// set, else the system's and the one that `cargo xtask setup --haproxy3`
/// unpacked.
///
/// # Errors
/// When `SHAPER_HAPROXY` names a program that is none.
pub fn installed() -> Result<Vec<Installed>> {
    if let Some(program) = std::env::var_os(VARIABLE) {
        let named = Installed::probe(program).context(VARIABLE)?;
        return Ok(vec![named]);
    }
    let own = std::env::current_exe().unwrap_or_default();
    let unpacked = own.ancestors().map(|directory| directory.join(UNPACKED));
    let mut found: Vec<Installed> = on_path("haproxy")
        .into_iter()
        .chain(unpacked.filter(|path| path.is_file()).take(1))
        // One that does not run is as good as none.
        .filter_map(|program| Installed::probe(program).ok())
        .collect();
    found.sort_by_key(|installed| std::cmp::Reverse(installed.branch));
    Ok(found)
}

/// The HAProxy of that program, or the newest here.
///
/// # Errors
/// When there is none.
pub fn choose(program: Option<&Path>) -> Result<Installed> {
    if let Some(program) = program {
        return Installed::probe(program);
    }
    installed()?
        .into_iter()
        .next()
        .context("haproxy is not installed: `cargo xtask setup`")
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin"));
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/local/sbin"), PathBuf::from("/usr/sbin")])
        .map(|directory| directory.join(name))
        .find(|program| program.is_file())
}

/// The version in `HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://…`;
/// older ones say `HA-Proxy`.
fn parse(text: &str) -> Option<(String, (u16, u16))> {
    let mut words = text.split_whitespace();
    if !matches!(words.next(), Some("HAProxy" | "HA-Proxy")) || words.next() != Some("version") {
        return None;
    }
    let version = words.next()?;
    let mut numbers = version.split(|c: char| !c.is_ascii_digit());
    let branch = (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
    Some((version.to_owned(), branch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let version = |text| parse(text).map(|(_, branch)| branch);
        assert_eq!(
            version("HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/"),
            Some((2, 6))
        );
        assert_eq!(version("HAProxy version 3.3-dev6 2025/08/06"), Some((3, 3)));
        assert_eq!(version("HA-Proxy version 2.2.9-2 2021/02/06"), Some((2, 2)));
        assert_eq!(version("nginx version: nginx/1.22.1"), None);
        assert_eq!(version(""), None);
    }
}
