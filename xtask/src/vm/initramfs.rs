//! The whole system of a virtual machine, in one archive: busybox, our programs
//! and what they run, their libraries, the kernel's modules.

use super::kernels::{self, Unpacked};
use crate::sh;
use anyhow::{Context, Result, bail};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Commands of busybox. Not `ip` and the like: the lab needs the real ones.
const APPLETS: [&str; 9] = [
    "sh", "mount", "umount", "mkdir", "sleep", "insmod", "poweroff", "dmesg", "tail",
];
/// Programs of this machine, which the lab runs.
const PROGRAMS: [&str; 4] = ["ip", "tc", "nsenter", "unshare"];
/// Empty directories.
const DIRECTORIES: [&str; 9] = [
    "bin", "corpus", "dev", "modules", "proc", "run", "sys", "tmp", "var/lib",
];
/// Packets that fuzzing kept, which the packet tests replay.
const CORPUS: &str = "shaper-user/fuzz/corpus/packet";

/// The first line that it prints: what fails before is the machine's fault.
pub const FIRST_LINE: &str = "vm-test: init";

const INIT: &str = "#!/bin/sh
echo '@FIRST_LINE@'
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmpfs /run
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for module in /modules/*; do insmod $module || echo \"no module $module\"; done
export SHAPER_BIN=/bin/shaper SHAPER_PACKETS=/bin/packets SHAPER_PACKET_CORPUS=/corpus
shaper-guest @ARGUMENTS@ || dmesg | tail -n 60
poweroff -f
";

/// Our own programs.
pub struct Programs {
    /// The daemon.
    pub shaper: PathBuf,
    /// The checks.
    pub guest: PathBuf,
    /// The packet tests.
    pub packets: PathBuf,
}

/// Packs it for one kernel, with arguments for the checks; returns the archive.
pub fn pack(
    programs: &Programs,
    kernel: &Unpacked,
    arguments: &str,
    directory: &Path,
) -> Result<PathBuf> {
    // Beside the kernel, which is in `root`.
    let root = directory.join("guest");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    for name in DIRECTORIES {
        fs::create_dir_all(root.join(name))?;
    }
    let bin = root.join("bin");
    fs::copy(program("busybox")?, bin.join("busybox"))?;
    for applet in APPLETS {
        symlink("busybox", bin.join(applet))?;
    }
    for name in PROGRAMS {
        place(&program(name)?, name, &root)?;
    }
    for (file, name) in [
        (&programs.shaper, "shaper"),
        (&programs.guest, "shaper-guest"),
        (&programs.packets, "packets"),
    ] {
        place(file, name, &root)?;
    }
    for (number, module) in kernel.modules.iter().enumerate() {
        kernels::place(module, number, &root.join("modules"))?;
    }
    for packet in crate::debian::entries(&sh::workspace()?.join(CORPUS))? {
        let name = packet.file_name().context("a packet without a name")?;
        fs::copy(&packet, root.join("corpus").join(name))?;
    }
    let init = root.join("init");
    let script = INIT
        .replace("@FIRST_LINE@", FIRST_LINE)
        .replace("@ARGUMENTS@", arguments);
    fs::write(&init, script)?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    let archive = directory.join("initramfs");
    write_archive(&root, &archive)?;
    fs::remove_dir_all(&root)?;
    Ok(archive)
}

fn program(name: &str) -> Result<PathBuf> {
    sh::find_program(name).with_context(|| format!("{name} is missing"))
}

/// Copies a program, and its libraries to where they are here.
fn place(file: &Path, name: &str, root: &Path) -> Result<()> {
    fs::copy(file, root.join("bin").join(name))
        .with_context(|| format!("cannot copy {}", file.display()))?;
    let text = sh::output(Command::new("ldd").arg(file))?;
    for library in libraries(&text) {
        let to = root.join(library.strip_prefix("/").unwrap_or(library));
        if !to.exists() {
            fs::create_dir_all(to.parent().context("a library in no directory")?)?;
            fs::copy(library, &to)?;
        }
    }
    Ok(())
}

/// The files in the output of `ldd`.
fn libraries(text: &str) -> impl Iterator<Item = &Path> {
    text.lines().filter_map(|line| {
        let found = line.split_once(" => ").map_or(line, |(_, file)| file);
        let file = found.split_whitespace().next()?;
        file.starts_with('/').then(|| Path::new(file))
    })
}

fn write_archive(root: &Path, archive: &Path) -> Result<()> {
    let mut names = Vec::new();
    list(root, root, &mut names)?;
    let mut cpio = Command::new(program("busybox")?)
        .args(["cpio", "-o", "-0", "-H", "newc", "-R", "0:0"])
        .current_dir(root)
        .stdin(Stdio::piped())
        .stdout(fs::File::create(archive)?)
        .stderr(Stdio::null())
        .spawn()
        .context("busybox cpio")?;
    if let Some(mut stdin) = cpio.stdin.take() {
        stdin.write_all(names.join("\0").as_bytes())?;
    }
    let status = cpio.wait()?;
    if !status.success() {
        bail!("busybox cpio: {status}");
    }
    Ok(())
}

/// Names below a directory, each after the directory that it is in.
fn list(directory: &Path, root: &Path, names: &mut Vec<String>) -> Result<()> {
    for path in crate::debian::entries(directory)? {
        names.push(path.strip_prefix(root)?.display().to_string());
        if path.is_dir() && !path.is_symlink() {
            list(&path, root, names)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_files_the_vdso_is_not() {
        let text = "\tlinux-vdso.so.1 (0x00007f)\n\
            \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let found: Vec<_> = libraries(text).collect();
        assert_eq!(
            found,
            [
                Path::new("/lib/x86_64-linux-gnu/libc.so.6"),
                Path::new("/lib64/ld-linux-x86-64.so.2")
            ]
        );
        assert_eq!(libraries("\tstatically linked\n").count(), 0);
    }

    #[test]
    fn an_archive_holds_every_file_below_its_directory() {
        if sh::find_program("busybox").is_none() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/b/file"), "text").unwrap();
        symlink("a", root.join("link")).unwrap();
        let archive = directory.path().join("archive");
        write_archive(&root, &archive).unwrap();
        let bytes = fs::read(&archive).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        for name in ["a/b/file", "link", "TRAILER!!!"] {
            assert!(text.contains(name), "{name}");
        }
    }
}
