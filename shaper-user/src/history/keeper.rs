//! The thread that owns the store. Whoever reads the kernel hands minutes over and
//! does not wait; whoever asks waits for the answer alone.

use super::Settings;
use super::collect::Collector;
use super::query;
use super::record::Minute;
use super::store::{Store, aside};
use crate::model;
use crate::policy::History;
use crate::protocol::{ErrorBody, ErrorCode, HistoryQuery};
use crate::redb_file::StoreError;
use crate::sampler::Sampler;
use jiff::Timestamp;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// Minutes and questions on their way.
const QUEUE: usize = 32;
/// Minutes that wait for a disk that does not take them; then the oldest go.
const WAITING: usize = 10;
/// How long the end of the daemon waits for its last minute.
const PATIENCE: Duration = Duration::from_secs(5);

enum Work {
    /// Where to keep it; or why not.
    Settings(Result<Settings, String>),
    Minute(Box<Minute>),
    Query(
        HistoryQuery,
        oneshot::Sender<Result<model::History, ErrorBody>>,
    ),
    /// Answered when all before it is done.
    Flush(SyncSender<()>),
}

/// What is wrong, for `status`.
type Warnings = Arc<Mutex<Vec<String>>>;

/// The side of the thread that reads the kernel.
#[derive(Default)]
pub struct Recorder {
    to: Option<SyncSender<Work>>,
    policy: Option<History>,
    flow_min: u64,
    /// There is somewhere to keep it.
    keeps: bool,
    collector: Collector,
}

/// The side of whoever asks.
#[derive(Clone)]
pub struct Keeper {
    to: SyncSender<Work>,
    warnings: Warnings,
}

/// Starts the thread. It ends with the last of both.
///
/// # Errors
/// When there can be no more threads.
pub fn start() -> std::io::Result<(Recorder, Keeper)> {
    let (to, work) = sync_channel(QUEUE);
    let warnings = Warnings::default();
    let thread = Thread {
        settings: Err("the daemon has just started".to_owned()),
        store: None,
        waiting: VecDeque::new(),
        warnings: Arc::clone(&warnings),
        failing: None,
    };
    std::thread::Builder::new()
        .name("history".to_owned())
        .spawn(move || thread.run(&work))?;
    let recorder = Recorder {
        to: Some(to.clone()),
        ..Recorder::default()
    };
    Ok((recorder, Keeper { to, warnings }))
}

impl Recorder {
    /// Takes in the last sample; what the policy says may be another than before.
    pub fn observe(&mut self, policy: &History, state: &Path, sampler: &Sampler, now: Timestamp) {
        let Some(to) = &self.to else { return };
        if self.policy.as_ref() != Some(policy) {
            let settings = Settings::of(policy, state);
            let keeps = settings.is_ok();
            let why = settings.as_ref().err().cloned();
            self.flow_min = policy.flow_min;
            // A queue that is full now takes it with the next sample.
            if to.try_send(Work::Settings(settings)).is_ok() {
                self.policy = Some(policy.clone());
                self.keeps = keeps;
                if let Some(why) = why {
                    tracing::info!("no history is kept: {why}");
                    self.collector = Collector::default();
                }
            }
        }
        if !self.keeps {
            return;
        }
        let minute = self
            .collector
            .observe(sampler, now.as_second(), self.flow_min);
        if let Some(minute) = minute
            && to.try_send(Work::Minute(Box::new(minute))).is_err()
        {
            tracing::warn!("a minute of the history is lost: its disk is too slow");
        }
    }

    /// Hands over what there is of the open minute, and waits until it is written.
    pub fn finish(&mut self, sampler: &Sampler) {
        let Some(to) = self.to.take() else { return };
        if let Some(minute) = self.collector.finish(sampler, self.flow_min) {
            let _ = to.try_send(Work::Minute(Box::new(minute)));
        }
        let (done, written) = sync_channel(1);
        if to.try_send(Work::Flush(done)).is_ok() {
            let _ = written.recv_timeout(PATIENCE);
        }
    }
}

impl Keeper {
    /// The answer to `history`.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn query(&self, query: HistoryQuery) -> Result<model::History, ErrorBody> {
        let (reply, answer) = oneshot::channel();
        let failed = |why: &str| ErrorBody::new(ErrorCode::Failed, why);
        self.to
            .try_send(Work::Query(query, reply))
            .map_err(|_| failed("the history has too many questions to answer; try again"))?;
        answer
            .await
            .unwrap_or_else(|_| Err(failed("the daemon is stopping")))
    }

    /// What is wrong with the store, for people.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        self.warnings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

struct Thread {
    settings: Result<Settings, String>,
    store: Option<Store>,
    waiting: VecDeque<Minute>,
    warnings: Warnings,
    failing: Option<String>,
}

impl Thread {
    fn run(mut self, work: &Receiver<Work>) {
        while let Ok(work) = work.recv() {
            match work {
                Work::Settings(settings) => {
                    self.close();
                    self.waiting.clear();
                    self.settings = settings;
                    self.write();
                }
                Work::Minute(minute) => {
                    if self.settings.is_err() {
                        continue;
                    }
                    if self.waiting.len() == WAITING {
                        self.waiting.pop_front();
                    }
                    self.waiting.push_back(*minute);
                    self.write();
                }
                Work::Query(query, reply) => {
                    let _ = reply.send(self.answer(&query));
                }
                Work::Flush(done) => {
                    let _ = done.send(());
                }
            }
        }
    }

    /// Writes what waits.
    fn write(&mut self) {
        let Ok(settings) = self.settings.clone() else {
            return self.report(None);
        };
        let result = match self.try_write(&settings) {
            Err(StoreError::Damaged(why)) => {
                self.close();
                self.set_aside(&settings, &why);
                self.try_write(&settings)
            }
            result => result,
        };
        let trouble = result.err().map(|trouble| {
            // After an error the store answers nothing but errors.
            self.close();
            let path = settings.path.display();
            format!("the history cannot be written to {path}: {trouble}")
        });
        self.report(trouble);
    }

    fn try_write(&mut self, settings: &Settings) -> Result<(), StoreError> {
        let store = match &mut self.store {
            Some(store) => store,
            none => none.insert(Store::open(settings)?),
        };
        let waiting = self.waiting.make_contiguous();
        if let Some(last) = waiting.last() {
            store.write(waiting, last.minute)?;
            self.waiting.clear();
        }
        Ok(())
    }

    /// Lets go of the store. A broken one may not even end well.
    fn close(&mut self) {
        let store = self.store.take();
        let _ = catch_unwind(AssertUnwindSafe(|| drop(store)));
    }

    fn set_aside(&self, settings: &Settings, why: &str) {
        let (path, aside) = (&settings.path, aside(&settings.path));
        match std::fs::rename(path, &aside) {
            Ok(()) => tracing::warn!(
                "the history in {} is damaged ({why}): it is now {}, and a new one begins",
                path.display(),
                aside.display()
            ),
            Err(error) => tracing::warn!(
                "the history in {} is damaged ({why}), and cannot be set aside: {error}",
                path.display()
            ),
        }
    }

    /// Tells when a trouble begins, changes and ends.
    fn report(&mut self, failing: Option<String>) {
        if failing != self.failing {
            match (&failing, &self.failing) {
                (Some(trouble), _) => tracing::warn!("{trouble}"),
                (None, Some(before)) => tracing::info!("over: {before}"),
                (None, None) => {}
            }
        }
        let mut warnings: Vec<_> = failing.clone().into_iter().collect();
        self.failing = failing;
        if let Ok(settings) = &self.settings {
            let aside = aside(&settings.path);
            if aside.exists() {
                let aside = aside.display();
                warnings.push(format!(
                    "an earlier history was damaged and is {aside}; remove it to end this warning"
                ));
            }
        }
        *self.warnings.lock().unwrap_or_else(PoisonError::into_inner) = warnings;
    }

    fn answer(&mut self, query: &HistoryQuery) -> Result<model::History, ErrorBody> {
        let failed = |why: String| ErrorBody::new(ErrorCode::Failed, why);
        let settings = match &self.settings {
            Ok(settings) => settings.clone(),
            Err(why) => return Err(failed(format!("no history is kept: {why}"))),
        };
        if self.store.is_none() {
            self.write();
        }
        let Some(store) = &self.store else {
            let why = self.failing.clone().unwrap_or_default();
            return Err(failed(why));
        };
        match query::answer(store, &settings, query, Timestamp::now()) {
            Ok(answer) => Ok(answer),
            Err(query::Refused::Query(why)) => Err(ErrorBody::bad(why)),
            Err(query::Refused::Store(trouble)) => {
                self.close();
                if let StoreError::Damaged(why) = &trouble {
                    self.set_aside(&settings, why);
                    self.write();
                }
                let path = settings.path.display();
                Err(failed(format!("the history in {path}: {trouble}")))
            }
        }
    }
}
