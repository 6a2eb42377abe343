//! A task for each socket that the policy names, or that is in a usual place.

use super::view::Known;
use super::{View, discover, socket};
use crate::policy::Haproxy;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// Starts to ask HAProxy as `policy` says, now and after each change of it,
/// until its sender is gone. What comes of it is in the other end.
#[must_use]
pub fn start(policy: watch::Receiver<Haproxy>) -> watch::Receiver<Arc<View>> {
    start_in(policy, discover::usual())
}

fn start_in(policy: watch::Receiver<Haproxy>, places: Vec<PathBuf>) -> watch::Receiver<Arc<View>> {
    let (views, receiver) = watch::channel(Arc::default());
    tokio::spawn(run(policy, places, views));
    receiver
}

/// A socket, and the task that asks it.
struct Watched {
    known: Known,
    task: JoinHandle<()>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(
    mut policy: watch::Receiver<Haproxy>,
    places: Vec<PathBuf>,
    views: watch::Sender<Arc<View>>,
) {
    let (reports, mut inbox) = mpsc::channel(16);
    let poll = watch::Sender::new(Duration::ZERO);
    let mut watched: BTreeMap<Arc<Path>, Watched> = BTreeMap::new();
    loop {
        let Haproxy {
            sockets, poll: new, ..
        } = policy.borrow_and_update().clone();
        poll.send_if_modified(|poll| std::mem::replace(poll, new) != new);
        let named = sockets.is_some();
        let wanted: BTreeSet<Arc<Path>> = sockets
            .unwrap_or_else(|| discover::sockets(&places))
            .into_iter()
            .map(Arc::from)
            .collect();
        let mut changed = false;
        watched.retain(|path, _| {
            let stays = wanted.contains(path);
            changed |= !stays;
            stays
        });
        for path in wanted {
            watched.entry(path).or_insert_with_key(|path| {
                changed = true;
                let task = socket::watch(Arc::clone(path), poll.subscribe(), reports.clone());
                Watched {
                    known: socket::unasked(path, new),
                    task: tokio::spawn(task),
                }
            });
        }
        if changed {
            publish(&watched, &views).await;
        }
        tokio::select! {
            changed = policy.changed() => if changed.is_err() {
                return;
            },
            // Never none: `reports` is held here.
            Some((path, known)) = inbox.recv() => {
                // One that was taken away may have been about to say something.
                if let Some(socket) = watched.get_mut(&path) {
                    log(&socket.known, &known);
                    socket.known = known;
                    publish(&watched, &views).await;
                }
            }
            () = sleep(new), if !named => {}
        }
    }
}

/// Joins what all sockets know: aside, as it may be much.
async fn publish(watched: &BTreeMap<Arc<Path>, Watched>, views: &watch::Sender<Arc<View>>) {
    let known: Vec<_> = watched
        .values()
        .map(|watched| watched.known.clone())
        .collect();
    let now = Instant::now().into_std();
    if let Ok(view) = tokio::task::spawn_blocking(move || View::of(&known, now)).await {
        views.send_replace(Arc::new(view));
    }
}

/// Logs what a socket is, and when a trouble begins, changes and ends.
fn log(before: &Known, now: &Known) {
    let (was, is) = (&before.socket, &now.socket);
    if (&was.kind, &was.version, &was.level) != (&is.kind, &is.version, &is.level)
        && let (Some(kind), Some(version)) = (&is.kind, &is.version)
    {
        let level = is.level.as_deref().unwrap_or("unknown");
        tracing::info!(
            "HAProxy {version} answers on {}: {kind} socket, level {level}, {} sessions",
            is.path,
            is.sessions
        );
    }
    match (&was.error, &is.error) {
        (before, Some(error)) if before.as_ref() != Some(error) => {
            tracing::warn!("{error}");
        }
        (Some(error), None) => tracing::info!("over: {error}"),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
