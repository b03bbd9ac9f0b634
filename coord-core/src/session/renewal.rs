//! Renewing a session's lease, and looking at what hangs on it.

use coord_api::{Error, ErrorKind, Loss, Result};

use super::session::Session;
use crate::backoff::backoff_up_to;

/// Renews at the latest every third of the TTL (R31), and with each round looks for entries that
/// were removed (R32). Ends when the lease is gone.
pub(super) async fn renew_for_ever(session: &Session) {
    let home = &session.ground.home;
    let mut backoff = backoff_up_to(session.ttl / 10);
    loop {
        let (renewed, expiring) = {
            let state = session.state.lock();
            (state.renewed_at(), state.is_expiring())
        };
        if expiring {
            let lease = session.lease;
            coord_home::event!(DEBUG, lease = %lease, "a release is pending for longer than the TTL: the lease runs out");
            return std::future::pending().await;
        }
        home.sleep_until(renewed + session.ttl / 3).await;
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
                    home.sleep(backoff.pause()).await;
                }
            }
            if session.state.lock().is_expiring() {
                break;
            }
        }
    }
}

/// One round: a renewal, and one look at the lease's keys for all handles.
async fn round(session: &Session) -> Result<()> {
    renew(session).await?;
    let in_store = session.state.lock().in_store();
    let look = session
        .ground
        .home
        .timeout(session.attempt_timeout(), session.ground.store.lease(session.lease))
        .await;
    match look {
        Ok(Ok(Some(info))) if info.keys.binary_search(&session.key).is_ok() => {
            session.notice_removed(&in_store, &info.keys)
        }
        // Without its own key the session cannot fence its writes.
        Ok(Ok(Some(_))) => session.lose(Loss::Removed),
        Ok(Ok(None)) => session.lose(Loss::Expired),
        // The renewal counted; the next round looks again.
        Ok(Err(_)) | Err(_) => {}
    }
    Ok(())
}

/// Renews once. The deadline counts from when the request was sent.
///
/// # Errors
///
/// `LeaseLost` when the lease is gone or is left to run out, or whatever kept the store from
/// answering.
pub(super) async fn renew(session: &Session) -> Result<()> {
    if session.state.lock().is_expiring() {
        return Err(session.lost_error(Loss::Expired));
    }
    let (ground, sent) = (&session.ground, session.now());
    let answer = ground.home.timeout(session.attempt_timeout(), ground.store.keep_alive(session.lease)).await;
    let answer = answer.unwrap_or_else(|_| {
        let error = Error::new(ErrorKind::Timeout, "session", "the renewal was not answered in time");
        ground.telemetry.failed(&error);
        Err(error)
    });
    let left = {
        let (mut state, now) = (session.state.lock(), session.now());
        let left = state.left(now);
        match &answer {
            Ok(granted) => state.renewed(sent, *granted, now),
            Err(error) => state.renewal_failed(error.clone()),
        }
        left
    };
    ground.telemetry.renewal(answer.as_ref().err(), left, session.ttl);
    if answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::LeaseLost) {
        session.lose(Loss::Expired);
    }
    answer.map(drop)
}
