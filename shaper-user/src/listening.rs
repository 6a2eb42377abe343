//! A TCP listener that is where the policy has it: it follows changes, tries an
//! address again that it could not have, and takes so many connections at once.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::sleep;

/// Between two attempts to listen.
const AGAIN: Duration = Duration::from_secs(10);
/// After a connection that could not be taken.
const PAUSE: Duration = Duration::from_millis(100);

/// Why something does not listen although it should. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Trouble(Arc<Mutex<Option<String>>>);

impl Trouble {
    /// It, for people.
    #[must_use]
    pub fn told(&self) -> Option<String> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there was any.
    fn over(&self) -> bool {
        self.lock().take().is_some()
    }

    fn is(&self, trouble: String) {
        let mut before = self.lock();
        if before.as_ref() != Some(&trouble) {
            tracing::warn!("{trouble}");
        }
        *before = Some(trouble);
    }
}

/// What listens, in words, and what it does.
pub trait Listens {
    /// For the log: it listens there now.
    fn at(&self, address: SocketAddr) -> String;
    /// For the log: it could not listen there, and can.
    fn over(&self, address: SocketAddr) -> String;
    /// For people: it cannot listen there, and what to do.
    fn failed(&self, address: SocketAddr, error: &io::Error) -> String;
    /// Answers for ever.
    fn serve(&self, listener: TcpListener) -> impl Future<Output = ()> + Send;
}

/// Listens where `listen` says, until its other end is gone.
pub async fn follow<T>(
    mut listen: watch::Receiver<T>,
    address: impl Fn(&T) -> Option<SocketAddr>,
    trouble: &Trouble,
    what: &impl Listens,
) {
    loop {
        let wanted = address(&listen.borrow_and_update());
        let changed = match wanted {
            None => {
                trouble.over();
                listen.changed().await
            }
            Some(at) => match TcpListener::bind(at).await {
                Ok(listener) => {
                    if trouble.over() {
                        tracing::info!("{}", what.over(at));
                    }
                    tracing::info!("{}", what.at(at));
                    let moved = listen.wait_for(|value| address(value) != Some(at));
                    tokio::select! {
                        moved = moved => moved.map(drop),
                        () = what.serve(listener) => Ok(()),
                    }
                }
                Err(error) => {
                    trouble.is(what.failed(at, &error));
                    tokio::select! {
                        changed = listen.changed() => changed,
                        () = sleep(AGAIN) => Ok(()),
                    }
                }
            },
        };
        if changed.is_err() {
            return;
        }
        if address(&listen.borrow()) != wanted {
            trouble.over();
        }
    }
}

/// Hands out connections, at most so many at once; one more is closed, and
/// `refused` told. `name` is what the log calls it.
pub async fn take<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    most: usize,
    name: &str,
    refused: impl Fn(),
    answer: impl Fn(TcpStream) -> F,
) {
    let slots = Arc::new(Semaphore::new(most));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            // Out of file descriptors, or the peer is gone already.
            Err(error) => {
                tracing::debug!("{name}: {error}");
                sleep(PAUSE).await;
                continue;
            }
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            refused();
            continue;
        };
        let answered = answer(stream);
        tokio::spawn(async move {
            let _slot = slot;
            answered.await;
        });
    }
}
