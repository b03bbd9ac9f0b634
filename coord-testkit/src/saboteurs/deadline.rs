//! What breaks the local deadline (R32, R33, R37, R43): how long a handle may be believed in.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coord_api::store::{Lease, Range, RangeReply, Store, Txn, TxnReply};
use coord_api::{Error, HandleState, LeaseId, Loss, Result};
use tokio::time::Instant;

use super::handle::{Handles, hooks};
use super::provider::Good;
use super::store::BrokenStore;
use super::{Sabotage, Saboteur, Shared, locked};

pub(super) const SABOTEURS: &[Saboteur] = &[
    Saboteur::new(
        "deadline-from-the-answer",
        "a local deadline is counted from the answer of a renewal, not from its sending",
        &["r32", "r37", "r43"],
        || Sabotage::client(|| Counts { grants: false, renewals: true }),
    ),
    Saboteur::new(
        "first-deadline-from-the-answer",
        "the first local deadline is counted from the answer of the grant",
        &["r32", "r37", "r43"],
        || Sabotage::client(|| Counts { grants: true, renewals: false }),
    ),
    Saboteur::new(
        "deadline-without-margin",
        "a local deadline is the lease's own end",
        &["r33", "r32", "r43"],
        || Sabotage::client(|| WithoutMargin),
    ),
    Saboteur::new(
        "renewal-believed-unanswered",
        "a renewal in doubt counts as one that was answered",
        &["r32", "r37", "r43"],
        || Sabotage::client(|| Believes(Shared::default())),
    ),
    Saboteur::new(
        "any-answer-prolongs",
        "a handle is held for as long as the store answers anything",
        &["r32", "r43"],
        || {
            let answered = Shared::<Option<Instant>>::default();
            let seen = Arc::clone(&answered);
            Sabotage::client(move || NotesAnswers { noted: Arc::clone(&answered), renewals: false })
                .and_provider(move || {
                    let seen = Arc::clone(&seen);
                    Handles(move |_: &Good| held_while_answered(Arc::clone(&seen)))
                })
        },
    ),
    Saboteur::new(
        "late-renewal-revives",
        "a renewal that is answered after the local deadline revives the handle",
        &["r32"],
        || {
            let renewed = Shared::<Option<Instant>>::default();
            let seen = Arc::clone(&renewed);
            Sabotage::client(move || NotesAnswers { noted: Arc::clone(&renewed), renewals: true })
                .and_provider(move || {
                    let seen = Arc::clone(&seen);
                    Handles(move |_: &Good| held_while_answered(Arc::clone(&seen)))
                })
        },
    ),
];

/// Adds to what was granted the time that the answer took.
struct Counts {
    grants: bool,
    renewals: bool,
}

#[async_trait]
impl BrokenStore for Counts {
    async fn grant_lease(&self, good: &Arc<dyn Store>, ttl: Duration) -> Result<Lease> {
        let sent = Instant::now();
        let lease = good.grant_lease(ttl).await?;
        Ok(Lease { ttl: lease.ttl + if self.grants { sent.elapsed() } else { Duration::ZERO }, ..lease })
    }

    async fn keep_alive(&self, good: &Arc<dyn Store>, id: LeaseId) -> Result<Duration> {
        let sent = Instant::now();
        let ttl = good.keep_alive(id).await?;
        Ok(ttl + if self.renewals { sent.elapsed() } else { Duration::ZERO })
    }
}

/// Adds the margin that a client takes off.
struct WithoutMargin;

fn with_margin(ttl: Duration) -> Duration {
    ttl + (ttl / 20).clamp(Duration::from_millis(10), Duration::from_millis(500))
}

#[async_trait]
impl BrokenStore for WithoutMargin {
    async fn grant_lease(&self, good: &Arc<dyn Store>, ttl: Duration) -> Result<Lease> {
        let lease = good.grant_lease(ttl).await?;
        Ok(Lease { ttl: with_margin(lease.ttl), ..lease })
    }

    async fn keep_alive(&self, good: &Arc<dyn Store>, id: LeaseId) -> Result<Duration> {
        good.keep_alive(id).await.map(with_margin)
    }
}

struct Believes(Shared<std::collections::HashMap<LeaseId, Duration>>);

#[async_trait]
impl BrokenStore for Believes {
    async fn grant_lease(&self, good: &Arc<dyn Store>, ttl: Duration) -> Result<Lease> {
        let lease = good.grant_lease(ttl).await?;
        locked(&self.0).insert(lease.id, lease.ttl);
        Ok(lease)
    }

    async fn keep_alive(&self, good: &Arc<dyn Store>, id: LeaseId) -> Result<Duration> {
        match good.keep_alive(id).await {
            Err(error) if error.is_transient() => {
                locked(&self.0).get(&id).copied().ok_or_else(|| Error::lease_lost("store", "unknown"))
            }
            answer => answer,
        }
    }
}

/// Notes when the store last answered: anything, or a renewal.
struct NotesAnswers {
    noted: Shared<Option<Instant>>,
    renewals: bool,
}

impl NotesAnswers {
    fn note<T>(&self, is_renewal: bool, answer: Result<T>) -> Result<T> {
        if answer.is_ok() && is_renewal == self.renewals {
            *locked(&self.noted) = Some(Instant::now());
        }
        answer
    }
}

#[async_trait]
impl BrokenStore for NotesAnswers {
    async fn range(&self, good: &Arc<dyn Store>, range: Range) -> Result<RangeReply> {
        self.note(false, good.range(range).await)
    }

    async fn txn(&self, good: &Arc<dyn Store>, txn: Txn) -> Result<TxnReply> {
        self.note(false, good.txn(txn).await)
    }

    async fn keep_alive(&self, good: &Arc<dyn Store>, id: LeaseId) -> Result<Duration> {
        // Whoever asked may have given up by now.
        let (asked, noted, renewals) = (Arc::clone(good), Arc::clone(&self.noted), self.renewals);
        let asking = tokio::spawn(async move {
            let answer = asked.keep_alive(id).await;
            if answer.is_ok() && renewals {
                *locked(&noted) = Some(Instant::now());
            }
            answer
        });
        asking.await.unwrap_or_else(|_| Err(Error::closed("store.keep_alive")))
    }
}

/// How long an answer is believed in.
const BELIEVED: Duration = Duration::from_secs(3);

fn held_while_answered(answered: Shared<Option<Instant>>) -> super::handle::Hooks {
    hooks().state(move |good| {
        let recently = locked(&answered).is_some_and(|at| at.elapsed() < BELIEVED);
        match good.state() {
            HandleState::Ended(Loss::Expired) | HandleState::Lost if recently => HandleState::Held,
            state => state,
        }
    })
}
