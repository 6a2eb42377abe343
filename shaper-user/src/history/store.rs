//! The file: minutes by their number, bounded by age and by size.
//!
//! The store doubles its file when it needs room, and writes a page anew before the
//! old one is free. So what is kept in it may be a third of what the file may have;
//! the file then stays within that.

use super::Settings;
use super::record::{FlowRow, Head, Minute, Rate, pack, unpack};
use crate::private;
use redb::backends::FileBackend;
use redb::{Builder, Database, ReadableDatabase as _, ReadableTable, TableDefinition};
use serde::de::DeserializeOwned;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Minute and part: a minute that the daemon came back in has several.
type Key = (u64, u32);
type Parts = TableDefinition<'static, Key, &'static [u8]>;
const HEADS: Parts = TableDefinition::new("heads");
const RATES: Parts = TableDefinition::new("rates");
const FLOWS: Parts = TableDefinition::new("flows");
const TABLES: [Parts; 3] = [HEADS, RATES, FLOWS];
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

/// The form of the rows.
const VERSION: u64 = 1;
/// What a part costs beside its bytes.
const PART_COST: u64 = 48;
/// Memory for pages.
const CACHE: usize = 8 << 20;

/// Why something could not be done.
#[derive(Debug, Error)]
pub enum Trouble {
    /// The file is none of ours, or broken.
    #[error("{0}")]
    Damaged(String),
    /// Anything else, such as a full disk: it may go again later.
    #[error("{0}")]
    Failed(String),
}

impl From<redb::Error> for Trouble {
    fn from(error: redb::Error) -> Self {
        match error {
            redb::Error::DatabaseAlreadyOpen => Self::Failed("another daemon uses it".to_owned()),
            redb::Error::Io(error) => error.into(),
            redb::Error::PreviousIo | redb::Error::LockPoisoned(_) => {
                Self::Failed(error.to_string())
            }
            error => Self::Damaged(error.to_string()),
        }
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::InvalidData | ErrorKind::UnexpectedEof => Self::Damaged(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}

impl From<postcard::Error> for Trouble {
    fn from(error: postcard::Error) -> Self {
        Self::Damaged(error.to_string())
    }
}

macro_rules! from_redb {
    ($($error:ident)+) => {$(
        impl From<redb::$error> for Trouble {
            fn from(error: redb::$error) -> Self {
                redb::Error::from(error).into()
            }
        }
    )+};
}
from_redb!(DatabaseError TransactionError TableError StorageError CommitError CompactionError);

/// The open store.
pub struct Store {
    db: Database,
    settings: Settings,
}

/// Where a damaged store is put.
#[must_use]
pub fn aside(path: &Path) -> PathBuf {
    path.with_extension("redb.damaged")
}

/// The store's code asserts what a broken file does not hold.
fn guarded<T>(work: impl FnOnce() -> Result<T, Trouble>) -> Result<T, Trouble> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(Trouble::Damaged(
            "what is in it contradicts itself".to_owned(),
        ))
    })
}

impl Store {
    /// Opens the store, or makes it.
    ///
    /// # Errors
    /// When it is damaged or the file cannot be had.
    pub fn open(settings: &Settings) -> Result<Self, Trouble> {
        if settings.make_directory {
            private::directory_of(&settings.path)?;
        }
        // It says who was here: nobody else reads it.
        let file = private::store(&settings.path)?;
        let large = file.metadata()?.len() > settings.max_size;
        guarded(|| {
            let file = FileBackend::new(file)?;
            let mut db = Builder::new()
                .set_cache_size(CACHE)
                .create_with_backend(file)?;
            // Reads all of it. Only what passes is written to: a panic of the library
            // with two tables open would be one in a destructor, which aborts.
            db.check_integrity()?;
            let write = db.begin_write()?;
            for table in TABLES {
                write.open_table(table)?;
            }
            {
                let mut meta = write.open_table(META)?;
                let version = meta.get("version")?.map(|version| version.value());
                match version {
                    None => drop(meta.insert("version", VERSION)?),
                    Some(VERSION) => {}
                    Some(other) => {
                        return Err(Trouble::Damaged(format!("it is of version {other}")));
                    }
                }
            }
            write.commit()?;
            let mut store = Self {
                db,
                settings: settings.clone(),
            };
            if large {
                store.write(&[], 0)?;
                store.db.compact()?;
            }
            Ok(store)
        })
    }

    /// Writes minutes in one transaction, and removes what is too old or too much;
    /// `now` is the minute that it is.
    ///
    /// # Errors
    /// When nothing was written.
    pub fn write(&mut self, minutes: &[Minute], now: u64) -> Result<(), Trouble> {
        guarded(|| self.try_write(minutes, now))
    }

    fn try_write(&self, minutes: &[Minute], now: u64) -> Result<(), Trouble> {
        let write = self.db.begin_write()?;
        {
            let mut meta = write.open_table(META)?;
            let mut heads = write.open_table(HEADS)?;
            let mut rates = write.open_table(RATES)?;
            let mut flows = write.open_table(FLOWS)?;
            let mut bytes = meta.get("bytes")?.map_or(0, |bytes| bytes.value());
            for minute in minutes {
                let at = minute.minute;
                bytes += put(&mut heads, at, pack(&[minute.head])?)?;
                bytes += put(&mut rates, at, pack(&minute.rates)?)?;
                bytes += put(&mut flows, at, pack(&minute.flows)?)?;
            }
            let oldest = now.saturating_sub(u64::from(self.settings.hours) * 60);
            let mut tables = [heads, rates, flows];
            for table in &mut tables {
                bytes = bytes.saturating_sub(remove(table, 0..oldest)?);
            }
            while bytes > self.room() {
                let Some(first) = first(&tables)? else {
                    break;
                };
                for table in &mut tables {
                    bytes = bytes.saturating_sub(remove(table, 0..first + 1)?);
                }
            }
            meta.insert("bytes", bytes)?;
        }
        write.commit()?;
        Ok(())
    }

    /// Bytes that may be kept.
    const fn room(&self) -> u64 {
        self.settings.max_size / 3
    }

    /// The first minute that is kept.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn oldest(&self) -> Result<Option<u64>, Trouble> {
        guarded(|| {
            let heads = self.db.begin_read()?.open_table(HEADS)?;
            let first = heads.first()?.map(|(key, _)| key.value().0);
            Ok(first)
        })
    }

    /// Each minute as a whole.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn heads(&self, minutes: Range<u64>, each: impl FnMut(u64, Head)) -> Result<(), Trouble> {
        self.read(HEADS, minutes, each)
    }

    /// Each client's and server's part of each minute.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn rates(&self, minutes: Range<u64>, each: impl FnMut(u64, Rate)) -> Result<(), Trouble> {
        self.read(RATES, minutes, each)
    }

    /// Each row of a flow.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn flows(
        &self,
        minutes: Range<u64>,
        each: impl FnMut(u64, FlowRow),
    ) -> Result<(), Trouble> {
        self.read(FLOWS, minutes, each)
    }

    fn read<T: DeserializeOwned>(
        &self,
        table: Parts,
        minutes: Range<u64>,
        mut each: impl FnMut(u64, T),
    ) -> Result<(), Trouble> {
        guarded(|| {
            let table = self.db.begin_read()?.open_table(table)?;
            for part in table.range((minutes.start, 0)..(minutes.end, 0))? {
                let (key, part) = part?;
                let minute = key.value().0;
                unpack(part.value(), |row| each(minute, row))?;
            }
            Ok(())
        })
    }
}

type Table<'t> = redb::Table<'t, Key, &'static [u8]>;

/// Adds parts behind those that a minute has; answers what they cost.
fn put(table: &mut Table<'_>, minute: u64, parts: Vec<Vec<u8>>) -> Result<u64, Trouble> {
    let last = table
        .range((minute, 0)..=(minute, u32::MAX))?
        .next_back()
        .transpose()?;
    let mut next = last.map_or(0, |(key, _)| key.value().1.saturating_add(1));
    let mut cost = 0;
    for part in parts {
        table.insert((minute, next), part.as_slice())?;
        next = next.saturating_add(1);
        cost += part.len() as u64 + PART_COST;
    }
    Ok(cost)
}

/// Removes minutes; answers what they cost.
fn remove(table: &mut Table<'_>, minutes: Range<u64>) -> Result<u64, Trouble> {
    let mut cost = 0;
    table.retain_in((minutes.start, 0)..(minutes.end, 0), |_, part| {
        cost += part.len() as u64 + PART_COST;
        false
    })?;
    Ok(cost)
}

fn first(tables: &[Table<'_>]) -> Result<Option<u64>, Trouble> {
    let mut first: Option<u64> = None;
    for table in tables {
        let here = table.first()?.map(|(key, _)| key.value().0);
        first = first.into_iter().chain(here).min();
    }
    Ok(first)
}
