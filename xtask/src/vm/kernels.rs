//! Debian's own kernels, unpacked below the target directory.

use super::expect::Kernel;
use crate::debian::{Suite, entries};
use crate::sh;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names the newest kernel of a suite for virtual machines.
const META: &str = "linux-image-cloud-amd64";

/// Modules that the checks need, each after those that it needs itself. What is
/// built in is left out.
const MODULES: [&str; 7] = [
    "inet_diag",
    "tcp_diag",
    "veth",
    "sch_ingress",
    "cls_bpf",
    "sch_fq",
    "sch_netem",
];

/// An unpacked kernel.
pub struct Unpacked {
    /// What `uname -r` will say.
    pub release: String,
    /// The kernel.
    pub image: PathBuf,
    /// Modules, in the order in which they load.
    pub modules: Vec<PathBuf>,
}

/// Fetches a kernel where it is missing, or in any case.
pub fn fetch(kernel: &Kernel, directory: &Path, update: bool) -> Result<Unpacked> {
    let there = directory.join(kernel.name);
    if !update && let Ok(found) = find(&there) {
        return Ok(found);
    }
    let new = there.with_extension("new");
    let mut errors = Vec::new();
    for suite in kernel.suites {
        remove(&new)?;
        match unpack(suite, &new) {
            Ok(()) => {
                remove(&there)?;
                fs::rename(&new, &there)?;
                return find(&there);
            }
            Err(error) => errors.push(format!("{suite}: {error:#}")),
        }
    }
    bail!("no kernel {}: {}", kernel.name, errors.join("; "))
}

fn remove(directory: &Path) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory)?;
    }
    Ok(())
}

fn unpack(suite: &str, new: &Path) -> Result<()> {
    let apt = new.join("apt");
    let lists = Suite::open(suite, &apt)?;
    let image = lists
        .depends(META)?
        .into_iter()
        .find(|name| name.starts_with("linux-image-"))
        .with_context(|| format!("{META} names no kernel"))?;
    println!("vm-test: fetching {image} of Debian {suite}, about 30 MB");
    let mut packages = vec![image];
    if let Some(image) = packages.first() {
        // Newer kernels come in parts.
        let parts = lists.depends(image)?;
        packages.extend(parts.into_iter().filter(|name| {
            ["linux-binary-", "linux-modules-"]
                .iter()
                .any(|part| name.starts_with(part))
        }));
    }
    lists.unpack(&packages, &new.join("root"))?;
    fs::remove_dir_all(&apt)?;
    find(new).map(drop)
}

/// What is unpacked in a directory.
fn find(directory: &Path) -> Result<Unpacked> {
    let mut files = Vec::new();
    walk(&directory.join("root"), &mut files)?;
    let named = |name: &str| {
        files
            .iter()
            .find(|file| file.file_name().is_some_and(|n| n == name))
    };
    let image = files
        .iter()
        .find(|file| {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("vmlinuz")
        })
        .context("no kernel image")?;
    let release = files
        .iter()
        .find_map(|file| release(file))
        .context("no modules")?;
    // Not in the packages of the newest kernels, where all of ours are modules.
    let builtin = named("modules.builtin").map(fs::read_to_string);
    let builtin = builtin.transpose()?.unwrap_or_default();
    let mut modules = Vec::new();
    for module in MODULES {
        let file = ["ko", "ko.xz"]
            .iter()
            .find_map(|end| named(&format!("{module}.{end}")));
        match file {
            Some(file) => modules.push(file.clone()),
            None if builtin.contains(&format!("/{module}.ko")) => {}
            None => bail!("{release} has no module {module}"),
        }
    }
    Ok(Unpacked {
        release,
        image: image.clone(),
        modules,
    })
}

/// What `uname -r` says with a module: the directory that its kind is in.
fn release(module: &Path) -> Option<String> {
    let mut names = module.iter().skip_while(|name| *name != "modules");
    let (_, release, kernel) = (names.next()?, names.next()?, names.next()?);
    (kernel == "kernel").then(|| release.to_string_lossy().into_owned())
}

fn walk(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for path in entries(directory)? {
        if path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            walk(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// Writes a module into a directory, decompressed: nothing in the virtual
/// machine could. Its name begins with its number.
pub fn place(module: &Path, number: usize, directory: &Path) -> Result<()> {
    let name = module.file_stem().unwrap_or_default().to_string_lossy();
    let to = directory.join(format!("{number:02}-{}", name.trim_end_matches(".ko")));
    if module.extension().is_some_and(|end| end == "xz") {
        let file = fs::File::create(&to)?;
        return sh::run(Command::new("xz").arg("-dc").arg(module).stdout(file));
    }
    fs::copy(module, &to)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_is_in_the_path_of_a_module() {
        let module = Path::new("root/usr/lib/modules/7.3-cloud/kernel/drivers/net/veth.ko.xz");
        assert_eq!(release(module).as_deref(), Some("7.3-cloud"));
        for other in [
            "root/boot/vmlinuz-7.3",
            "root/lib/modules/7.3/modules.builtin",
            "root/lib/modules/7.3",
        ] {
            assert_eq!(release(Path::new(other)), None, "{other}");
        }
    }
}
