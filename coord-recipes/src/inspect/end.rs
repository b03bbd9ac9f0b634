//! To end what has to be ended by hand.

use coord_api::store::{Compare, Op, Txn};
use coord_api::{Error, ErrorKind, FencingToken, LeaseId, Outcome, Result, key};
use coord_core::keys;

use super::Inspect;
use super::queues::{ELECTION, Kind, LOCK, SEMAPHORE};

impl Inspect {
    /// Takes a lock from who has this token, or takes its waiter of this token out of the queue.
    /// Nobody else's: not its successor's. The holder hears of it as of any loss (R31, R32), and
    /// whoever is next in the queue has the lock at once; what the holder does until it hears of it
    /// is fenced by the token, where the resource looks at tokens.
    ///
    /// Returns whether there was such an entry.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` (R4) before any I/O; `Unavailable`, `Timeout`, with the outcome `Unknown`
    /// where the answer was lost: doing it again does no harm; `Closed`, `Unauthenticated`,
    /// `PermissionDenied`.
    ///
    /// # Cancel safety
    ///
    /// A dropped call may have ended it.
    pub async fn break_lock(&self, name: &str, token: FencingToken) -> Result<bool> {
        self.end(LOCK, "inspect.break_lock", name, token).await
    }

    /// As [`break_lock`](Self::break_lock), for who leads or runs in an election.
    ///
    /// # Errors
    ///
    /// As [`break_lock`](Self::break_lock).
    ///
    /// # Cancel safety
    ///
    /// As [`break_lock`](Self::break_lock).
    pub async fn end_leadership(&self, name: &str, token: FencingToken) -> Result<bool> {
        self.end(ELECTION, "inspect.end_leadership", name, token).await
    }

    /// As [`break_lock`](Self::break_lock), for who has or wants permits of a semaphore.
    ///
    /// # Errors
    ///
    /// As [`break_lock`](Self::break_lock).
    ///
    /// # Cancel safety
    ///
    /// As [`break_lock`](Self::break_lock).
    pub async fn end_permit(&self, name: &str, token: FencingToken) -> Result<bool> {
        self.end(SEMAPHORE, "inspect.end_permit", name, token).await
    }

    async fn end(
        &self,
        kind: Kind,
        operation: &'static str,
        name: &str,
        token: FencingToken,
    ) -> Result<bool> {
        key::check(operation, name)?;
        let ending = async {
            let entries = self.client.list(kind.span(name)).await?.entries;
            // A write of its own in between, a downgrade for example, makes it none of another.
            let Some(found) = kind.find(name, &entries, token) else { return Ok(false) };
            let (key, modified) = (found.key.clone(), found.modified);
            let delete = Txn::new().when(Compare::Modified(key.clone(), modified)).then(Op::delete(key));
            if self.client.store().txn(delete).await?.succeeded {
                return Ok(true);
            }
            Err(Error::new(ErrorKind::Conflict, operation, "it changed at this moment; look again"))
        };
        self.client.run_on(operation, name, Outcome::Unknown, ending).await
    }

    /// Ends a session: everything that hangs on it goes, locks, instances and ids alike, and its
    /// process hears of each loss. For a process that is known to be gone, or that has to be.
    ///
    /// Returns whether there was such a session.
    ///
    /// # Errors
    ///
    /// As [`break_lock`](Self::break_lock).
    ///
    /// # Cancel safety
    ///
    /// A dropped call may have ended it.
    pub async fn end_session(&self, session: LeaseId) -> Result<bool> {
        const OPERATION: &str = "inspect.end_session";
        let ending = async {
            let store = self.client.store();
            if store.lease(session).await?.is_none() {
                return Ok(false);
            }
            store.revoke_lease(session).await?;
            Ok(true)
        };
        self.client.run(OPERATION, Outcome::Unknown, ending).await
    }

    /// Takes an instance out of the registry: for one that was left there, for its owner registers
    /// it anew if it is alive (R37).
    ///
    /// Returns whether there was such an instance.
    ///
    /// # Errors
    ///
    /// As [`break_lock`](Self::break_lock).
    ///
    /// # Cancel safety
    ///
    /// A dropped call may have ended it.
    pub async fn remove_instance(&self, service: &str, id: &str) -> Result<bool> {
        const OPERATION: &str = "inspect.remove_instance";
        key::check_segment(OPERATION, service)?;
        key::check_segment(OPERATION, id)?;
        self.remove(OPERATION, keys::instance(service, id)).await
    }

    /// Takes an instance id from who has it.
    ///
    /// Returns whether anybody had it.
    ///
    /// # Errors
    ///
    /// As [`break_lock`](Self::break_lock).
    ///
    /// # Cancel safety
    ///
    /// A dropped call may have ended it.
    pub async fn end_id(&self, service: &str, id: u32) -> Result<bool> {
        const OPERATION: &str = "inspect.end_id";
        key::check_segment(OPERATION, service)?;
        self.remove(OPERATION, keys::id(&keys::ids(service), id)).await
    }

    async fn remove(&self, operation: &'static str, key: bytes::Bytes) -> Result<bool> {
        let removing = async {
            let reply = self.client.store().txn(Txn::new().then(Op::delete(key))).await?;
            reply.try_existed(0)
        };
        self.client.run(operation, Outcome::Unknown, removing).await
    }
}
