//! Sends writes of one session that come at once together.

use std::time::Duration;

use coord_api::store::{Compare, Txn, TxnReply};
use coord_api::{Error, ErrorKind, Loss, Outcome, Result};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::oneshot;

use super::batch::{BatchAnswer, QueuedWrite, WRITES};
use super::session::{Doubt, Session, Written};
use crate::gather::gather;

/// How long writes wait for the batch before them. One that takes longer hangs, and the next batch
/// goes beside it.
const PATIENCE: Duration = Duration::from_millis(100);

/// As [`Session::write`], for a write that needs no answer of its operations: together with others
/// of this session that come while one is on its way. All are applied at one revision; where one's
/// compares do not hold, each is sent by itself.
///
/// # Errors
///
/// As [`Session::write`].
///
/// # Cancel safety
///
/// As [`Session::write`].
pub(super) async fn write_batched(
    session: &Session,
    build: &(dyn Fn() -> Txn + Send + Sync),
) -> Result<Written> {
    let (number, answer) = session.batch.add(build());
    let mut queued = Queued { session, number, settled: false, answer };
    let answer = tokio::select! {
        biased;
        answer = &mut queued.answer => answer.ok(),
        // Nobody sends it any more.
        _ = session.over.wait() => None,
    };
    match queued.take(answer) {
        BatchAnswer::Done(revision) => {
            Ok(Written::Done(TxnReply { succeeded: true, revision, replies: Vec::new() }))
        }
        BatchAnswer::Failed(error) => Err(error),
        BatchAnswer::Alone => session.write(build).await,
    }
}

/// Sends what waits, for as long as the session lives. The session's task does: so no caller that
/// goes away or stands still holds up the others.
pub(super) async fn send_batches(session: &Session) {
    let mut under_way = FuturesUnordered::new();
    loop {
        if under_way.is_empty() {
            gather(WRITES, || session.batch.len()).await;
            match next_batch(session) {
                Some((batch, doubt)) => under_way.push(send(session, batch, doubt)),
                None => session.batch.added().await,
            }
            continue;
        }
        tokio::select! {
            biased;
            _ = under_way.next() => {}
            () = session.ground.home.sleep(PATIENCE) => if let Some((batch, doubt)) = next_batch(session) {
                under_way.push(send(session, batch, doubt));
            },
        }
    }
}

/// What goes next, and under which fence: both at one moment, so that a fence that is put up later
/// stops all of it.
fn next_batch(session: &Session) -> Option<(Vec<QueuedWrite>, Doubt<'_>)> {
    session.batch.take(|| session.doubt())
}

async fn send(session: &Session, mut batch: Vec<QueuedWrite>, doubt: Doubt<'_>) {
    let mut txn = Txn::new().when(Compare::Modified(session.key.clone(), doubt.fence()));
    for queued in &mut batch {
        txn.compares.append(&mut queued.txn.compares);
        txn.then.append(&mut queued.txn.then);
    }
    let answer = match session.ground.store.txn(txn).await {
        Ok(reply) if reply.succeeded => BatchAnswer::Done(reply.revision),
        Ok(_) => BatchAnswer::Alone,
        Err(error) if error.kind() == ErrorKind::LeaseLost => {
            session.lose(Loss::Expired);
            BatchAnswer::Failed(error)
        }
        // It may have been too much for one, or was refused for the sake of one.
        Err(error) if error.outcome() == Outcome::NotApplied => BatchAnswer::Alone,
        Err(error) => BatchAnswer::Failed(error),
    };
    if !matches!(&answer, BatchAnswer::Failed(error) if error.outcome() == Outcome::Unknown) {
        doubt.answered();
    }
    for queued in batch {
        // Who does not wait any more has left the write to the session's pending releases.
        let _ = queued.answer.send(answer.clone());
    }
}

/// A write that waits. Given up, it is taken back, or leaves the session in doubt where it is on
/// its way.
struct Queued<'a> {
    session: &'a Session,
    number: u64,
    /// Whether nothing of it is on its way any more.
    settled: bool,
    answer: oneshot::Receiver<BatchAnswer>,
}

impl Queued<'_> {
    fn take(&mut self, answer: Option<BatchAnswer>) -> BatchAnswer {
        if let Some(answer) = answer {
            self.settled = true;
            return answer;
        }
        // The session is over. What was sent and not answered stays in doubt.
        let loss = self.session.check().unwrap_or(Loss::Expired);
        let outcome =
            if self.session.batch.take_back(self.number) { Outcome::NotApplied } else { Outcome::Unknown };
        self.settled = outcome == Outcome::NotApplied;
        let error: Error = self.session.lost_error(loss);
        BatchAnswer::Failed(error.with_outcome(outcome))
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        if !self.settled && !self.session.batch.take_back(self.number) {
            drop(self.session.doubt());
        }
    }
}
