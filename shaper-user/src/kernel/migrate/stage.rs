//! How far a migration has come, written down in bpffs itself: a directory of
//! the tables to come beside the pins, and symbolic links, which are the one kind
//! of file there that holds text.

use crate::steps::{self, Step};
use anyhow::{Context, Result};
use shaper_common::names;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// The directory of the tables to come.
const NEXT: &str = "next";
/// In there: how far it is.
const STAGE: &str = "stage";
const SWITCHING: &str = "switching";
const SETTLING: &str = "settling";

/// How far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// None is under way.
    None,
    /// Tables are being made and filled, no program uses them.
    Copying,
    /// Programs may use the old tables or the new ones.
    Switching,
    /// Everything is in the new ones; they take the old ones' names.
    Settling,
}

/// Where the tables to come are.
pub(super) fn next(pins: &Path) -> PathBuf {
    pins.join(NEXT)
}

/// How far a migration of these pins is.
pub(super) fn stage(pins: &Path) -> Result<Stage> {
    let next = next(pins);
    if !fs::exists(&next)? {
        return Ok(Stage::None);
    }
    Ok(match text(&next.join(STAGE))?.as_deref() {
        Some(SWITCHING) => Stage::Switching,
        Some(SETTLING) => Stage::Settling,
        _ => Stage::Copying,
    })
}

/// Begins one.
pub(super) fn begin(pins: &Path) -> Result<PathBuf> {
    let next = next(pins);
    fs::create_dir(&next).with_context(|| format!("making {}", next.display()))?;
    write_version(&next)?;
    steps::done(Step::Next);
    Ok(next)
}

/// From now on a start goes on, and does not begin again.
pub(super) fn switching(pins: &Path) -> Result<()> {
    write(&next(pins), STAGE, SWITCHING)?;
    steps::done(Step::Switching);
    Ok(())
}

/// Nothing of the old tables is needed any more.
pub(super) fn settling(pins: &Path) -> Result<()> {
    write(&next(pins), STAGE, SETTLING)?;
    steps::done(Step::Settling);
    Ok(())
}

/// Gives the new tables the old ones' names; begun again wherever it ended.
pub(super) fn settle(pins: &Path) -> Result<()> {
    let next = next(pins);
    // Before the tables: a version that is too new is never taken for an old one.
    if let Some(version) = text(&next.join(names::ABI_PIN))? {
        write(pins, names::ABI_PIN, &version)?;
    }
    for name in names::PINNED_MAPS {
        match fs::rename(next.join(name), pins.join(name)) {
            Ok(()) => steps::done(Step::Renamed),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error).with_context(|| format!("renaming the pin of {name}"));
            }
        }
    }
    discard(pins)?;
    steps::done(Step::NextGone);
    Ok(())
}

/// Removes the tables to come. The stage goes last.
pub(in crate::kernel) fn discard(pins: &Path) -> Result<()> {
    let next = next(pins);
    let remove = || -> io::Result<()> {
        for entry in fs::read_dir(&next)? {
            let path = entry?.path();
            if path.file_name().is_none_or(|name| name != STAGE) {
                fs::remove_file(path)?;
            }
        }
        match fs::remove_file(next.join(STAGE)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::remove_dir(&next)
    };
    match remove() {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", next.display()))
        }
        _ => Ok(()),
    }
}

/// The version of the pins; `None`: there are none, or they have no version.
pub(super) fn version(pins: &Path) -> Result<Option<u32>> {
    let path = pins.join(names::ABI_PIN);
    let Some(text) = text(&path)? else {
        return Ok(None);
    };
    text.parse()
        .map(Some)
        .with_context(|| format!("{} says {text}, which is no version", path.display()))
}

/// Writes the version of this build.
pub(in crate::kernel) fn write_version(pins: &Path) -> Result<()> {
    write(pins, names::ABI_PIN, &names::ABI.to_string())
}

/// Writes a text, in one step.
fn write(directory: &Path, name: &str, text: &str) -> Result<()> {
    // bpffs takes no dots in names.
    let (path, new) = (directory.join(name), directory.join("new"));
    let write = || -> io::Result<()> {
        match fs::remove_file(&new) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        symlink(text, &new)?;
        fs::rename(&new, &path)
    };
    write().with_context(|| format!("writing {}", path.display()))
}

fn text(path: &Path) -> Result<Option<String>> {
    match fs::read_link(path) {
        Ok(target) => Ok(Some(target.display().to_string())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Symbolic links and renames are the same on any file system.
    #[test]
    fn a_version_is_read_as_written() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(version(dir.path()).unwrap(), None);
        write_version(dir.path()).unwrap();
        write_version(dir.path()).unwrap();
        assert_eq!(version(dir.path()).unwrap(), Some(names::ABI));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn settling_goes_on_wherever_it_ended() {
        let dir = tempfile::tempdir().unwrap();
        let pins = dir.path();
        fs::write(pins.join(names::FLOWS), "old").unwrap();
        fs::write(pins.join(names::CLIENTS), "old").unwrap();
        assert_eq!(stage(pins).unwrap(), Stage::None);
        let next = begin(pins).unwrap();
        fs::write(next.join(names::FLOWS), "new").unwrap();
        fs::write(next.join(names::CLIENTS), "new").unwrap();
        assert_eq!(stage(pins).unwrap(), Stage::Copying);
        switching(pins).unwrap();
        assert_eq!(stage(pins).unwrap(), Stage::Switching);
        settling(pins).unwrap();
        // As after a crash behind the first of them.
        fs::rename(next.join(names::FLOWS), pins.join(names::FLOWS)).unwrap();
        assert_eq!(stage(pins).unwrap(), Stage::Settling);
        settle(pins).unwrap();
        for name in [names::FLOWS, names::CLIENTS] {
            assert_eq!(fs::read_to_string(pins.join(name)).unwrap(), "new");
        }
        assert_eq!(stage(pins).unwrap(), Stage::None);
        assert_eq!(version(pins).unwrap(), Some(names::ABI));
    }

    #[test]
    fn what_was_not_used_yet_is_thrown_away() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(names::FLOWS), "old").unwrap();
        let next = begin(dir.path()).unwrap();
        fs::write(next.join(names::FLOWS), "new").unwrap();
        discard(dir.path()).unwrap();
        discard(dir.path()).unwrap();
        assert_eq!(stage(dir.path()).unwrap(), Stage::None);
        assert_eq!(
            fs::read_to_string(dir.path().join(names::FLOWS)).unwrap(),
            "old"
        );
    }
}
