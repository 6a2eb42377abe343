//! The thread that writes the store: a slow disk holds nobody up.

use super::ledger::Changes;
use super::store::{self, Store};
use super::stored::Meta;
use crate::redb_file::StoreError;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long the last write may take when the daemon ends.
const LAST_WRITE: Duration = Duration::from_secs(3);

/// How it goes.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// When something was last written.
    pub written: Option<Timestamp>,
    /// Why the last write failed.
    pub error: Option<String>,
    /// What was set aside while writing.
    pub damaged: Option<String>,
    /// What was written before is not in the store: it is another.
    lost: bool,
}

/// The way to the thread.
pub struct Writer {
    batches: Option<SyncSender<(Meta, Changes)>>,
    progress: Arc<Mutex<Progress>>,
    ended: Receiver<()>,
}

impl Writer {
    /// Starts it; without a store it tries to open one with each batch.
    ///
    /// # Errors
    /// When there are too many threads.
    pub fn start(path: PathBuf, store: Option<Store>) -> std::io::Result<Self> {
        let (batches, inbox) = mpsc::sync_channel(1);
        let (end, ended) = mpsc::channel();
        let progress = Arc::<Mutex<Progress>>::default();
        let shared = Arc::clone(&progress);
        std::thread::Builder::new()
            .name("usage".to_owned())
            .spawn(move || {
                write(&path, store, &inbox, &shared);
                let _ = end.send(());
            })?;
        Ok(Self {
            batches: Some(batches),
            progress,
            ended,
        })
    }

    /// Hands a batch over; gives it back while the last is still being written.
    ///
    /// # Errors
    /// Returns what was not taken.
    pub fn hand_over(&self, meta: Meta, changes: Changes) -> Result<(), Changes> {
        let Some(batches) = &self.batches else {
            return Err(changes);
        };
        batches
            .try_send((meta, changes))
            .map_err(|error| match error {
                TrySendError::Full((_, changes)) | TrySendError::Disconnected((_, changes)) => {
                    changes
                }
            })
    }

    /// How it goes.
    #[must_use]
    pub fn progress(&self) -> Progress {
        lock(&self.progress).clone()
    }

    /// Whether all rows have to be written again; told once.
    #[must_use]
    pub fn has_lost(&self) -> bool {
        std::mem::take(&mut lock(&self.progress).lost)
    }
}

impl Drop for Writer {
    /// Waits for what was handed over, but not for a disk that hangs.
    fn drop(&mut self) {
        self.batches = None;
        let _ = self.ended.recv_timeout(LAST_WRITE);
    }
}

fn write(
    path: &Path,
    mut store: Option<Store>,
    inbox: &Receiver<(Meta, Changes)>,
    progress: &Mutex<Progress>,
) {
    // What has not been written yet, the newest of each row.
    let mut waiting = BTreeMap::new();
    while let Ok((meta, changes)) = inbox.recv() {
        waiting.extend(changes);
        let result =
            opened(&mut store, path, progress).and_then(|store| store.write(&meta, &waiting));
        let mut progress = lock(progress);
        match result {
            Ok(()) => {
                waiting.clear();
                progress.written = Some(Timestamp::now());
                progress.error = None;
            }
            Err(error) => {
                progress.error = Some(error.to_string());
                // It is opened again, which repairs it.
                store = None;
            }
        }
    }
}

/// The store, opened where it is not. What it had is older than what is known here.
fn opened<'s>(
    store: &'s mut Option<Store>,
    path: &Path,
    progress: &Mutex<Progress>,
) -> Result<&'s Store, StoreError> {
    match store {
        Some(store) => Ok(store),
        none => {
            let opened = store::open(path)?;
            if opened.damaged.is_some() {
                let mut progress = lock(progress);
                progress.damaged = opened.damaged;
                progress.lost = true;
            }
            Ok(none.insert(opened.store))
        }
    }
}

fn lock(progress: &Mutex<Progress>) -> MutexGuard<'_, Progress> {
    progress.lock().unwrap_or_else(PoisonError::into_inner)
}
