//! What keeps a session alive, and what ends it.

use std::sync::Arc;

use coord_api::store::{Change, Span};
use coord_api::{Loss, Revision};

use super::session::Session;
use super::state::Retirement;
use super::{batching, releasing, renewal};
use crate::backoff::backoff;
use crate::error::is_permanent;
use crate::watch::{Delivery, ResumingWatch};

/// The session's task, from its making to its end.
pub(super) async fn run(session: Arc<Session>, made: Revision) {
    let _told = TellWhenEnded(Arc::clone(&session));
    tokio::select! {
        biased;
        // First in line, so that an answer that comes with the deadline does not outrun it (R32).
        () = expire(&session) => session.lose(Loss::Expired),
        _ = session.over.wait() => {}
        loss = watch(&session, made) => session.lose(loss),
        () = renewal::renew_for_ever(&session) => session.lose(Loss::Expired),
        () = releasing::release_pending(&session) => {}
        () = batching::send_batches(&session) => {}
        () = retire(&session) => session.lose(Loss::Released),
    }
    // Closing revokes the leases itself, within its own deadline.
    if session.over.get() != Some(Loss::Closed) {
        revoke(&session).await;
    }
}

/// Should the task end by accident, with the runtime that it runs on or by a panic below, nothing
/// renews the lease any more: whoever is on it is told.
struct TellWhenEnded(Arc<Session>);

impl Drop for TellWhenEnded {
    fn drop(&mut self) {
        self.0.lose(Loss::Expired);
    }
}

/// Waits for the local deadline, which renewals move.
async fn expire(session: &Session) {
    loop {
        let deadline = session.state.lock().deadline();
        if deadline <= session.now() {
            return;
        }
        session.ground.home.sleep_until(deadline).await;
    }
}

/// Watches the session's own key: a lease that dies is known at once, not at the next renewal.
async fn watch(session: &Session, made: Revision) -> Loss {
    let mut watch = ResumingWatch::after(Arc::clone(&session.ground), Span::key(session.key.clone()), made);
    loop {
        match watch.next().await {
            Ok(Delivery::Batch(batch))
                if batch.changes.iter().any(|change| matches!(change, Change::Delete { .. })) =>
            {
                return Loss::Expired;
            }
            Ok(Delivery::Resync { state, .. }) if state.entries.is_empty() => return Loss::Expired,
            Ok(_) => {}
            // The renewals notice a loss as well, only later.
            Err(_) => return std::future::pending().await,
        }
    }
}

/// Ends when nothing needed the session for one TTL (R9a); at once when the provider is gone.
async fn retire(session: &Session) {
    let abandoned = &session.ground.abandoned;
    loop {
        let retirement = {
            let mut state = session.state.lock();
            // Looked at under the lock: who drops a handle leaves its release before it is counted
            // out.
            let pending = !session.pending.is_empty();
            state.retire(session.ttl, pending, abandoned.is_cancelled(), session.now())
        };
        match retirement {
            Retirement::Now => return,
            Retirement::Needed => session.changed.notified().await,
            Retirement::At(then) => tokio::select! {
                biased;
                () = session.changed.notified() => {}
                () = session.ground.home.sleep_until(then) => {}
                // Once abandoned it waits all the same: a call for which this session was made goes
                // on without the provider, and is about to enter.
                () = abandoned.cancelled(), if !abandoned.is_cancelled() => {}
            },
        }
    }
}

/// Revokes the lease of a session that is over: at the next contact, and never renewed meanwhile
/// (R9a).
async fn revoke(session: &Session) {
    let ground = &session.ground;
    let mut backoff = backoff();
    loop {
        let attempt = ground.home.timeout(session.attempt_timeout(), ground.revoke(session.lease));
        let answer = tokio::select! {
            biased;
            answer = attempt => answer,
            () = ground.closing.cancelled() => return,
        };
        match answer {
            Ok(Ok(())) => return,
            Ok(Err(error)) if is_permanent(&error) => return,
            _ => {}
        }
        tokio::select! {
            biased;
            () = ground.home.sleep(backoff.pause()) => {}
            () = ground.closing.cancelled() => return,
            // Nobody is left who could care; unrenewed, the lease ends by itself.
            () = ground.abandoned.cancelled() => return,
        }
    }
}
