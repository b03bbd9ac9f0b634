//! Several locks at once (R33a).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coord_api::handle::Leased;
use coord_api::store::round_ttl;
use coord_api::{
    DistributedLock, Error, Fence, FencingToken, HandleState, LockGuard, LockOptions, Loss, Lost, Result,
    Wait, key,
};
use futures_util::future::{join_all, select_all};
use tokio::time::Instant;

const ACQUIRE_ALL: &str = "lock.acquire_all";

/// The most locks that are acquired by one call.
pub const MAX_LOCKS: usize = 128;

/// Acquires all of these locks, or none (R33a).
///
/// They are acquired one after the other in the byte order of their names, so that two callers who
/// want some of the same ones never wait for each other in a circle; as long as everyone who wants
/// several of them does it in this way. Meanwhile those that were acquired are held.
///
/// [`LockOptions::wait`] bounds the waiting for all of them together, and each of them is acquired
/// in the same [mode](LockOptions::mode).
///
/// # Errors
///
/// `InvalidArgument` for no name, for more than [`MAX_LOCKS`], for one that is named twice (nobody
/// acquires a lock again who holds it, R26), and as for one lock, before any I/O. `Conflict`,
/// `Timeout` and the others as for one lock, about the one that could not be had; `LeaseLost` where
/// one of them was lost while the others were waited for. Nothing is held then: a release that the
/// store did not answer is repeated (R9).
///
/// # Cancel safety
///
/// Cancel safe: dropped, it holds none of them (R29).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use coord_api::{LockOptions, Provider};
/// use coord_recipes::acquire_all;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> coord_api::Result<()> {
/// # let provider = coord_memory::MemoryProvider::new();
/// let both = acquire_all(provider.lock(), ["accounts/7", "accounts/3"], LockOptions::default()).await?;
/// assert!(both.is_held());
/// both.release().await?;
/// # provider.close().await
/// # }
/// ```
pub async fn acquire_all<K: AsRef<str>>(
    locks: &Arc<dyn DistributedLock>,
    names: impl IntoIterator<Item = K>,
    options: LockOptions,
) -> Result<LockSet> {
    let names = check(names, options)?;
    let began = Instant::now();
    let mut guards: Vec<LockGuard> = Vec::with_capacity(names.len());
    for name in &names {
        let options = match options.wait {
            Wait::For(limit) => options.with_wait(Wait::For(limit.saturating_sub(began.elapsed()))),
            _ => options,
        };
        match locks.acquire_with(name, options).await {
            Ok(guard) => guards.push(guard),
            Err(error) => {
                give_back(&guards).await;
                return Err(error.in_operation(ACQUIRE_ALL));
            }
        }
    }
    // While the later ones were waited for, an earlier one may have been lost.
    if let Some(lost) = guards.iter().find(|guard| !guard.is_held()) {
        let fault = "it was lost while others were waited for";
        let error = Error::lease_lost(ACQUIRE_ALL, fault).about(lost.key());
        give_back(&guards).await;
        return Err(error);
    }
    Ok(LockSet { guards })
}

/// The names in byte order, if they can be acquired.
fn check<K: AsRef<str>>(names: impl IntoIterator<Item = K>, options: LockOptions) -> Result<Vec<String>> {
    let mut checked = Vec::new();
    for name in names {
        checked.push(key::check(ACQUIRE_ALL, name.as_ref())?.to_owned());
        if checked.len() > MAX_LOCKS {
            return Err(Error::invalid_argument(ACQUIRE_ALL, format!("more than {MAX_LOCKS} locks")));
        }
    }
    checked.sort_unstable();
    if checked.is_empty() {
        return Err(Error::invalid_argument(ACQUIRE_ALL, "no lock is named"));
    }
    if checked.windows(2).any(|pair| matches!(pair, [one, other] if one == other)) {
        return Err(Error::invalid_argument(ACQUIRE_ALL, "a lock is named twice, and would wait for itself"));
    }
    round_ttl(ACQUIRE_ALL, options.ttl)?;
    Ok(checked)
}

/// Gives back what was acquired. What the store does not answer is repeated by its session (R9).
async fn give_back(guards: &[LockGuard]) {
    join_all(guards.iter().map(Leased::release)).await;
}

/// Several locks that are held as one (R33a), until they are released, dropped, or one of them is
/// lost.
#[must_use = "dropping the locks unlocks them"]
pub struct LockSet {
    guards: Vec<LockGuard>,
}

impl LockSet {
    /// Each of the locks, in byte order of their names.
    pub fn guards(&self) -> &[LockGuard] {
        &self.guards
    }

    /// A number for whatever is guarded by any of them: greater than that of everyone who has held
    /// one of them before, alone or with others.
    pub fn fencing_token(&self) -> FencingToken {
        self.guards.iter().map(LockGuard::fencing_token).max().unwrap_or(FencingToken::new(0))
    }

    /// Whether all of them are held at this moment, by this machine's clock (R32). Once `false`,
    /// `false` for ever.
    pub fn is_held(&self) -> bool {
        self.guards.iter().all(LockGuard::is_held)
    }

    /// What they stand for at this moment: the end of the first one that is over, else held.
    pub fn state(&self) -> HandleState {
        let over = self.guards.iter().map(LockGuard::state).find(|state| !state.is_held());
        over.unwrap_or(HandleState::Held)
    }

    /// The time left to the first local deadline, zero when not held. Renewal moves it on.
    pub fn ttl(&self) -> Duration {
        self.guards.iter().map(LockGuard::ttl).min().unwrap_or_default()
    }

    /// Resolves once one of them is not held any more, whatever the reason (R32).
    pub fn lost(&self) -> Lost {
        let all: Vec<Lost> = self.guards.iter().map(LockGuard::lost).collect();
        Lost::new(async move {
            // There is one lock at least.
            if all.is_empty() { Loss::Released } else { select_all(all).await.0 }
        })
    }

    /// What a write to the store is fenced by that is to be applied only while all of them are held
    /// (R55). It counts as one fence.
    pub fn fence(&self) -> Fence {
        Fence::all(self.guards.iter().map(LockGuard::fence))
    }

    /// Unlocks all of them. Idempotent; it never harms a successor.
    ///
    /// # Errors
    ///
    /// As for one lock, the first error of them: the others are unlocked all the same, and what the
    /// store did not answer is repeated (R9).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a dropped call leaves the release to the provider.
    pub async fn release(&self) -> Result<()> {
        join_all(self.guards.iter().map(Leased::release)).await.into_iter().collect()
    }
}

#[async_trait]
impl Leased for LockSet {
    fn fencing_token(&self) -> FencingToken {
        self.fencing_token()
    }

    fn fence(&self) -> Fence {
        self.fence()
    }

    fn state(&self) -> HandleState {
        self.state()
    }

    fn ttl(&self) -> Duration {
        self.ttl()
    }

    fn lost(&self) -> Lost {
        self.lost()
    }

    async fn release(&self) -> Result<()> {
        self.release().await
    }
}

impl fmt::Debug for LockSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.guards.iter().map(LockGuard::key).collect();
        f.debug_struct("LockSet").field("names", &names).field("state", &self.state()).finish_non_exhaustive()
    }
}
