//! Files that are root's alone.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::Path;

/// A file to read and write, made where it is missing, and what is in it kept.
///
/// # Errors
/// When it cannot be had, or is a symbolic link.
pub fn file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}

/// The file of a redb store. One that a full disk or a kill left half made is made
/// anew: redb writes its magic number last.
///
/// # Errors
/// As [`file`].
pub fn store(path: &Path) -> io::Result<File> {
    const MAGIC: usize = 9;
    let file = file(path)?;
    let mut magic = [0; MAGIC];
    let read = file.read_at(&mut magic, 0)?;
    if read > 0 && magic == [0; MAGIC] {
        file.set_len(0)?;
    }
    Ok(file)
}

/// The directory that a file is in, made where it is missing.
///
/// # Errors
/// When it cannot be made.
pub fn directory_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(directory) => DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory),
        None => Ok(()),
    }
}
