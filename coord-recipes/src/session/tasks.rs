//! What keeps a session alive, and what ends it.

use std::sync::Arc;

use coord_api::store::{Change, Span};
use coord_api::{Error, ErrorKind, Loss, Result, Revision};

use super::lease::Session;
use crate::backoff::Backoff;
use crate::core::is_permanent;
use crate::watch::{Feed, Resuming};

/// The session's task, from its making to its end.
pub(super) async fn run(session: Arc<Session>, made: Revision) {
    let _told = TellWhenEnded(Arc::clone(&session));
    tokio::select! {
        biased;
        // First in line, so that an answer that comes with the deadline does not outrun it (R32).
        () = expire(&session) => session.lose(Loss::Expired),
        _ = session.over.wait() => {}
        loss = watch(&session, made) => session.lose(loss),
        () = renew_for_ever(&session) => session.lose(Loss::Expired),
        () = session.pay() => {}
        () = session.send_together() => {}
        () = retire(&session) => session.lose(Loss::Released),
    }
    // Closing revokes the leases itself, within its own deadline.
    if session.over.get() != Some(Loss::Closed) {
        revoke(&session).await;
    }
}

/// Should the task end by accident, with the runtime that it runs on or by a panic below, nothing renews the lease any more: whoever is on it is told.
struct TellWhenEnded(Arc<Session>);

impl Drop for TellWhenEnded {
    fn drop(&mut self) {
        self.0.lose(Loss::Expired);
    }
}

/// Waits for the local deadline, which renewals move.
async fn expire(session: &Session) {
    loop {
        let deadline = session.state.lock().deadline;
        if deadline <= session.now() {
            return;
        }
        session.core.home.sleep_until(deadline).await;
    }
}

/// Renews at the latest every third of the TTL (R31), and with each round looks for entries that were removed (R32). Ends when the lease is gone.
async fn renew_for_ever(session: &Session) {
    let mut backoff = Backoff::up_to(session.ttl / 10);
    loop {
        let (renewed, expiring) = {
            let state = session.state.lock();
            (state.renewed, state.expiring)
        };
        if expiring {
            let lease = session.lease;
            coord_home::event!(DEBUG, lease = %lease, "a release is owed for longer than the TTL: the lease runs out");
            return std::future::pending().await;
        }
        session.core.home.sleep_until(renewed + session.ttl / 3).await;
        loop {
            match round(session).await {
                Ok(()) => {
                    backoff.reset();
                    break;
                }
                Err(error) if error.kind() == ErrorKind::LeaseLost => return,
                Err(error) => {
                    let lease = session.lease;
                    coord_home::event!(DEBUG, lease = %lease, kind = %error.kind(), "renewal failed");
                    session.core.home.sleep(backoff.pause()).await;
                }
            }
            if session.state.lock().expiring {
                break;
            }
        }
    }
}

/// One round: a renewal, and one look at the lease's keys for all handles.
async fn round(session: &Session) -> Result<()> {
    renew(session).await?;
    let numbers = session.written();
    let look = session.core.home.timeout(session.attempt_timeout(), session.core.store.lease(session.lease)).await;
    match look {
        Ok(Ok(Some(info))) if info.keys.binary_search(&session.key).is_ok() => session.notice_removed(&numbers, &info.keys),
        // Without its own key the session cannot fence its writes.
        Ok(Ok(Some(_))) => session.lose(Loss::Removed),
        Ok(Ok(None)) => session.lose(Loss::Expired),
        // The renewal counted; the next round looks again.
        Ok(Err(_)) | Err(_) => {}
    }
    Ok(())
}

/// Renews once. The deadline counts from when the request was sent.
pub(super) async fn renew(session: &Session) -> Result<()> {
    if session.state.lock().expiring {
        return Err(session.lost_error(Loss::Expired));
    }
    let sent = session.now();
    let answer = session.core.home.timeout(session.attempt_timeout(), session.core.store.keep_alive(session.lease)).await;
    let answer = answer.unwrap_or_else(|_| {
        let error = Error::new(ErrorKind::Timeout, "session", "the renewal was not answered in time");
        session.core.telemetry.failed(&error);
        Err(error)
    });
    let (left, failure) = {
        let mut state = session.state.lock();
        state.failure = answer.as_ref().err().cloned();
        (state.deadline.saturating_duration_since(session.now()), state.failure.clone())
    };
    session.core.telemetry.renewal(failure.as_ref(), left, session.ttl);
    match answer {
        Ok(granted) => {
            session.renewed(sent, granted);
            Ok(())
        }
        Err(error) => {
            if error.kind() == ErrorKind::LeaseLost {
                session.lose(Loss::Expired);
            }
            Err(error)
        }
    }
}

/// Watches the session's own key: a lease that dies is known at once, not at the next renewal.
async fn watch(session: &Session, made: Revision) -> Loss {
    let mut feed = Resuming::after(Arc::clone(&session.core), Span::key(session.key.clone()), made);
    loop {
        match feed.next().await {
            Ok(Feed::Batch(batch)) if batch.changes.iter().any(|change| matches!(change, Change::Delete { .. })) => return Loss::Expired,
            Ok(Feed::Resync { state, .. }) if state.entries.is_empty() => return Loss::Expired,
            Ok(_) => {}
            // The renewals notice a loss as well, only later.
            Err(_) => return std::future::pending().await,
        }
    }
}

/// Ends when nothing needed the session for one TTL (R9a); at once when the provider is gone.
async fn retire(session: &Session) {
    loop {
        let idle = {
            let state = session.state.lock();
            (state.is_idle() && session.debts.is_empty()).then_some((state.idle_since, state.entered))
        };
        let Some((idle_since, entered)) = idle else {
            session.changed.notified().await;
            continue;
        };
        tokio::select! {
            biased;
            () = session.changed.notified() => continue,
            () = session.core.home.sleep_until(idle_since + session.ttl) => {}
            // Who waits for it to be made has yet to enter, and does not need the provider for that.
            () = session.core.abandoned.cancelled(), if entered => {}
        }
        let mut state = session.state.lock();
        if state.is_idle() && session.debts.is_empty() {
            state.shut = true;
            return;
        }
    }
}

/// Revokes the lease of a session that is over: at the next contact, and never renewed meanwhile (R9a).
async fn revoke(session: &Session) {
    let mut backoff = Backoff::new();
    loop {
        let attempt = session.core.home.timeout(session.attempt_timeout(), session.core.revoke(session.lease));
        let answer = tokio::select! {
            biased;
            answer = attempt => answer,
            () = session.core.closing.cancelled() => return,
        };
        match answer {
            Ok(Ok(())) => return,
            Ok(Err(error)) if is_permanent(&error) => return,
            _ => {}
        }
        tokio::select! {
            biased;
            () = session.core.home.sleep(backoff.pause()) => {}
            () = session.core.closing.cancelled() => return,
            // Nobody is left who could care; unrenewed, the lease ends by itself.
            () = session.core.abandoned.cancelled() => return,
        }
    }
}
