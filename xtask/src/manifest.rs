//! The manifest beside the committed object: what it was built from, and by what.

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// Files and folders the object is built from, from the workspace's root. A
/// folder counts with everything below it except unit tests.
pub const INPUTS: [&str; 6] = [
    "shaper-common/Cargo.toml",
    "shaper-common/src",
    "shaper-ebpf/.cargo/config.toml",
    "shaper-ebpf/Cargo.lock",
    "shaper-ebpf/Cargo.toml",
    "shaper-ebpf/src",
];

/// Compiler and linker, as they name themselves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tools {
    /// First line of `rustc -vV`.
    pub compiler: String,
    /// The compiler's LLVM.
    pub llvm: String,
    /// The architecture the compiler runs on: the bindings of some kernel types
    /// depend on it.
    pub host: String,
    /// `bpf-linker --version`.
    pub linker: String,
}

/// What `manifest.json` holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// SHA-256 of the object.
    pub object: String,
    /// What it was built with.
    pub tools: Tools,
    /// SHA-256 of each input, by its path from the workspace's root.
    pub inputs: BTreeMap<String, String>,
}

impl Manifest {
    /// Reads the manifest at `path`.
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
        serde_json::from_slice(&text)
            .with_context(|| format!("{} is not a manifest", path.display()))
    }

    /// Writes the manifest to `path`.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        std::fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))
    }

    /// What differs from the object and the inputs found now; empty when the
    /// committed object is fresh.
    pub fn differences(&self, object: &str, inputs: &BTreeMap<String, String>) -> Vec<String> {
        let mut found = Vec::new();
        for (path, hash) in &self.inputs {
            match inputs.get(path) {
                None => found.push(format!("{path}: removed since the object was built")),
                Some(now) if now != hash => {
                    found.push(format!("{path}: changed since the object was built"));
                }
                Some(_) => {}
            }
        }
        for path in inputs
            .keys()
            .filter(|path| !self.inputs.contains_key(*path))
        {
            found.push(format!("{path}: added since the object was built"));
        }
        if object != self.object {
            found.push("the object is not the one that the manifest names".to_owned());
        }
        found
    }
}

/// SHA-256 in lower-case hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .fold(String::with_capacity(64), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// Hashes [`INPUTS`] below `root`. An input that is not there is left out.
pub fn hash_inputs(root: &Path) -> Result<BTreeMap<String, String>> {
    let mut inputs = BTreeMap::new();
    for path in INPUTS {
        hash_into(root, path, &mut inputs)?;
    }
    if inputs.is_empty() {
        bail!("no sources of the kernel programs below {}", root.display());
    }
    Ok(inputs)
}

fn hash_into(root: &Path, path: &str, inputs: &mut BTreeMap<String, String>) -> Result<()> {
    let full = root.join(path);
    if full.is_dir() {
        let listing = std::fs::read_dir(&full).with_context(|| format!("{path} cannot be read"))?;
        for entry in listing {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if !matches!(name.as_str(), "tests" | "tests.rs") {
                hash_into(root, &format!("{path}/{name}"), inputs)?;
            }
        }
    } else if full.exists() {
        let bytes = std::fs::read(&full).with_context(|| format!("{path} cannot be read"))?;
        inputs.insert(path.to_owned(), sha256(&bytes));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(inputs: &[(&str, &str)]) -> Manifest {
        Manifest {
            object: "object".to_owned(),
            tools: Tools {
                compiler: "rustc".to_owned(),
                llvm: "22".to_owned(),
                host: "x86_64".to_owned(),
                linker: "bpf-linker".to_owned(),
            },
            inputs: map(inputs),
        }
    }

    fn map(inputs: &[(&str, &str)]) -> BTreeMap<String, String> {
        inputs
            .iter()
            .map(|(path, hash)| ((*path).to_owned(), (*hash).to_owned()))
            .collect()
    }

    #[test]
    fn a_fresh_object_has_no_differences() {
        let fresh = manifest(&[("a.rs", "1"), ("b.rs", "2")]);
        assert!(fresh.differences("object", &fresh.inputs).is_empty());
    }

    #[test]
    fn each_difference_names_its_file() {
        let old = manifest(&[("changed.rs", "1"), ("removed.rs", "2"), ("same.rs", "3")]);
        let now = map(&[("added.rs", "4"), ("changed.rs", "9"), ("same.rs", "3")]);
        assert_eq!(
            old.differences("another", &now),
            [
                "changed.rs: changed since the object was built",
                "removed.rs: removed since the object was built",
                "added.rs: added since the object was built",
                "the object is not the one that the manifest names",
            ]
        );
    }

    #[test]
    fn hashes_sources_but_not_their_unit_tests() {
        let dir = tempfile::tempdir().unwrap();
        for path in [
            "shaper-ebpf/Cargo.toml",
            "shaper-ebpf/src/main.rs",
            "shaper-ebpf/src/parse/tcp.rs",
            "shaper-ebpf/target/main.rs",
            "shaper-common/src/bucket.rs",
            "shaper-common/src/bucket/tests.rs",
            "shaper-common/tests/rates.rs",
        ] {
            let file = dir.path().join(path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, "abc").unwrap();
        }
        let inputs = hash_inputs(dir.path()).unwrap();
        let paths: Vec<_> = inputs.keys().map(String::as_str).collect();
        assert_eq!(
            paths,
            [
                "shaper-common/src/bucket.rs",
                "shaper-ebpf/Cargo.toml",
                "shaper-ebpf/src/main.rs",
                "shaper-ebpf/src/parse/tcp.rs",
            ]
        );
        // FIPS 180-4, the example message "abc".
        assert_eq!(
            inputs["shaper-ebpf/Cargo.toml"],
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn no_sources_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(hash_inputs(dir.path()).is_err());
    }

    #[test]
    fn survives_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("manifest.json");
        let written = manifest(&[("a.rs", "1")]);
        written.write(&path).unwrap();
        assert_eq!(Manifest::read(&path).unwrap(), written);
    }
}
