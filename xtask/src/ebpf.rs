//! `build-ebpf`: the kernel programs, from source to the committed object.

use crate::manifest::{self, Manifest};
use crate::toolchain::{self, Toolchain};
use crate::{object_file, setup, sh};
use anyhow::{Context, Result, bail};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Set while this program stands in for rustc.
pub const WRAPPER_ENV: &str = "SHAPER_XTASK_RUSTC_WRAPPER";

const TARGET: &str = "bpfel-unknown-none";
/// What cargo calls the linked object; named in the call, so that a renamed one
/// is an error and not an old file.
const BINARY: &str = "shaper";
const OBJECT: &str = "shaper-ebpf/dist/shaper.bpf.o";
const MANIFEST: &str = "shaper-ebpf/dist/manifest.json";
/// Of every crate: `--btf` needs debug information; v3 is compare-and-swap and
/// 32-bit arithmetic in one instruction; the linker's default of expanding
/// `memset` in order makes it a loop over bytes, which cost a third of the run.
const RUSTFLAGS: [&str; 4] = [
    "-Cdebuginfo=2",
    "-Clink-arg=--btf",
    "-Clink-arg=--disable-expand-memcpy-in-order",
    "-Ctarget-cpu=v3",
];

/// Options of `build-ebpf`.
#[derive(clap::Args)]
pub struct Args {
    /// Fail when the committed object is stale; install and write nothing
    #[arg(long)]
    check: bool,
}

/// Builds the object, or checks the committed one.
pub fn run(args: &Args) -> Result<()> {
    if args.check { check() } else { build() }
}

fn build() -> Result<()> {
    let root = sh::workspace()?;
    let wanted = Manifest::read(&root.join(MANIFEST)).ok();
    let tools = setup::toolchain(wanted.as_ref().map(|manifest| &manifest.tools))?;
    let before = manifest::hash_inputs(&root)?;
    let object = compile(&root, &tools, false)?;
    let inputs = manifest::hash_inputs(&root)?;
    if inputs != before {
        bail!("a source or the lock file changed during the build: run it again");
    }
    let path = root.join(OBJECT);
    if let Some(dist) = path.parent() {
        std::fs::create_dir_all(dist)?;
    }
    std::fs::write(&path, &object).with_context(|| format!("{OBJECT} cannot be written"))?;
    let manifest = Manifest {
        object: manifest::sha256(&object),
        tools: tools.tools(),
        inputs,
    };
    manifest.write(&root.join(MANIFEST))?;
    println!(
        "{OBJECT}: {} bytes, sha256 {}",
        object.len(),
        manifest.object
    );
    Ok(())
}

fn check() -> Result<()> {
    let root = sh::workspace()?;
    let manifest = Manifest::read(&root.join(MANIFEST))
        .context("build the object first: cargo xtask build-ebpf")?;
    let object =
        std::fs::read(root.join(OBJECT)).with_context(|| format!("{OBJECT} cannot be read"))?;
    let found = manifest.differences(&manifest::sha256(&object), &manifest::hash_inputs(&root)?);
    if !found.is_empty() {
        bail!(
            "{OBJECT} is stale, run `cargo xtask build-ebpf`:\n  {}",
            found.join("\n  ")
        );
    }
    object_file::verify(&object, &[])?;
    let tools = match toolchain::find(Some(&manifest.tools)) {
        Ok(tools) if tools.tools() == manifest.tools => tools,
        Ok(tools) => {
            println!(
                "{OBJECT} matches its sources by the manifest. Not rebuilt: it was built with {} \
                 and {}, here are {} and {}",
                manifest.tools.compiler,
                manifest.tools.linker,
                tools.compiler.version,
                tools.linker.version
            );
            return Ok(());
        }
        Err(error) => {
            println!("{OBJECT} matches its sources by the manifest. Not rebuilt: {error:#}");
            return Ok(());
        }
    };
    let rebuilt = compile(&root, &tools, true)?;
    if rebuilt != object {
        let copy = build_dir(&tools)?.join("rebuilt.bpf.o");
        std::fs::write(&copy, &rebuilt)?;
        bail!(
            "{OBJECT} differs from what its sources build ({}): run `cargo xtask build-ebpf`",
            copy.display()
        );
    }
    println!(
        "{OBJECT} was rebuilt from its sources: the same {} bytes",
        object.len()
    );
    Ok(())
}

/// Compiles, links, strips and verifies the object.
fn compile(root: &Path, tools: &Toolchain, locked: bool) -> Result<Vec<u8>> {
    let target = build_dir(tools)?;
    let mut command = cargo(root, tools, "build")?;
    command.args(["--bin", BINARY]);
    if locked {
        command.arg("--locked");
    }
    let me = std::env::current_exe().context("cannot find this program's own path")?;
    command.env("RUSTC_WRAPPER", me).env(WRAPPER_ENV, "1");
    println!("{} with {}", tools.compiler.version, tools.linker.version);
    sh::run(&mut command)?;
    let linked = target.join(TARGET).join("release").join(BINARY);
    let object =
        std::fs::read(&linked).with_context(|| format!("{} was not built", linked.display()))?;
    let object = object_file::strip_dwarf(&object)?;
    object_file::verify(&object, &private_paths(root, &target))?;
    Ok(object)
}

/// Runs clippy on the kernel programs, warnings as errors. The linker is not
/// needed.
pub fn clippy_command(compiler: toolchain::Compiler) -> Result<Command> {
    let linker = toolchain::Linker {
        path: PathBuf::from("bpf-linker"),
        version: "clippy".to_owned(),
        llvm: None,
    };
    let mut command = cargo(&sh::workspace()?, &Toolchain { compiler, linker }, "clippy")?;
    command.args(["--", "-Dwarnings"]);
    Ok(command)
}

/// A cargo command of the toolchain, in the kernel programs' crate.
fn cargo(root: &Path, tools: &Toolchain, subcommand: &str) -> Result<Command> {
    let bin = &tools.compiler.bin;
    let mut command = match subcommand {
        // cargo would look for its subcommand in its own home first, and find
        // another toolchain's.
        "clippy" => Command::new(bin.join("cargo-clippy")),
        _ => Command::new(bin.join("cargo")),
    };
    // What the cargo that runs us has set for its own compiler, and profiles that
    // the caller's shell sets for the rest of the workspace: either would make
    // another object of the same sources.
    let profiles = std::env::vars_os()
        .map(|(name, _)| name)
        .filter(|name| name.to_string_lossy().starts_with("CARGO_PROFILE_"));
    for name in profiles {
        command.env_remove(name);
    }
    for name in [
        "RUSTUP_TOOLCHAIN",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTDOC",
        "RUSTFLAGS",
        "CARGO_BUILD_RUSTFLAGS",
        "CARGO_INCREMENTAL",
        "LD_LIBRARY_PATH",
    ] {
        command.env_remove(name);
    }
    let mut path = vec![bin.clone()];
    path.extend(std::env::split_paths(
        &std::env::var_os("PATH").unwrap_or_default(),
    ));
    let target = build_dir(tools)?;
    command
        .arg(subcommand)
        .args(["--release", "--target", TARGET, "-Zbuild-std=core"])
        .current_dir(root.join("shaper-ebpf"))
        .env("PATH", std::env::join_paths(path)?)
        .env("CARGO", bin.join("cargo"))
        .env("RUSTC", bin.join("rustc"))
        .env("CARGO_TARGET_DIR", &target)
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &tools.linker.path)
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(root, tools, &target));
    if !tools.compiler.is_nightly() {
        command.env("RUSTC_BOOTSTRAP", "1");
    }
    Ok(command)
}

/// One directory for each toolchain: cargo does not notice another linker.
fn build_dir(tools: &Toolchain) -> Result<PathBuf> {
    let name: String = format!("{} {}", tools.compiler.version, tools.linker.version)
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '.' {
                c
            } else {
                '-'
            }
        })
        .collect();
    Ok(sh::target_dir()?.join("bpf").join(name))
}

/// The flags, with every path of this machine replaced. The last one that
/// matches a path wins, so the narrower come later.
fn rustflags(root: &Path, tools: &Toolchain, target: &Path) -> OsString {
    let source = &tools.compiler.source;
    let mut replaced: Vec<(PathBuf, &str)> = Vec::new();
    if let Some(home) = toolchain::cargo_home() {
        replaced.push((home, "/cargo"));
    }
    // Debian's is a link, and both names reach the object.
    replaced.extend(std::fs::canonicalize(source).map(|real| (real, "/rust")));
    replaced.push((source.clone(), "/rust"));
    replaced.push((root.to_path_buf(), "/shaper"));
    replaced.push((target.to_path_buf(), "/target"));

    let mut flags: Vec<OsString> = RUSTFLAGS.map(OsString::from).to_vec();
    for (path, name) in replaced {
        let mut flag = OsString::from("--remap-path-prefix=");
        flag.push(path);
        flag.push("=");
        flag.push(name);
        flags.push(flag);
    }
    flags.join(OsStr::new("\u{1f}"))
}

/// Paths that would tell where the object was built.
fn private_paths(root: &Path, target: &Path) -> Vec<String> {
    let mut paths = vec![root.to_path_buf(), target.to_path_buf()];
    paths.extend(toolchain::cargo_home());
    paths.extend(std::env::home_dir());
    paths
        .iter()
        .map(|path| path.display().to_string())
        // Too short to mean anything: `/` is in every path.
        .filter(|path| path.len() > 1)
        .map(|path| format!("{path}/"))
        .collect()
}

/// Stands in for rustc, with a crate identity that does not depend on where the
/// sources are. cargo derives `-C metadata` from the path of a crate, and that
/// is in the name of every function that is not inlined: without this, the same
/// sources would build another object in every directory.
pub fn rustc_wrapper() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let Some(rustc) = args.next() else {
        return ExitCode::FAILURE;
    };
    let version = std::env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let args = neutral(args.collect(), &version);
    match sh::status(Command::new(rustc).args(args)) {
        Ok(status) => sh::exit_code(status),
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Replaces the value of `-C metadata` for crates of the BPF target.
fn neutral(args: Vec<OsString>, version: &str) -> Vec<OsString> {
    let after = |option: &str| {
        args.iter()
            .position(|arg| arg == option)
            .and_then(|at| args.get(at + 1))
            .map(|value| value.to_string_lossy().into_owned())
    };
    if after("--target").as_deref() != Some(TARGET) {
        return args;
    }
    let Some(name) = after("--crate-name") else {
        return args;
    };
    // A library and a program of one package share name and version.
    let kind = after("--crate-type").unwrap_or_default();
    let identity = format!("metadata={name}-{version}-{kind}");
    args.into_iter()
        .map(|arg| {
            if arg.to_string_lossy().starts_with("metadata=") {
                OsString::from(&identity)
            } else {
                arg
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(target: &str, metadata: &str) -> Vec<OsString> {
        let extra = format!("extra-filename=-{metadata}");
        let metadata = format!("metadata={metadata}");
        [
            "--crate-name",
            "shaper_common",
            "--crate-type",
            "lib",
            "-C",
            &metadata,
            "-C",
            &extra,
            "--target",
            target,
        ]
        .map(OsString::from)
        .to_vec()
    }

    #[test]
    fn the_identity_of_a_bpf_crate_does_not_depend_on_its_path() {
        let changed = neutral(args(TARGET, "1234"), "0.1.0");
        assert_eq!(changed[5], "metadata=shaper_common-0.1.0-lib");
        // cargo finds its files by this one.
        assert_eq!(changed[7], "extra-filename=-1234");
    }

    #[test]
    fn crates_of_the_host_are_left_alone() {
        let host = args("x86_64-unknown-linux-gnu", "1234");
        assert_eq!(neutral(host.clone(), "0.1.0"), host);
    }
}
