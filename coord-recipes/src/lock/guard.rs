//! A lock that is held.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use coord_api::handle::Leased;
use coord_api::{Error, LockHandle, LockMode, Outcome, Result};
use coord_core::session::LeasedEntry;
use coord_core::{Client, keys};

use crate::rewrite::{Rewritten, rewrite};

const DOWNGRADE: &str = "lock.downgrade";

/// A lock that is held: its entry, and in which way.
pub(super) struct HeldLock {
    client: Client,
    name: String,
    entry: LeasedEntry,
    /// Whether others may hold it as well: from the moment on at which a downgrade is sent.
    shared: AtomicBool,
}

impl HeldLock {
    pub(super) fn new(client: Client, name: &str, mode: LockMode, entry: LeasedEntry) -> Self {
        let shared = AtomicBool::new(mode == LockMode::Shared);
        HeldLock { client, name: name.to_owned(), entry, shared }
    }

    /// Marks the entry as shared, where it stands: another one would stand behind whoever has
    /// queued meanwhile, a writer of another program for example, and both would hold the lock
    /// (R46).
    async fn mark_shared(&self) -> Result<()> {
        let marked = keys::downgraded(&self.client.owner()).into();
        match rewrite(&self.client, &self.entry, &marked).await? {
            Rewritten::Done => Ok(()),
            Rewritten::Gone => Err(Error::lease_lost(DOWNGRADE, "the lock's entry was removed")),
        }
    }
}

// Its value says whether it is shared (R46).
crate::handle::leased_by_entry!(HeldLock, fence_unwritten);

#[async_trait]
impl LockHandle for HeldLock {
    fn mode(&self) -> LockMode {
        if self.shared.load(Ordering::Acquire) { LockMode::Shared } else { LockMode::Exclusive }
    }

    async fn downgrade(&self) -> Result<()> {
        if !self.state().is_held() {
            return Err(Error::lease_lost(DOWNGRADE, "the lock is not held any more").about(&self.name));
        }
        // An entry that was acquired as shared lies where the shared ones are, and needs no mark.
        if keys::is_shared_lock_entry(self.entry.key()) {
            return Ok(());
        }
        self.shared.store(true, Ordering::Release);
        self.client.run_on(DOWNGRADE, &self.name, Outcome::Unknown, self.mark_shared()).await
    }
}

impl fmt::Debug for HeldLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldLock")
            .field("name", &self.name)
            .field("mode", &self.mode())
            .field("entry", &self.entry)
            .finish_non_exhaustive()
    }
}
