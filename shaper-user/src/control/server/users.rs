//! What one user may take of the control socket: whoever may read must not keep
//! others from acting.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, MutexGuard, OwnedSemaphorePermit, Semaphore};

/// The pause after an answer is as long as the answer took, and at most this.
const PAUSE: Duration = Duration::from_secs(1);

/// Those who are connected.
#[derive(Default)]
pub(crate) struct Users(HashMap<u32, Arc<User>>);

/// One of them. Root's requests don't wait for each other.
pub(crate) struct User {
    places: Arc<Semaphore>,
    followers: Arc<Semaphore>,
    turn: Option<Mutex<()>>,
}

impl Users {
    /// A place for one more connection of a user, of which `followers` may follow
    /// events; `None`: it has `most` already.
    pub fn place(
        &mut self,
        uid: u32,
        most: usize,
        followers: usize,
    ) -> Option<(Arc<User>, OwnedSemaphorePermit)> {
        // Of the others only the map knows.
        self.0.retain(|_, user| Arc::strong_count(user) > 1);
        let root = uid == 0;
        let user = self.0.entry(uid).or_insert_with(|| {
            let all = |most| {
                let most = if root { Semaphore::MAX_PERMITS } else { most };
                Arc::new(Semaphore::new(most))
            };
            Arc::new(User {
                places: all(most),
                followers: all(followers),
                turn: (!root).then(Mutex::default),
            })
        });
        let place = Arc::clone(&user.places).try_acquire_owned().ok()?;
        Some((Arc::clone(user), place))
    }
}

impl User {
    /// Waits until no other request of this user is answered: there is one of each
    /// user in front of anybody's, and one answer of each in memory.
    pub async fn turn(&self) -> Option<MutexGuard<'_, ()>> {
        match &self.turn {
            Some(turn) => Some(turn.lock().await),
            None => None,
        }
    }

    /// A place to follow events from; `None`: it has as many as it may.
    pub fn follower(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.followers).try_acquire_owned().ok()
    }

    /// Leaves half of the time to others.
    pub async fn pause(&self, took: Duration) {
        if self.turn.is_some() {
            tokio::time::sleep(took.min(PAUSE)).await;
        }
    }
}
