//! `dist`: the Debian package and the tarball, into `target/dist`.

use crate::{setup, sh};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Where a built-by-hand `shaper` is, as the unit has it; and where a package's is.
const LOCAL_BIN: &str = "/usr/local/bin/";
const PACKAGE_BIN: &str = "/usr/bin/";

/// Options of `dist`.
#[derive(clap::Args)]
pub struct Args {
    /// Install, use, upgrade and purge the package in a clean Debian root
    #[arg(long)]
    test: bool,
    /// With --test: the README whose commands are run
    #[arg(long, value_name = "FILE", requires = "test")]
    readme: Option<PathBuf>,
}

/// Says what is done and how long it has taken.
struct Progress {
    started: Instant,
    step: u32,
    steps: u32,
}

impl Progress {
    fn step(&mut self, what: &str) {
        self.step += 1;
        println!(
            "dist: [{}/{}] {what} ({:.0} s)",
            self.step,
            self.steps,
            self.started.elapsed().as_secs_f32()
        );
    }
}

/// Builds both; with `--test` also runs the package's test.
pub fn run(args: &Args) -> Result<()> {
    if args.test {
        sh::need_root("dist --test")?;
    }
    let mut progress = Progress {
        started: Instant::now(),
        step: 0,
        steps: if args.test { 6 } else { 4 },
    };
    progress.step("building shaper");
    let mut build = sh::cargo(["build", "--release", "--locked", "--package=shaper-user"])?;
    build.args(["--package=shaper-tests", "--bin=shaper"]);
    if args.test {
        build.arg("--bin=shaper-package");
    }
    sh::run(&mut build)?;

    progress.step("man pages, completions and the unit");
    let generated = sh::target_dir()?.join("release/dist");
    generate(&generated)?;

    progress.step("the Debian package");
    setup::cargo_tool("cargo-deb", setup::CARGO_DEB)?;
    let dist = sh::target_dir()?.join("dist");
    fs::create_dir_all(&dist).with_context(|| format!("cannot make {}", dist.display()))?;
    let package = deb(&dist, VERSION)?;

    progress.step("the tarball");
    let tarball = tarball(&generated, &dist)?;

    if args.test {
        progress.step("a newer package, to upgrade to");
        let newer = sh::target_dir()?.join("dist-newer");
        fs::create_dir_all(&newer)?;
        let newer = deb(&newer, &format!("{VERSION}+newer"))?;
        progress.step("the package in a clean Debian root");
        test(args, &package, &newer)?;
    }
    for file in [&package, &tarball] {
        let size = fs::metadata(file)?.len();
        println!("dist: {} ({:.1} MB)", file.display(), size as f64 / 1e6);
    }
    Ok(())
}

/// What is made from the binary and the unit, for both.
fn generate(to: &Path) -> Result<()> {
    if to.exists() {
        fs::remove_dir_all(to).with_context(|| format!("cannot empty {}", to.display()))?;
    }
    sh::run(
        Command::new(sh::release_bin("shaper")?)
            .arg("generate")
            .arg(to),
    )?;
    // As Debian has them. Without a name and a time, so that the same page is the same file.
    for page in crate::debian::entries(&to.join("man"))? {
        sh::run(Command::new("gzip").args(["-9", "-n"]).arg(page))?;
    }
    let unit = fs::read_to_string(sh::workspace()?.join("packaging/shaper.service"))?;
    fs::write(to.join("shaper.service"), packaged(&unit)?)?;
    Ok(())
}

/// The unit, for the binary's place in a package.
fn packaged(unit: &str) -> Result<String> {
    if !unit.contains(LOCAL_BIN) {
        bail!("packaging/shaper.service does not start a program in {LOCAL_BIN}");
    }
    Ok(unit.replace(LOCAL_BIN, PACKAGE_BIN))
}

fn deb(to: &Path, version: &str) -> Result<PathBuf> {
    // An earlier version would match the same pattern.
    for old in crate::debian::entries(to)? {
        if old.extension().is_some_and(|end| end == "deb") {
            fs::remove_file(&old)?;
        }
    }
    let mut command = sh::cargo([
        "deb",
        "--quiet",
        "--no-build",
        "--locked",
        "--package=shaper-user",
    ])?;
    command.args(["--deb-version", version, "--output"]).arg(to);
    sh::run(&mut command)?;
    crate::debian::entries(to)?
        .into_iter()
        .find(|file| file.extension().is_some_and(|end| end == "deb"))
        .with_context(|| format!("cargo-deb has written no package into {}", to.display()))
}

/// Files of the tarball, to be unpacked below /usr/local: where they come from,
/// in the workspace or among the generated, and where they go.
const TARBALL: [(&str, &str); 10] = [
    ("packaging/shaper.service", "lib/systemd/system/"),
    ("packaging/policy.toml", "share/doc/shaper/examples/"),
    ("packaging/agent.conf", "share/doc/shaper/examples/"),
    ("packaging/metrics.conf", "share/doc/shaper/examples/"),
    ("packaging/alerts.yml", "share/doc/shaper/examples/"),
    (
        "packaging/grafana-dashboard.json",
        "share/doc/shaper/examples/",
    ),
    ("CHANGELOG.md", "share/doc/shaper/"),
    ("README.md", "share/doc/shaper/"),
    ("LICENSE-MIT", "share/doc/shaper/"),
    ("LICENSE-APACHE", "share/doc/shaper/"),
];
const GENERATED: [(&str, &str); 3] = [
    ("shaper.bash", "share/bash-completion/completions/shaper"),
    ("_shaper", "share/zsh/site-functions/_shaper"),
    ("shaper.fish", "share/fish/vendor_completions.d/shaper.fish"),
];

fn tarball(generated: &Path, to: &Path) -> Result<PathBuf> {
    let name = format!("shaper-{VERSION}-{}-linux", std::env::consts::ARCH);
    let stage = sh::target_dir()?.join("release/tarball");
    if stage.exists() {
        fs::remove_dir_all(&stage)?;
    }
    let root = stage.join(&name);
    // To a place that ends with a slash under its own name.
    let copy = |from: &Path, place: &str| -> Result<()> {
        let mut to = root.join(place);
        if place.ends_with('/') {
            to.push(from.file_name().unwrap_or_default());
        }
        fs::create_dir_all(to.parent().unwrap_or(&root))?;
        fs::copy(from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
        Ok(())
    };
    let workspace = sh::workspace()?;
    copy(&sh::release_bin("shaper")?, "bin/")?;
    for (from, to) in TARBALL {
        copy(&workspace.join(from), to)?;
    }
    for (from, to) in GENERATED {
        copy(&generated.join("completions").join(from), to)?;
    }
    for page in crate::debian::entries(&generated.join("man"))? {
        copy(&page, "share/man/man8/")?;
    }
    for document in crate::debian::entries(&workspace.join("docs"))? {
        copy(&document, "share/doc/shaper/docs/")?;
    }
    let file = to.join(format!("{name}.tar.gz"));
    sh::run(
        Command::new("tar")
            .args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner"])
            .arg("-C")
            .arg(&stage)
            .arg("-czf")
            .arg(&file)
            .arg(&name),
    )?;
    Ok(file)
}

fn test(args: &Args, package: &Path, newer: &Path) -> Result<()> {
    if let Err(error) = setup::debian_root() {
        // The test says so too, and counts as skipped.
        println!("dist: {error:#}");
    }
    let readme = match &args.readme {
        Some(file) => file.clone(),
        None => sh::workspace()?.join("README.md"),
    };
    sh::run(
        Command::new(sh::release_bin("shaper-package")?)
            .arg("--package")
            .arg(package)
            .arg("--newer")
            .arg(newer)
            .arg("--readme")
            .arg(readme)
            .arg("--cache")
            .arg(sh::target_dir()?.join("debian-root")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_units_program_is_where_the_package_puts_it() {
        let unit = fs::read_to_string(sh::workspace().unwrap().join("packaging/shaper.service"));
        let packaged = packaged(&unit.unwrap()).unwrap();
        assert!(packaged.contains("ExecStart=/usr/bin/shaper run"));
        assert!(!packaged.contains("/usr/local"));
        assert!(super::packaged("[Service]").is_err());
    }
}
