//! What a connection holds, so that all others have theirs.

use super::Limits;
use super::users::User;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Places for all, and some more for root only.
#[derive(Clone, Debug)]
pub(super) struct Slots {
    all: Arc<Semaphore>,
    root: Arc<Semaphore>,
}

impl Slots {
    pub fn new(all: usize, root: usize) -> Self {
        Self {
            all: Arc::new(Semaphore::new(all)),
            root: Arc::new(Semaphore::new(root)),
        }
    }

    /// A place of a user, while there is one.
    pub fn take(&self, uid: u32) -> Option<OwnedSemaphorePermit> {
        let take = |of: &Arc<Semaphore>| Arc::clone(of).try_acquire_owned().ok();
        take(&self.all).or_else(|| (uid == 0).then(|| take(&self.root)).flatten())
    }
}

/// The places of one connection.
pub(crate) struct Places {
    user: Arc<User>,
    /// Among those that ask, until it follows.
    slot: Option<OwnedSemaphorePermit>,
    followers: Option<Slots>,
    /// Among those that follow, of all users and of its own.
    following: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
}

impl Places {
    pub(super) fn new(user: Arc<User>, slot: OwnedSemaphorePermit, followers: &Slots) -> Self {
        Self {
            user,
            slot: Some(slot),
            followers: Some(followers.clone()),
            following: None,
        }
    }

    /// Of a connection that nobody shares anything with.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) const fn of(user: Arc<User>) -> Self {
        Self {
            user,
            slot: None,
            followers: None,
            following: None,
        }
    }

    pub(super) const fn user(&self) -> &Arc<User> {
        &self.user
    }

    /// Changes over to those that follow, or says why not.
    pub(super) fn follow(&mut self, uid: u32, limits: &Limits) -> Result<(), String> {
        let Some(followers) = &self.followers else {
            return Ok(());
        };
        let own = self.user.follower().ok_or_else(|| {
            let most = limits.followers_per_user;
            format!("user {uid} follows the events {most} times already")
        })?;
        let place = followers.take(uid).ok_or_else(|| {
            let most = limits.followers;
            format!("{most} connections follow the events already")
        })?;
        self.following = Some((place, own));
        self.slot = None;
        Ok(())
    }
}
