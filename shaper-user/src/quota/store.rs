//! The file that usage is kept in.

use super::row::Row;
use super::stored::{Meta, Stored, VERSION};
use crate::private;
use ipnet::IpNet;
use jiff::Timestamp;
use redb::backends::FileBackend;
use redb::{Database, DatabaseError, ReadableTable, StorageError, TableDefinition};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Its name in the directory of the daemon's state.
pub const FILE: &str = "usage.redb";

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const ROWS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("rows");
/// The only key of [`META`].
const ABOUT: &str = "about";
/// Pages kept in memory, in bytes.
const CACHE: usize = 4 * 1024 * 1024;

/// Why a store cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// What is in it makes no sense.
    #[error("{0}")]
    Damaged(String),
    /// It cannot be reached or written just now.
    #[error("{0}")]
    Unavailable(String),
}

/// An open store, and what it had.
pub struct Opened {
    /// To write to.
    pub store: Store,
    /// About it; `None` where it is new.
    pub meta: Option<Meta>,
    /// Its rows.
    pub rows: Vec<(IpNet, Row)>,
    /// What was wrong with the one before, and where that is now.
    pub damaged: Option<String>,
}

/// An open store.
pub struct Store(Database);

/// Opens a store, made where there is none. A damaged one is set aside and said.
///
/// # Errors
/// When it cannot be reached.
pub fn open(path: &Path) -> Result<Opened, StoreError> {
    match try_open(path) {
        Err(StoreError::Damaged(why)) => {
            let aside = set_aside(path).map_err(|error| {
                StoreError::Unavailable(format!(
                    "damaged ({why}), and cannot be set aside: {error}"
                ))
            })?;
            let mut opened = try_open(path)?;
            opened.damaged = Some(format!(
                "{} was damaged ({why}): it is now {}, and usage before is not known",
                path.display(),
                aside.display()
            ));
            Ok(opened)
        }
        opened => opened,
    }
}

fn try_open(path: &Path) -> Result<Opened, StoreError> {
    let file = private::directory_of(path).and_then(|()| private::store(path));
    let file = file.map_err(unavailable)?;
    // The library trusts what passes its checksums, and panics where that is wrong.
    unpanicked(|| {
        let mut database = Database::builder()
            .set_cache_size(CACHE)
            .create_with_backend(FileBackend::new(file).map_err(of_database)?)
            .map_err(of_database)?;
        database.check_integrity().map_err(of_database)?;
        let (meta, rows) = read(&database)?;
        Ok(Opened {
            store: Store(database),
            meta,
            rows,
            damaged: None,
        })
    })
}

/// What the file has.
type Kept = (Option<Meta>, Vec<(IpNet, Row)>);

fn read(database: &Database) -> Result<Kept, StoreError> {
    // Made at the first write; here as well, so that both can be read.
    let transaction = database.begin_write().map_err(damaged)?;
    let (mut meta, mut rows) = (None, Vec::new());
    // One at a time: a panic of the library with two open would be one in a
    // destructor, which aborts.
    {
        let table = transaction.open_table(META).map_err(damaged)?;
        if let Some(about) = table.get(ABOUT).map_err(of_storage)? {
            let about: Meta = serde_json::from_slice(about.value()).map_err(damaged)?;
            if about.version != VERSION {
                let found = about.version;
                return Err(damaged(format!("version {found}, not {VERSION}")));
            }
            meta = Some(about);
        }
    }
    {
        let table = transaction.open_table(ROWS).map_err(damaged)?;
        for row in table.iter().map_err(of_storage)? {
            let (client, stored) = row.map_err(of_storage)?;
            let client: IpNet = client.value().parse().map_err(damaged)?;
            let stored: Stored = serde_json::from_slice(stored.value()).map_err(damaged)?;
            let wrong = || damaged(format!("the row of {client} cannot be right"));
            rows.push((client, stored.into_row().ok_or_else(wrong)?));
        }
    }
    transaction.commit().map_err(of_commit)?;
    Ok((meta, rows))
}

impl Store {
    /// Writes rows and removes those that are `None`, all of it or nothing.
    ///
    /// # Errors
    /// When the disk is full or fails. The store is not to be used again then.
    pub fn write(
        &self,
        meta: &Meta,
        rows: &BTreeMap<IpNet, Option<Stored>>,
    ) -> Result<(), StoreError> {
        unpanicked(|| {
            let transaction = self.0.begin_write().map_err(unavailable)?;
            {
                let mut table = transaction.open_table(META).map_err(unavailable)?;
                let about = serde_json::to_vec(meta).map_err(unavailable)?;
                table.insert(ABOUT, about.as_slice()).map_err(unavailable)?;
                let mut table = transaction.open_table(ROWS).map_err(unavailable)?;
                for (client, row) in rows {
                    let client = client.to_string();
                    match row {
                        Some(row) => {
                            let row = serde_json::to_vec(row).map_err(unavailable)?;
                            table
                                .insert(client.as_str(), row.as_slice())
                                .map_err(unavailable)?;
                        }
                        None => drop(table.remove(client.as_str()).map_err(unavailable)?),
                    }
                }
            }
            transaction.commit().map_err(unavailable)
        })
    }
}

/// Renames a store that nobody can read; returns its new name.
fn set_aside(path: &Path) -> std::io::Result<PathBuf> {
    let now = Timestamp::now().as_second();
    let mut number = 0;
    loop {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".damaged-{now}"));
        if number > 0 {
            name.push(format!("-{number}"));
        }
        let aside = PathBuf::from(name);
        if !aside.exists() {
            std::fs::rename(path, &aside)?;
            return Ok(aside);
        }
        number += 1;
    }
}

fn unpanicked<T>(work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(damaged("the library cannot make sense of it")))
}

fn damaged(why: impl ToString) -> StoreError {
    StoreError::Damaged(why.to_string())
}

fn unavailable(why: impl ToString) -> StoreError {
    StoreError::Unavailable(why.to_string())
}

fn of_commit(error: redb::CommitError) -> StoreError {
    match error {
        redb::CommitError::Storage(error) => of_storage(error),
        error => damaged(error),
    }
}

fn of_database(error: DatabaseError) -> StoreError {
    match error {
        DatabaseError::DatabaseAlreadyOpen => unavailable("another process has it open"),
        DatabaseError::Storage(error) => of_storage(error),
        error => damaged(error),
    }
}

fn of_storage(error: StorageError) -> StoreError {
    match error {
        StorageError::Io(error)
            if !matches!(
                error.kind(),
                ErrorKind::InvalidData | ErrorKind::UnexpectedEof | ErrorKind::InvalidInput
            ) =>
        {
            unavailable(error)
        }
        StorageError::PreviousIo => unavailable("an earlier write failed"),
        error => damaged(error),
    }
}
