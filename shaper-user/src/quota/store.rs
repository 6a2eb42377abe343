//! The file that usage is kept in.

use super::row::Row;
use super::stored::{Meta, Stored, VERSION};
use crate::private;
use crate::redb_file::{self, StoreError, guarded};
use ipnet::IpNet;
use jiff::Timestamp;
use redb::{Database, ReadableTable, TableDefinition};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Its name in the directory of the daemon's state.
pub const FILE: &str = "usage.redb";

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const ROWS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("rows");
/// The only key of [`META`].
const ABOUT: &str = "about";
/// Pages kept in memory, in bytes.
const CACHE: usize = 4 * 1024 * 1024;

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
    private::directory_of(path)?;
    guarded(|| {
        let database = redb_file::open(path, CACHE)?;
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
    let transaction = database.begin_write()?;
    let (mut meta, mut rows) = (None, Vec::new());
    // One at a time: a panic of the library with two open would be one in a
    // destructor, which aborts.
    {
        let table = transaction.open_table(META)?;
        if let Some(about) = table.get(ABOUT)? {
            let about: Meta = serde_json::from_slice(about.value())?;
            if about.version != VERSION {
                let found = about.version;
                return Err(StoreError::damaged(format!(
                    "version {found}, not {VERSION}"
                )));
            }
            meta = Some(about);
        }
    }
    {
        let table = transaction.open_table(ROWS)?;
        for row in table.iter()? {
            let (client, stored) = row?;
            let client: IpNet = client.value().parse()?;
            let stored: Stored = serde_json::from_slice(stored.value())?;
            let wrong = || StoreError::damaged(format!("the row of {client} cannot be right"));
            rows.push((client, stored.into_row().ok_or_else(wrong)?));
        }
    }
    transaction.commit()?;
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
        guarded(|| {
            let transaction = self.0.begin_write()?;
            {
                let mut table = transaction.open_table(META)?;
                let about = serde_json::to_vec(meta)?;
                table.insert(ABOUT, about.as_slice())?;
                let mut table = transaction.open_table(ROWS)?;
                for (client, row) in rows {
                    let client = client.to_string();
                    match row {
                        Some(row) => {
                            let row = serde_json::to_vec(row)?;
                            table.insert(client.as_str(), row.as_slice())?;
                        }
                        None => drop(table.remove(client.as_str())?),
                    }
                }
            }
            transaction.commit()?;
            Ok(())
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
