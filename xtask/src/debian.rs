//! Packages of another Debian suite, with lists and a cache of their own: the
//! system's apt knows nothing of them, and nothing is installed.

use crate::sh;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where suites are.
pub const MIRROR: &str = "http://deb.debian.org/debian";
/// What apt checks the signature of a suite with.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// One suite, its lists fetched.
pub struct Suite {
    apt: PathBuf,
}

impl Suite {
    /// Fetches the lists of a suite into a directory, which is to be new.
    pub fn open(suite: &str, apt: &Path) -> Result<Self> {
        for program in ["apt-get", "apt-cache", "dpkg-deb"] {
            if sh::find_program(program).is_none() {
                bail!("{program} is missing");
            }
        }
        if !Path::new(KEYRING).is_file() {
            bail!("{KEYRING} is missing: apt-get install debian-archive-keyring");
        }
        for directory in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(apt.join(directory))?;
        }
        // Nothing counts as installed: all that a package needs is fetched.
        fs::write(apt.join("status"), "")?;
        fs::write(
            apt.join("sources.list"),
            format!("deb [signed-by={KEYRING}] {MIRROR} {suite} main\n"),
        )?;
        let suite = Self {
            apt: apt.to_owned(),
        };
        sh::output(suite.command("apt-get").arg("update"))?;
        Ok(suite)
    }

    fn command(&self, program: &str) -> Command {
        let apt = &self.apt;
        let mut command = Command::new(program);
        command.arg("-qq");
        for (key, path) in [
            ("Dir::State", apt.clone()),
            ("Dir::State::status", apt.join("status")),
            ("Dir::Cache", apt.join("cache")),
            ("Dir::Etc::SourceList", apt.join("sources.list")),
            ("Dir::Etc::SourceParts", PathBuf::from("/dev/null")),
        ] {
            command.arg("-o").arg(format!("{key}={}", path.display()));
        }
        for option in [
            "APT::Sandbox::User=root",
            "Acquire::http::Timeout=20",
            "Acquire::Languages=none",
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
            "Debug::NoLocking=1",
        ] {
            command.arg("-o").arg(option);
        }
        command
    }

    /// The names that a package depends on, without alternatives and virtual
    /// packages.
    pub fn depends(&self, package: &str) -> Result<Vec<String>> {
        let text = sh::output(
            self.command("apt-cache")
                .args(["depends", "--important", package]),
        )?;
        Ok(dependencies(&text))
    }

    /// Unpacks a package and all that it needs.
    pub fn unpack_with_dependencies(&self, package: &str, root: &Path) -> Result<()> {
        sh::output(self.command("apt-get").args([
            "install",
            "--yes",
            "--download-only",
            "--no-install-recommends",
            package,
        ]))?;
        unpack(&self.apt.join("cache/archives"), root)
    }

    /// Unpacks just these packages.
    pub fn unpack(&self, packages: &[String], root: &Path) -> Result<()> {
        let archives = self.apt.join("cache/archives");
        sh::output(
            self.command("apt-get")
                .arg("download")
                .args(packages)
                .current_dir(&archives),
        )?;
        unpack(&archives, root)
    }
}

fn unpack(archives: &Path, root: &Path) -> Result<()> {
    fs::create_dir_all(root)?;
    for package in entries(archives)? {
        if package.extension().is_some_and(|end| end == "deb") {
            sh::run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(root))?;
        }
    }
    Ok(())
}

/// What is in a directory.
pub fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    fs::read_dir(directory)
        .with_context(|| format!("cannot list {}", directory.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect()
}

/// The names in the output of `apt-cache depends`.
fn dependencies(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.trim_start().strip_prefix("Depends: "))
        .filter(|name| !name.starts_with('<'))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_without_alternatives_and_virtual_packages() {
        let text = "linux-image-cloud-amd64\n  PreDepends: linux-base\n |Depends: dracut\n  \
            Depends: <linux-initramfs-tool>\n    dracut\n  Depends: linux-binary-7.3-cloud-amd64\n";
        assert_eq!(dependencies(text), ["linux-binary-7.3-cloud-amd64"]);
        assert!(dependencies("").is_empty());
    }
}
