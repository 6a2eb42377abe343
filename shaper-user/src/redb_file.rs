//! Files of redb, which usage and history are kept in: opened with care, and what may
//! be wrong with them.

use crate::private;
use redb::Database;
use redb::backends::FileBackend;
use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use thiserror::Error;

/// Why a store cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StoreError {
    /// The file is none of ours, or broken.
    #[error("{0}")]
    Damaged(String),
    /// Anything else, such as a full disk: it may go again later.
    #[error("{0}")]
    Unavailable(String),
}

impl StoreError {
    /// What is in the file makes no sense.
    pub fn damaged(why: impl ToString) -> Self {
        Self::Damaged(why.to_string())
    }
}

impl From<redb::Error> for StoreError {
    fn from(error: redb::Error) -> Self {
        match error {
            redb::Error::DatabaseAlreadyOpen => {
                Self::Unavailable("another process has it open".to_owned())
            }
            redb::Error::Io(error) => error.into(),
            redb::Error::PreviousIo | redb::Error::LockPoisoned(_) => {
                Self::Unavailable(error.to_string())
            }
            error => Self::damaged(error),
        }
    }
}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::InvalidData | ErrorKind::UnexpectedEof | ErrorKind::InvalidInput => {
                Self::damaged(error)
            }
            _ => Self::Unavailable(error.to_string()),
        }
    }
}

macro_rules! damaged_by {
    ($($error:ty)+) => {$(
        impl From<$error> for StoreError {
            fn from(error: $error) -> Self {
                Self::damaged(error)
            }
        }
    )+};
}
damaged_by!(postcard::Error serde_json::Error ipnet::AddrParseError);

macro_rules! from_redb {
    ($($error:ident)+) => {$(
        impl From<redb::$error> for StoreError {
            fn from(error: redb::$error) -> Self {
                redb::Error::from(error).into()
            }
        }
    )+};
}
from_redb!(DatabaseError TransactionError TableError StorageError CommitError CompactionError);

/// Does something with a file. The library trusts what passes its checksums, and
/// asserts what a broken file does not hold.
///
/// # Errors
/// What `work` says, or that the library panicked.
pub fn guarded<T>(work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(StoreError::damaged("what is in it contradicts itself")))
}

/// Opens a file, made where there is none, root's alone; `cache` is memory for its pages
/// in bytes. To be [`guarded`].
///
/// All of it is read and checked: only what passes is written to, because a panic of
/// the library with two tables open would be one in a destructor, which aborts.
///
/// # Errors
/// When it is damaged or cannot be had.
pub fn open(path: &Path, cache: usize) -> Result<Database, StoreError> {
    let file = FileBackend::new(private::store(path)?)?;
    let mut database = Database::builder()
        .set_cache_size(cache)
        .create_with_backend(file)?;
    database.check_integrity()?;
    Ok(database)
}
