//! Fences: writes that are applied only while a handle holds (R55).

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::store::Compare;
use crate::types::{LeaseId, Revision};

/// Fences that one write carries at most (R55).
pub const MAX_FENCES: usize = 8;

/// What a write is tied to: it is applied only while the handle that gave the fence holds, by the
/// word of the store itself (R55).
///
/// Every handle gives one: [`LockGuard::fence`](crate::LockGuard::fence),
/// [`InstanceId::fence`](crate::InstanceId::fence),
/// [`Registration::fence`](crate::Registration::fence), and those of primitives. Cheap to clone. It
/// keeps nothing alive, and holds on for as long as its handle does.
///
/// A fencing token is for resources elsewhere, which must compare it themselves. A fence is for
/// writes to the store in which the handle's own entry lies: there the store compares, in the
/// transaction of the write.
#[derive(Clone)]
pub struct Fence {
    store: Arc<str>,
    /// One, or of each handle one, where it stands for several; none where nothing is held.
    entries: Vec<FencedEntry>,
    held: Arc<dyn Fn() -> bool + Send + Sync>,
}

/// An entry, as its handle knows it.
#[derive(Clone, Debug)]
struct FencedEntry {
    key: Bytes,
    created: Revision,
    lease: LeaseId,
    /// Its last write, where there may not have been another one since.
    modified: Option<Revision>,
}

impl Fence {
    /// The fence of a handle whose entry lies under `key`, as the store of identity `store` has it
    /// ([`StoreStatus::store_id`](crate::store::StoreStatus::store_id)), was created at `created`
    /// and hangs on `lease`. `held` says whether the handle holds at the moment of asking.
    pub fn new(
        store: impl Into<Arc<str>>,
        key: impl Into<Bytes>,
        created: Revision,
        lease: LeaseId,
        held: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Self {
        let entry = FencedEntry { key: key.into(), created, lease, modified: None };
        Fence { store: store.into(), entries: vec![entry], held: Arc::new(held) }
    }

    /// The fence of a handle that holds nothing in the store now: every write that it ties fails.
    pub fn broken(store: impl Into<Arc<str>>) -> Self {
        Fence { store: store.into(), entries: Vec::new(), held: Arc::new(|| false) }
    }

    /// The fence of a handle that stands for several others of one store, and holds while all of
    /// them do. It counts as one; without any it is [broken](Self::broken).
    pub fn all(fences: impl IntoIterator<Item = Fence>) -> Self {
        let fences: Vec<Fence> = fences.into_iter().collect();
        let Some(first) = fences.first() else { return Fence::broken("") };
        Fence {
            store: Arc::clone(&first.store),
            entries: fences.iter().flat_map(|fence| fence.entries.iter().cloned()).collect(),
            held: Arc::new(move || fences.iter().all(Fence::is_held)),
        }
    }

    /// Fails, too, once the entry was written after `modified`: for entries that say in which way
    /// they are held, as those of locks do.
    #[must_use]
    pub fn unwritten_since(mut self, modified: Revision) -> Self {
        for entry in &mut self.entries {
            entry.modified = Some(modified);
        }
        self
    }

    /// Fails, too, where `also` says that it is not held: for a handle that can end before its
    /// entry does.
    #[must_use]
    pub fn held_while(mut self, also: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        let held = Arc::clone(&self.held);
        self.held = Arc::new(move || also() && held());
        self
    }

    /// The identity of the store that the handle's entry is in, with the namespace.
    pub fn store_id(&self) -> &str {
        &self.store
    }

    /// Whether its handle still holds, as far as is known here.
    pub fn is_held(&self) -> bool {
        (self.held)()
    }

    /// What must hold in the store for the handle to hold, to be compared in the transaction of the
    /// write.
    pub fn compares(&self) -> Vec<Compare> {
        let compares = self.entries.iter().flat_map(|FencedEntry { key, created, lease, modified }| {
            match modified {
                // A revision is that of one write, so that this is the entry as it was then.
                Some(modified) => vec![Compare::Modified(key.clone(), *modified)],
                None => vec![Compare::Created(key.clone(), *created), Compare::Lease(key.clone(), *lease)],
            }
        });
        compares.collect()
    }

    /// The keys of the handle's entries in the store: one, as a rule.
    pub fn keys(&self) -> impl Iterator<Item = &Bytes> {
        self.entries.iter().map(|entry| &entry.key)
    }

    /// Checks what is known of fences without the store: there are at most [`MAX_FENCES`], and all
    /// are held.
    ///
    /// # Errors
    ///
    /// `InvalidArgument`, `LeaseLost`.
    pub fn check(operation: &'static str, fences: &[Fence]) -> Result<()> {
        if fences.len() > MAX_FENCES {
            let message = format!("{} fences; a write carries {MAX_FENCES} at most", fences.len());
            return Err(Error::invalid_argument(operation, message));
        }
        if fences.iter().all(Fence::is_held) { Ok(()) } else { Err(Fence::lost(operation)) }
    }

    /// Checks that fences are of the store of this identity, with its namespace.
    ///
    /// # Errors
    ///
    /// `InvalidArgument`.
    pub fn check_store(operation: &'static str, fences: &[Fence], store: &str) -> Result<()> {
        if fences.iter().all(|fence| fence.store_id() == store) {
            return Ok(());
        }
        Err(Error::invalid_argument(
            operation,
            "a fence of another store or namespace; give one of a handle in the store that is written to",
        ))
    }

    /// The error of a write whose fence does not hold.
    pub fn lost(operation: &'static str) -> Error {
        Error::lease_lost(operation, "a handle that the write is fenced by is not held any more")
    }
}

impl fmt::Debug for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fence")
            .field("created", &self.entries.iter().map(|entry| entry.created).collect::<Vec<_>>())
            .field("lease", &self.entries.iter().map(|entry| entry.lease).collect::<Vec<_>>())
            .field("held", &self.is_held())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::error::ErrorKind;

    fn fence(held: bool) -> Fence {
        Fence::new("store", "/locks/k/1", Revision::new(5), LeaseId::new(7), move || held)
    }

    #[test]
    fn eight_are_enough() {
        assert!(Fence::check("t", &vec![fence(true); MAX_FENCES]).is_ok());
        let error = Fence::check("t", &vec![fence(false); MAX_FENCES + 1]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }

    #[test]
    fn one_that_is_not_held_is_a_loss() {
        for lost in [fence(false), Fence::broken("store")] {
            let error = Fence::check("t", &[fence(true), lost]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::LeaseLost);
        }
    }

    #[test]
    fn a_handle_may_end_before_its_entry() {
        let held = Arc::new(AtomicBool::new(true));
        let seen = Arc::clone(&held);
        let fence = fence(true).held_while(move || seen.load(Ordering::SeqCst));
        assert!(fence.is_held());
        held.store(false, Ordering::SeqCst);
        assert!(!fence.is_held());
    }

    #[test]
    fn of_several_handles_all_must_hold() {
        let other = Fence::new("store", "/locks/l/1", Revision::new(6), LeaseId::new(7), || true);
        let both = Fence::all([fence(true), other.clone()]);
        assert!(both.is_held() && both.compares().len() == 4 && both.store_id() == "store");
        assert!(!Fence::all([other, fence(false)]).is_held());
        assert!(!Fence::all([]).is_held());
    }

    #[test]
    fn another_store_is_told() {
        let fences = [fence(true)];
        assert!(Fence::check_store("t", &fences, "store").is_ok());
        let error = Fence::check_store("t", &fences, "store/team").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }

    #[test]
    fn an_entry_that_was_written_since_is_told_by_its_mod_revision() {
        let fence = fence(true).unwritten_since(Revision::new(6));
        assert_eq!(fence.compares(), [Compare::Modified("/locks/k/1".into(), Revision::new(6))]);
    }

    #[test]
    fn what_it_shows_is_no_key() {
        assert!(!format!("{:?}", fence(true)).contains("locks"));
    }
}
