//! Who was authenticated lately, so that a request does not ask the users each time.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::error::{Result, UsersError};
use super::identity::Identity;
use super::token::{Secret, TokenId};
use super::{Changed, Users, audit};
use crate::ledger::Clock;

/// For how long a token is known without another look: what was revoked opens nothing after that,
/// even if nobody tells.
pub const RECHECK: Duration = Duration::from_secs(30);

/// For how long known tokens go on where the users are out of reach.
pub const GRACE: Duration = Duration::from_secs(300);

/// How often those are looked at for whose end somebody waits: often enough that one round may be
/// late.
const SWEEP: Duration = Duration::from_secs(10);

/// How long the users may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// How long it takes until the users are asked again about known tokens after they were out of
/// reach.
const PAUSE: Duration = Duration::from_secs(1);

/// Who was authenticated lately, in front of [`Users`] (G19).
///
/// - What was authenticated is known for 30 s without another look, and dropped as soon as the
///   users tell that it changed. So what is revoked opens nothing within moments, and after 30 s in
///   any case.
/// - While the users are out of reach, what was known goes on for 5 minutes after it was last
///   looked at. Then, and for all other tokens, it is [`UsersError::Unavailable`]. Nobody is ever
///   let in for want of an answer.
/// - Long calls learn of a change by [`revoked`](Self::revoked).
///
/// One task listens to the changes; it ends when this is dropped. Should it end before, as with the
/// runtime that it lives in, nothing is answered from memory any more, and the users are asked each
/// time.
///
/// ```
/// use std::sync::Arc;
///
/// use coord_global::users::{Known, StoreUsers, TokenLabel, UserId, Users};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let users: Arc<dyn Users> =
///     Arc::new(StoreUsers::new(Arc::new(coord_memory::MemoryStore::new())));
/// let known = Known::new(Arc::clone(&users));
/// let (secret, id) = users.first_admin(&UserId::new("ada")?).await?;
///
/// let caller = known.authenticate(&secret).await?;
/// assert!(caller.is_admin());
/// users.revoke_token(&id).await?;
/// known.revoked(&caller).await;
/// assert!(known.identity(&id).await.is_err());
/// # Ok(())
/// # }
/// ```
pub struct Known {
    shared: Arc<Shared>,
    /// `None` where it could not be started.
    task: Option<JoinHandle<()>>,
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Known").field("users", &self.shared.users).finish_non_exhaustive()
    }
}

impl Drop for Known {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

struct Shared {
    users: Arc<dyn Users>,
    clock: Clock,
    memory: Mutex<Memory>,
}

/// What is known. Pure: the time comes with each call.
#[derive(Default)]
struct Memory {
    /// Whether the task runs, without which nothing is known.
    is_kept: bool,
    /// How many changes there were: what was asked before one of them is not remembered.
    changes: u64,
    /// The users were out of reach. From then on one call asks them again about a known token,
    /// while the others go on without.
    ask_again_at: Option<Instant>,
    entries: HashMap<TokenId, Entry>,
}

struct Entry {
    identity: Identity,
    /// When it was asked for, which is not later than when it was so.
    asked: Instant,
    /// Whether every change since is known.
    is_current: bool,
    /// Goes with the entry, and so tells that it has ended.
    ends: watch::Sender<()>,
}

impl Entry {
    /// Whether it may stand for an answer of the users that it is younger than.
    fn stands(&self, age: Duration, now: Instant, now_ms: u64) -> bool {
        now.saturating_duration_since(self.asked) < age && !self.identity.is_expired(now_ms)
    }
}

impl Memory {
    /// What is answered without asking, and whether that is for want of an answer.
    fn at_hand(&mut self, token: &TokenId, now: Instant, now_ms: u64) -> Option<(Identity, bool)> {
        let entry = self.entries.get(token).filter(|_| self.is_kept)?;
        if entry.is_current && entry.stands(RECHECK, now, now_ms) {
            return Some((entry.identity.clone(), false));
        }
        if now < self.ask_again_at? {
            return entry.stands(GRACE, now, now_ms).then(|| (entry.identity.clone(), true));
        }
        // It is this call that asks.
        self.ask_again_at = now.checked_add(ANSWER + PAUSE);
        None
    }

    /// What is answered where nobody answers.
    fn in_need(&mut self, token: &TokenId, now: Instant, now_ms: u64) -> Option<Identity> {
        self.ask_again_at = now.checked_add(PAUSE);
        let entry = self.entries.get(token).filter(|_| self.is_kept)?;
        entry.stands(GRACE, now, now_ms).then(|| entry.identity.clone())
    }

    /// The users said so. `changes` is how many there were when they were asked.
    fn learn(&mut self, identity: &Identity, asked: Instant, changes: u64) {
        self.ask_again_at = None;
        if !self.is_kept || self.changes != changes {
            return;
        }
        match self.entries.get_mut(identity.token()) {
            Some(entry) if entry.identity == *identity => {
                (entry.asked, entry.is_current) = (entry.asked.max(asked), true);
            }
            _ => {
                let entry = Entry {
                    identity: identity.clone(),
                    asked,
                    is_current: true,
                    ends: watch::Sender::new(()),
                };
                self.entries.insert(*identity.token(), entry);
            }
        }
    }

    fn changed(&mut self, changed: &Changed) {
        self.changes = self.changes.wrapping_add(1);
        match changed {
            Changed::Token(token) => {
                self.entries.remove(token);
            }
            Changed::User(user) => self.entries.retain(|_, entry| entry.identity.user() != user),
            Changed::Anything => self.entries.clear(),
        }
    }

    /// The users can be reached again, and changes may have been missed: everything is looked at
    /// again.
    fn missed(&mut self) {
        self.ask_again_at = None;
        self.changes = self.changes.wrapping_add(1);
        self.entries.values_mut().for_each(|entry| entry.is_current = false);
    }

    /// Ends what is over.
    fn end(&mut self, now: Instant, now_ms: u64) {
        self.entries.retain(|_, entry| entry.stands(GRACE, now, now_ms));
    }

    /// When something is over next.
    fn next_end(&self, now: Instant, now_ms: u64) -> Option<Instant> {
        let ends = self.entries.values().flat_map(|entry| {
            let left =
                entry.identity.expires_at_ms().map(|at| Duration::from_millis(at.saturating_sub(now_ms)));
            [entry.asked.checked_add(GRACE), left.and_then(|left| now.checked_add(left))]
        });
        ends.flatten().min()
    }

    /// Those for whose end somebody waits, and who have not been looked at for a while.
    fn due(&self, now: Instant) -> Vec<TokenId> {
        let due = self.entries.iter().filter(|(_, entry)| {
            let is_old = now.saturating_duration_since(entry.asked) >= SWEEP;
            entry.ends.receiver_count() > 0 && (is_old || !entry.is_current)
        });
        due.map(|(token, _)| *token).collect()
    }
}

impl Known {
    /// Stands in front of `users`. Its task lives in the tokio runtime that calls, and so may be
    /// its end; outside of one nothing is remembered.
    #[must_use]
    pub fn new(users: Arc<dyn Users>) -> Self {
        Self::with_clock(users, Arc::new(coord_core::time_of_day_ms))
    }

    /// As [`new`](Self::new), by a clock of one's own, which tells when tokens end. All else goes
    /// by the time of tokio.
    #[must_use]
    pub fn with_clock(users: Arc<dyn Users>, clock: Clock) -> Self {
        let memory = Mutex::new(Memory { is_kept: true, ..Memory::default() });
        let shared = Arc::new(Shared { users, clock, memory });
        // Made here, so that it ends what is known also where the task is never run.
        let keeper = Keeper(Arc::clone(&shared));
        let task = Handle::try_current().ok().map(|runtime| {
            runtime.spawn(async move {
                let keeper = keeper;
                keeper.0.follow().await;
            })
        });
        Self { shared, task }
    }

    /// Tells who shows a token, as [`Users::authenticate`] does.
    ///
    /// # Errors
    ///
    /// [`UsersError::Unauthenticated`]; [`UsersError::Unavailable`] where the users are out of
    /// reach and the token is not known, or not any more.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn authenticate(&self, secret: &Secret) -> Result<Identity> {
        self.shared.get(&secret.id(), self.shared.users.authenticate(secret)).await
    }

    /// Tells anew who it is that was authenticated before, for a call that goes on for long. Not
    /// for what a caller sent: see [`Users::identity`].
    ///
    /// # Errors
    ///
    /// As [`authenticate`](Self::authenticate).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn identity(&self, token: &TokenId) -> Result<Identity> {
        self.shared.get(token, self.shared.users.identity(token)).await
    }

    /// Waits until `identity` may be another than it was: its token was revoked or has ended, its
    /// user or the grants changed, or the users have been out of reach for too long. Then ask for
    /// the [`identity`](Self::identity) again, and go on with that or not at all.
    ///
    /// It may also come where nothing changed. Where the changes are not followed any more it comes
    /// every 10 s.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub fn revoked(&self, identity: &Identity) -> impl Future<Output = ()> + Send + use<> {
        let (is_kept, ends) = {
            let memory = self.shared.memory.lock();
            let entry = memory.entries.get(identity.token()).filter(|entry| entry.identity == *identity);
            (memory.is_kept, entry.map(|entry| entry.ends.subscribe()))
        };
        async move {
            match ends {
                Some(mut ends) => while ends.changed().await.is_ok() {},
                None if is_kept => {}
                None => sleep(SWEEP).await,
            }
        }
    }
}

impl Shared {
    fn now_ms(&self) -> u64 {
        (self.clock)()
    }

    /// What is known of a token, or else what the users say.
    async fn get(&self, token: &TokenId, ask: impl Future<Output = Result<Identity>>) -> Result<Identity> {
        let asked = Instant::now();
        let changes = {
            let mut memory = self.memory.lock();
            if let Some((identity, out_of_reach)) = memory.at_hand(token, asked, self.now_ms()) {
                drop(memory);
                audit::accepted_from_memory(&identity, out_of_reach);
                return Ok(identity);
            }
            memory.changes
        };
        match self.ask(token, asked, changes, ask).await {
            Err(error) if error.is_out_of_reach() => {
                let known = self.memory.lock().in_need(token, Instant::now(), self.now_ms());
                if let Some(identity) = known {
                    audit::accepted_from_memory(&identity, true);
                    return Ok(identity);
                }
                audit::out_of_reach(token, &error);
                Err(match error {
                    UsersError::Unavailable { .. } => error,
                    other => UsersError::Unavailable { why: other.to_string() },
                })
            }
            answer => answer,
        }
    }

    /// Asks the users, and remembers what they say.
    async fn ask(
        &self,
        token: &TokenId,
        asked: Instant,
        changes: u64,
        ask: impl Future<Output = Result<Identity>>,
    ) -> Result<Identity> {
        let answer = timeout(ANSWER, ask).await;
        let answer = answer.unwrap_or_else(|_| {
            Err(UsersError::Unavailable { why: format!("no answer within {} s", ANSWER.as_secs()) })
        });
        match &answer {
            Ok(identity) => self.memory.lock().learn(identity, asked, changes),
            Err(error) if error.is_out_of_reach() => {}
            // Whatever it is, it is no reason to let anybody in.
            Err(_) => {
                self.memory.lock().entries.remove(token);
            }
        }
        answer
    }

    /// Follows the changes for ever.
    async fn follow(&self) {
        let mut pauses = coord_core::backoff();
        let mut changes = None;
        let mut try_at = Instant::now();
        let mut sweep_at = try_at + SWEEP;
        loop {
            let now = Instant::now();
            let wake_at = {
                let mut memory = self.memory.lock();
                memory.end(now, self.now_ms());
                memory.next_end(now, self.now_ms()).map_or(sweep_at, |end| end.min(sweep_at))
            };
            if now >= sweep_at {
                self.sweep().await;
                sweep_at = Instant::now() + SWEEP;
                continue;
            }
            match &mut changes {
                None if now < try_at => sleep_until(wake_at.min(try_at)).await,
                None => match timeout(ANSWER, self.users.changes()).await {
                    Ok(Ok(armed)) => {
                        changes = Some(armed);
                        self.memory.lock().missed();
                        self.sweep().await;
                    }
                    _ => try_at = Instant::now() + pauses.pause(),
                },
                Some(armed) => {
                    let left = wake_at.saturating_duration_since(now);
                    match timeout(left, armed.next()).await {
                        Ok(Ok(changed)) => {
                            pauses.reset();
                            let mut memory = self.memory.lock();
                            changed.iter().for_each(|changed| memory.changed(changed));
                        }
                        Ok(Err(_)) => {
                            changes = None;
                            try_at = Instant::now() + pauses.pause();
                        }
                        Err(_) => {}
                    }
                }
            }
        }
    }

    /// Looks again at those for whose end somebody waits.
    async fn sweep(&self) {
        let due = self.memory.lock().due(Instant::now());
        for token in due {
            let (asked, changes) = (Instant::now(), self.memory.lock().changes);
            let answer = self.ask(&token, asked, changes, self.users.identity(&token)).await;
            if answer.is_err_and(|error| error.is_out_of_reach()) {
                // So will the others be.
                return;
            }
        }
    }
}

/// Has the task run; when it goes, nothing is known any more.
struct Keeper(Arc<Shared>);

impl Drop for Keeper {
    fn drop(&mut self) {
        let mut memory = self.0.memory.lock();
        memory.is_kept = false;
        memory.entries.clear();
    }
}
