//! The settings of a unit file.

use anyhow::{Context, Result, ensure};
use caps::{Capability, CapsHashSet};
use nix::unistd::{Gid, Group};
use std::fs;
use std::path::{Path, PathBuf};

/// `Key=value` lines of a unit and its drop-ins, in their order.
#[derive(Clone, Debug)]
pub struct Unit(Vec<(String, String)>);

impl Unit {
    /// Reads a unit, and drop-ins that come after it.
    ///
    /// # Errors
    /// When a file cannot be read or has another form.
    pub fn read(files: &[PathBuf]) -> Result<Self> {
        let mut settings = Vec::new();
        for file in files {
            let text = fs::read_to_string(file)
                .with_context(|| format!("cannot read {}", file.display()))?;
            for line in text.lines().map(str::trim) {
                if line.is_empty() || line.starts_with(['#', '[']) {
                    continue;
                }
                let (key, value) = line
                    .split_once('=')
                    .with_context(|| format!("no setting: {line}"))?;
                ensure!(!line.ends_with('\\'), "not read here: {line}");
                settings.push((key.to_owned(), value.to_owned()));
            }
        }
        Ok(Self(settings))
    }

    /// Every value of a key.
    pub fn all(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .filter(move |(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    /// The words of all values of a key.
    pub fn words(&self, key: &str) -> Vec<&str> {
        self.all(key).flat_map(str::split_whitespace).collect()
    }

    /// The bounding set.
    ///
    /// # Errors
    /// When a capability has no such name.
    pub fn capabilities(&self) -> Result<CapsHashSet> {
        let names = self.words("CapabilityBoundingSet");
        ensure!(!names.is_empty(), "the unit has every capability");
        names
            .iter()
            .map(|name| {
                name.parse::<Capability>()
                    .with_context(|| format!("no capability {name}"))
            })
            .collect()
    }

    /// The groups beside the user's own.
    ///
    /// # Errors
    /// When there is no such group.
    pub fn groups(&self) -> Result<Vec<Gid>> {
        let names = self.words("SupplementaryGroups").into_iter();
        names
            .map(|name| {
                let group = Group::from_name(name)?;
                Ok(group.with_context(|| format!("no group {name}"))?.gid)
            })
            .collect()
    }

    /// Directories that are writable, and where they are.
    #[must_use]
    pub fn writable(&self) -> Vec<(PathBuf, PathBuf)> {
        let runtime = self.words("RuntimeDirectory").into_iter();
        let runtime = runtime.map(|name| Path::new("/run").join(name));
        let state = self.words("StateDirectory").into_iter();
        let state = state.map(|name| Path::new("/var/lib").join(name));
        let kept = runtime.chain(state).map(|path| (path.clone(), path));
        let bound = self.words("BindPaths").into_iter().map(|word| {
            let (from, to) = word.split_once(':').unwrap_or((word, word));
            (PathBuf::from(from), PathBuf::from(to))
        });
        kept.chain(bound).collect()
    }

    /// The options of its own `/proc`, where it has one.
    #[must_use]
    pub fn proc(&self) -> Option<String> {
        let of = |key, option: &str| {
            let value = self.words(key).last().copied()?;
            Some(format!("{option}={value}"))
        };
        let options: Vec<_> = [of("ProtectProc", "hidepid"), of("ProcSubset", "subset")]
            .into_iter()
            .flatten()
            .collect();
        (!options.is_empty()).then(|| options.join(","))
    }

    /// The mode bits of its files that are off.
    ///
    /// # Errors
    /// When it is no octal number.
    pub fn umask(&self) -> Result<u32> {
        let text = self.words("UMask").last().copied().unwrap_or("0022");
        u32::from_str_radix(text, 8).context("UMask")
    }
}
