//! Which compiler can build the kernel programs.

use crate::manifest::Tools;
use crate::{object_file, sh};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The linker's version that this repository is built with.
pub const LINKER_VERSION: &str = "0.13.0";

/// Debian's packages of a whole toolchain; they don't disturb rustup.
pub const DISTRIBUTION_PACKAGES: [&str; 5] = [
    "rustc-web",
    "cargo-web",
    "rust-web-src",
    "rust-web-clippy",
    "llvm-22-dev",
];

/// A compiler with the source of its library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiler {
    /// Where rustc, cargo and cargo-clippy are.
    pub bin: PathBuf,
    /// First line of `rustc -vV`.
    pub version: String,
    /// Its LLVM, e.g. `22.1.8`.
    pub llvm: String,
    /// Its host, e.g. `x86_64-unknown-linux-gnu`.
    pub host: String,
    /// Where the library's source is.
    pub source: PathBuf,
}

impl Compiler {
    /// Whether it takes unstable features without being told.
    pub fn is_nightly(&self) -> bool {
        self.version.contains("-nightly") || self.version.contains("-dev")
    }

    /// Whether clippy came with it.
    pub fn has_clippy(&self) -> bool {
        sh::is_executable(&self.bin.join("cargo-clippy"))
            && sh::is_executable(&self.bin.join("clippy-driver"))
    }

    fn llvm_major(&self) -> Option<u32> {
        major(&self.llvm)
    }
}

/// An installed bpf-linker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linker {
    /// The program.
    pub path: PathBuf,
    /// What `--version` prints.
    pub version: String,
    /// The major version of its LLVM, where it can be told.
    pub llvm: Option<u32>,
}

/// What is needed to build the object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toolchain {
    /// The compiler.
    pub compiler: Compiler,
    /// The linker.
    pub linker: Linker,
}

impl Toolchain {
    /// How the manifest names it.
    pub fn tools(&self) -> Tools {
        Tools {
            compiler: self.compiler.version.clone(),
            llvm: self.compiler.llvm.clone(),
            host: self.compiler.host.clone(),
            linker: self.linker.version.clone(),
        }
    }
}

/// Chooses the compiler and linker of this machine, the pair that `wanted`
/// names where there is a choice.
pub fn find(wanted: Option<&Tools>) -> Result<Toolchain> {
    let linker = find_linker()?;
    let compiler = choose(&compilers(), linker.llvm, wanted)?.clone();
    Ok(Toolchain { compiler, linker })
}

/// Chooses among compilers: one that the manifest names, else the first
/// nightly, else any; always with the linker's LLVM, because the linker reads
/// what that LLVM wrote.
pub fn choose<'a>(
    found: &'a [Compiler],
    linker_llvm: Option<u32>,
    wanted: Option<&Tools>,
) -> Result<&'a Compiler> {
    if found.is_empty() {
        bail!("no Rust compiler with the source of its library (rust-src) is installed");
    }
    let fits = |compiler: &&Compiler| linker_llvm.is_none() || linker_llvm == compiler.llvm_major();
    let named = |compiler: &&Compiler| {
        wanted
            .is_some_and(|tools| tools.compiler == compiler.version && tools.host == compiler.host)
    };
    let fitting = || found.iter().filter(fits);
    fitting()
        .find(named)
        .or_else(|| fitting().find(|compiler| compiler.is_nightly()))
        .or_else(|| fitting().next())
        .with_context(|| {
            let have: Vec<_> = found
                .iter()
                .map(|compiler| format!("{} (LLVM {})", compiler.version, compiler.llvm))
                .collect();
            format!(
                "bpf-linker was built with LLVM {}, and no compiler with rust-src has that: {}",
                linker_llvm.unwrap_or_default(),
                have.join("; ")
            )
        })
}

/// Every compiler with its library's source: rustup's, then the distribution's.
pub fn compilers() -> Vec<Compiler> {
    let rustup = std::env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".rustup")));
    let mut sysroots: Vec<PathBuf> = rustup
        .and_then(|home| std::fs::read_dir(home.join("toolchains")).ok())
        .map(|listing| listing.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    // The order of a directory is not defined; ours is.
    sysroots.sort();
    sysroots.push(PathBuf::from("/usr"));
    sysroots
        .iter()
        .filter_map(|sysroot| inspect(sysroot))
        .collect()
}

fn inspect(sysroot: &Path) -> Option<Compiler> {
    let bin = sysroot.join("bin");
    let source = sysroot.join("lib/rustlib/src/rust");
    let whole =
        source.join("library/core/Cargo.toml").exists() && sh::is_executable(&bin.join("cargo"));
    if !whole {
        return None;
    }
    let text = sh::output(Command::new(bin.join("rustc")).arg("-vV")).ok()?;
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name))
            .map(|value| value.trim().to_owned())
    };
    Some(Compiler {
        version: text.lines().next()?.to_owned(),
        llvm: field("LLVM version:")?,
        host: field("host:")?,
        bin,
        source,
    })
}

/// The installed bpf-linker.
pub fn find_linker() -> Result<Linker> {
    let cargo_bin = cargo_home().map(|home| home.join("bin/bpf-linker"));
    let path = sh::find_program("bpf-linker")
        .or_else(|| cargo_bin.filter(|path| sh::is_executable(path)))
        .context("bpf-linker is not installed")?;
    let version = sh::output(Command::new(&path).arg("--version"))?
        .trim()
        .to_owned();
    let bytes =
        std::fs::read(&path).with_context(|| format!("{} cannot be read", path.display()))?;
    Ok(Linker {
        llvm: linked_llvm(&bytes),
        version,
        path,
    })
}

/// cargo's own directory.
pub fn cargo_home() -> Option<PathBuf> {
    std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".cargo")))
}

/// The major version of the LLVM library that a program is linked to. `None`
/// when it has LLVM inside: then only trying tells.
fn linked_llvm(program: &[u8]) -> Option<u32> {
    (15..100).find(|version| {
        object_file::contains(program, format!("libLLVM.so.{version}").as_bytes())
            || object_file::contains(program, format!("libLLVM-{version}.so").as_bytes())
    })
}

fn major(version: &str) -> Option<u32> {
    version.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiler(version: &str, llvm: &str) -> Compiler {
        Compiler {
            bin: PathBuf::from("/bin"),
            version: version.to_owned(),
            llvm: llvm.to_owned(),
            host: "x86_64-unknown-linux-gnu".to_owned(),
            source: PathBuf::from("/src"),
        }
    }

    fn tools(compiler: &str) -> Tools {
        Tools {
            compiler: compiler.to_owned(),
            llvm: String::new(),
            host: "x86_64-unknown-linux-gnu".to_owned(),
            linker: String::new(),
        }
    }

    #[test]
    fn a_nightly_comes_first() {
        let found = [
            compiler("rustc 1.96.0", "22.1.8"),
            compiler("rustc 1.97.0-nightly", "22.1.4"),
        ];
        let chosen = choose(&found, Some(22), None).unwrap();
        assert_eq!(chosen.version, "rustc 1.97.0-nightly");
    }

    #[test]
    fn a_nightly_with_another_llvm_is_passed_over() {
        let found = [
            compiler("rustc 1.99.0-nightly", "23.0.0"),
            compiler("rustc 1.96.0", "22.1.8"),
        ];
        assert_eq!(
            choose(&found, Some(22), None).unwrap().version,
            "rustc 1.96.0"
        );
        // Where the linker does not tell its LLVM there is nothing to compare.
        assert_eq!(
            choose(&found, None, None).unwrap().version,
            "rustc 1.99.0-nightly"
        );
    }

    #[test]
    fn the_manifest_decides_where_there_is_a_choice() {
        let found = [
            compiler("rustc 1.97.0-nightly", "22.1.4"),
            compiler("rustc 1.96.0", "22.1.8"),
        ];
        let wanted = tools("rustc 1.96.0");
        assert_eq!(
            choose(&found, Some(22), Some(&wanted)).unwrap().version,
            "rustc 1.96.0"
        );
        // One that is not there does not.
        let wanted = tools("rustc 1.50.0");
        assert_eq!(
            choose(&found, Some(22), Some(&wanted)).unwrap().version,
            "rustc 1.97.0-nightly"
        );
    }

    #[test]
    fn errors_name_what_is_missing() {
        let error = choose(&[], Some(22), None).unwrap_err().to_string();
        assert!(error.contains("rust-src"), "{error}");
        let found = [compiler("rustc 1.99.0-nightly", "23.0.0")];
        let error = choose(&found, Some(22), None).unwrap_err().to_string();
        assert!(
            error.contains("LLVM 22") && error.contains("LLVM 23.0.0"),
            "{error}"
        );
    }

    #[test]
    fn reads_the_linkers_llvm() {
        assert_eq!(linked_llvm(b"\0libLLVM.so.22.1\0libc.so.6\0"), Some(22));
        assert_eq!(linked_llvm(b"\0libLLVM-18.so.1\0"), Some(18));
        assert_eq!(linked_llvm(b"\0libc.so.6\0"), None);
    }
}
