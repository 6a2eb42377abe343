//! The Debian package, in a clean Debian under systemd.
//!
//! | module | what it is |
//! | --- | --- |
//! | `debian` | the clean Debian, made by debootstrap and kept |
//! | `container` | namespaces with a copy of it, systemd as process 1 |
//! | `readme` | the commands that the README tells people to type |
//! | `life` | installing, using, upgrading, removing and purging |

mod container;
mod debian;
mod life;
mod readme;

use anyhow::{Result, ensure};
use container::Boot;
use std::fmt;
use std::path::PathBuf;
use std::time::Instant;

/// What is tested with what.
#[derive(Clone, Debug)]
pub struct Options {
    /// The package.
    pub package: PathBuf,
    /// The same, of a newer version.
    pub newer: PathBuf,
    /// Whose commands install it.
    pub readme: PathBuf,
    /// Where the clean Debian is kept.
    pub cache: PathBuf,
}

/// How many tests ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// As they should.
    pub passed: u32,
    /// Otherwise.
    pub failed: u32,
    /// Not at all.
    pub skipped: u32,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            passed,
            failed,
            skipped,
        } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

type Test = (&'static str, Boot, fn(&life::Scene, &Options) -> Result<()>);

const TESTS: [Test; 3] = [
    (
        "from_a_clean_debian_to_a_first_limit_by_the_readme",
        Boot::Systemd,
        life::first_limit,
    ),
    (
        "an_upgrade_loses_no_limit_and_a_purge_leaves_nothing",
        Boot::Systemd,
        life::whole_life,
    ),
    (
        "without_systemd_nothing_is_started",
        Boot::Nothing,
        life::without_systemd,
    ),
];

/// Runs the tests, each in a Debian of its own.
///
/// # Errors
/// When the package is not there. What fails is counted.
pub fn run(options: &Options) -> Result<Counts> {
    for file in [&options.package, &options.newer, &options.readme] {
        ensure!(file.is_file(), "{} is not there", file.display());
    }
    let started = Instant::now();
    let base = match debian::base(&options.cache) {
        Ok(base) => base,
        Err(error) => {
            println!("SKIPPED: no clean Debian can be made here: {error:#}");
            return Ok(Counts {
                skipped: TESTS.len() as u32,
                ..Counts::default()
            });
        }
    };
    println!(
        "clean Debian in {} after {:.1} s",
        base.display(),
        started.elapsed().as_secs_f32()
    );
    let mut counts = Counts::default();
    for (name, boot, test) in TESTS {
        println!("\ntest {name}");
        let started = Instant::now();
        let result = life::Scene::new(&base, boot).and_then(|scene| {
            test(&scene, options).map_err(|error| error.context(scene.journal()))
        });
        let time = started.elapsed().as_secs_f32();
        match result {
            Ok(()) => {
                counts.passed += 1;
                println!("ok {name}, {time:.1} s");
            }
            Err(error) => {
                counts.failed += 1;
                println!("FAILED {name}, {time:.1} s: {error:?}");
            }
        }
    }
    Ok(counts)
}
