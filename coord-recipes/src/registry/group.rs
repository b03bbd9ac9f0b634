//! The registrations of one service: one task for all of them, and what they share.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;
use coord_api::Result;
use coord_core::{Client, homeless};
use futures_util::FutureExt;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::follower::{Follower, Interest};
use super::keeper::{Keeper, Mailbox};

/// How to reach the group of a service. The group ends when it has nothing to keep any more.
#[derive(Clone)]
pub(super) struct Group {
    client: Client,
    interest: Interest,
    joining: Arc<Joining>,
}

/// Keepers on their way into the group's task.
#[derive(Default)]
struct Joining {
    /// Bounded by the registrations under way. `None` once the task takes no more: no keeper is
    /// left behind unseen.
    keepers: Mutex<Option<Vec<Keeper>>>,
    joined: Notify,
}

impl Group {
    /// Starts a group for the instances in `directory`, with a keeper of one of them.
    ///
    /// # Errors
    ///
    /// No place for its task is to be had.
    pub(super) fn start(
        client: &Client,
        directory: Bytes,
        key: Bytes,
        name: String,
    ) -> Result<(Self, Mailbox)> {
        let (follower, interest) = Follower::new(client.clone(), directory);
        let (keeper, mailbox) = Keeper::new(client.clone(), key, name, interest.clone());
        let joining = Arc::new(Joining { keepers: Mutex::new(Some(vec![keeper])), joined: Notify::new() });
        let task = run(Entrance(Arc::clone(&joining)), follower);
        client.home().spawn(task).map_err(|error| homeless("registry.register", error))?;
        Ok((Group { client: client.clone(), interest, joining }, mailbox))
    }

    /// Starts a keeper of a key; `None` where the group takes no more.
    pub(super) fn keep(&self, key: Bytes, name: String) -> Option<Mailbox> {
        let (keeper, mailbox) = Keeper::new(self.client.clone(), key, name, self.interest.clone());
        self.joining.keepers.lock().as_mut()?.push(keeper);
        self.joining.joined.notify_one();
        Some(mailbox)
    }

    /// Whether it takes keepers.
    pub(super) fn is_open(&self) -> bool {
        self.joining.keepers.lock().is_some()
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("open", &self.is_open()).finish_non_exhaustive()
    }
}

/// The task's end of [`Joining`]. Closed when the task ends, however it ends: those on their way in
/// are over then.
struct Entrance(Arc<Joining>);

impl Entrance {
    /// Who has come; `None` where nobody has, and nobody will.
    fn admit(&self, is_empty: bool) -> Option<Vec<Keeper>> {
        let mut keepers = self.0.keepers.lock();
        let came = keepers.as_mut().map(std::mem::take).unwrap_or_default();
        if came.is_empty() && is_empty {
            *keepers = None;
            return None;
        }
        Some(came)
    }
}

impl Drop for Entrance {
    fn drop(&mut self) {
        let left = self.0.keepers.lock().take();
        drop(left);
    }
}

/// The task of a group.
async fn run(entrance: Entrance, mut follower: Follower) {
    let mut keepers = FuturesUnordered::new();
    while let Some(came) = entrance.admit(keepers.is_empty()) {
        // A panic of the store, or of what lies between, ends the registration that met it, and no
        // other one.
        keepers.extend(came.into_iter().map(|keeper| AssertUnwindSafe(keeper.run()).catch_unwind()));
        tokio::select! {
            biased;
            () = entrance.0.joined.notified() => {}
            Some(_) = keepers.next() => {}
            () = follower.run() => {}
        }
    }
}
