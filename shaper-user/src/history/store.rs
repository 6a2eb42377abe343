//! The file: minutes by their number, bounded by age and by size.
//!
//! The store doubles its file when it needs room, and writes a page anew before the
//! old one is free. So what is kept in it may be a third of what the file may have;
//! the file then stays within that.

use super::Settings;
use super::record::{FlowRow, Head, Minute, Rate, pack, unpack};
use crate::private;
use crate::redb_file::{self, StoreError, guarded};
use redb::{Database, ReadableDatabase as _, ReadableTable, TableDefinition};
use serde::de::DeserializeOwned;
use std::ops::Range;
use std::path::{Path, PathBuf};

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

impl Store {
    /// Opens the store, or makes it.
    ///
    /// # Errors
    /// When it is damaged or the file cannot be had.
    pub fn open(settings: &Settings) -> Result<Self, StoreError> {
        if settings.make_directory {
            private::directory_of(&settings.path)?;
        }
        // Where that cannot be asked, opening it says why.
        let large = (settings.path.metadata()).is_ok_and(|file| file.len() > settings.max_size);
        guarded(|| {
            // It says who was here: nobody else reads it.
            let db = redb_file::open(&settings.path, CACHE)?;
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
                        return Err(StoreError::damaged(format!("it is of version {other}")));
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
    pub fn write(&mut self, minutes: &[Minute], now: u64) -> Result<(), StoreError> {
        guarded(|| self.try_write(minutes, now))
    }

    fn try_write(&self, minutes: &[Minute], now: u64) -> Result<(), StoreError> {
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
    pub fn oldest(&self) -> Result<Option<u64>, StoreError> {
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
    pub fn heads(
        &self,
        minutes: Range<u64>,
        each: impl FnMut(u64, Head),
    ) -> Result<(), StoreError> {
        self.read(HEADS, minutes, each)
    }

    /// Each client's and server's part of each minute.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn rates(
        &self,
        minutes: Range<u64>,
        each: impl FnMut(u64, Rate),
    ) -> Result<(), StoreError> {
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
    ) -> Result<(), StoreError> {
        self.read(FLOWS, minutes, each)
    }

    fn read<T: DeserializeOwned>(
        &self,
        table: Parts,
        minutes: Range<u64>,
        mut each: impl FnMut(u64, T),
    ) -> Result<(), StoreError> {
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
fn put(table: &mut Table<'_>, minute: u64, parts: Vec<Vec<u8>>) -> Result<u64, StoreError> {
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
fn remove(table: &mut Table<'_>, minutes: Range<u64>) -> Result<u64, StoreError> {
    let mut cost = 0;
    table.retain_in((minutes.start, 0)..(minutes.end, 0), |_, part| {
        cost += part.len() as u64 + PART_COST;
        false
    })?;
    Ok(cost)
}

fn first(tables: &[Table<'_>]) -> Result<Option<u64>, StoreError> {
    let mut first: Option<u64> = None;
    for table in tables {
        let here = table.first()?.map(|(key, _)| key.value().0);
        first = first.into_iter().chain(here).min();
    }
    Ok(first)
}
