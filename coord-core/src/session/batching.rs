//! Sends writes of one session that come at once together.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coord_api::store::{Compare, Entry, Txn, TxnReply};
use coord_api::{Error, ErrorKind, Loss, Outcome, Result};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::oneshot;

use super::batch::{BatchAnswer, QueuedWrite, WRITES};
use super::session::{Doubt, RefusedBy, Session, Written};
use crate::gather::gather;

/// How long writes wait for the batch before them. One that takes longer hangs, and the next batch
/// goes beside it.
const PATIENCE: Duration = Duration::from_millis(100);

/// As [`Session::write`], for a write of the entry under `key` that needs no answer of its
/// operations: together with others of this session that come while one is on its way. All are
/// applied at one revision; where one's compares do not hold, each is sent by itself. Where the
/// answer to all of them is lost they are fenced off and read back together.
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
    key: &Bytes,
    build: &(dyn Fn() -> Txn + Send + Sync),
) -> Result<Written> {
    let (number, answer) = session.batch.add(key.clone(), build());
    let mut queued = Queued { session, number, finished: false, answer };
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
        BatchAnswer::FencedOff(found) => Ok(Written::FencedOff(found)),
        BatchAnswer::Failed(error) => Err(error),
        BatchAnswer::Alone => session.write(build).await,
    }
}

/// Sends what waits, for as long as the session lives. The session's task does: so no caller that
/// goes away or stands still holds up the others.
pub(super) async fn send_batches(session: &Arc<Session>) {
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

async fn send(session: &Arc<Session>, batch: Vec<QueuedWrite>, doubt: Doubt<'_>) {
    let fence = doubt.fence();
    let mut txn =
        Txn::new().when(Compare::Modified(session.key.clone(), fence)).otherwise(session.look_at_fence());
    for queued in &batch {
        txn.compares.extend(queued.txn.compares.iter().cloned());
        txn.then.extend(queued.txn.then.iter().cloned());
    }
    let answered = session.ground.store.txn(txn).await;
    match &answered {
        Err(error) if error.outcome() == Outcome::Unknown => drop(doubt),
        _ => doubt.answered(),
    }
    let answer = match answered {
        Ok(reply) if reply.succeeded => BatchAnswer::Done(reply.revision),
        Ok(mut reply) => match session.refusal(fence, reply.replies.pop()) {
            Ok(RefusedBy::Fence) => return session.batch.put_back(batch),
            Ok(RefusedBy::Compare) => BatchAnswer::Alone,
            Err(error) => BatchAnswer::Failed(error),
        },
        Err(error) if error.kind() == ErrorKind::LeaseLost => {
            session.lose(Loss::Expired);
            BatchAnswer::Failed(error)
        }
        Err(error) if error.outcome() == Outcome::Unknown => {
            if error.is_transient() {
                if let Ok(found) = fenced_off(session, &batch).await {
                    return tell(batch, found.into_iter().map(BatchAnswer::FencedOff));
                }
            }
            BatchAnswer::Failed(error)
        }
        // Each of them would meet the same.
        Err(error) if error.is_transient() => BatchAnswer::Failed(error),
        // It may have been too much for one, or was refused for the sake of one.
        Err(_) => BatchAnswer::Alone,
    };
    tell(batch, std::iter::repeat(answer));
}

/// Fences off a batch whose answer was lost, and reads back what stands under its keys: for all of
/// its callers at once, each of whom would do so otherwise.
async fn fenced_off(session: &Arc<Session>, batch: &[QueuedWrite]) -> Result<Vec<Option<Entry>>> {
    session.settle().await?;
    session.read_all(batch.iter().map(|queued| &queued.key)).await
}

fn tell(batch: Vec<QueuedWrite>, answers: impl Iterator<Item = BatchAnswer>) {
    for (queued, answer) in batch.into_iter().zip(answers) {
        // Who does not wait any more has left the write to the session's pending releases.
        let _ = queued.answer.send(answer);
    }
}

/// A write that waits. Given up, it is taken back, or leaves the session in doubt where it is on
/// its way.
struct Queued<'a> {
    session: &'a Session,
    number: u64,
    /// Whether nothing of it is on its way any more.
    finished: bool,
    answer: oneshot::Receiver<BatchAnswer>,
}

impl Queued<'_> {
    fn take(&mut self, answer: Option<BatchAnswer>) -> BatchAnswer {
        if let Some(answer) = answer {
            self.finished = true;
            return answer;
        }
        // The session is over. What was sent and not answered stays in doubt.
        let loss = self.session.check().unwrap_or(Loss::Expired);
        let outcome =
            if self.session.batch.take_back(self.number) { Outcome::NotApplied } else { Outcome::Unknown };
        self.finished = outcome == Outcome::NotApplied;
        let error: Error = self.session.lost_error(loss);
        BatchAnswer::Failed(error.with_outcome(outcome))
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        // From here on it is put back no more, so that it is taken back, or covered by the doubt.
        self.answer.close();
        if !self.finished && !self.session.batch.take_back(self.number) {
            drop(self.session.doubt());
        }
    }
}
