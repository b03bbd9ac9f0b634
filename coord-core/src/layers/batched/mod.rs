//! Many callers' plain reads and writes in few requests.

mod apart;
mod queue;

use std::num::NonZeroUsize;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use coord_api::store::{Effect, Entry, Op, OpReply, Range, RangeReply, Span, Store, Txn, TxnReply};
use coord_api::{Error, ErrorKind, Outcome, Result, Revision};
use coord_home::Home;
use parking_lot::Mutex;

use self::apart::Apart;
use self::queue::{Answer, CallQueue, OPS, Shared};
use crate::error::homeless;
use crate::gather::gather;

/// What reads of a key that holds more than this go alone for a while: 128 of them would be an
/// answer of 2 MiB.
const LARGE_ENTRY: usize = 16 << 10;

/// A store that sends together what many callers ask for at the same time, for services with more
/// callers than requests that a server likes to answer (R82, R83).
///
/// - **What is sent together.** Puts and deletes of one key without compares and without a lease,
///   in one transaction with one another; reads of one key at the present, in one with one another;
///   nothing else, and never a read beside a write: it would carry the write's revision without its
///   effect, and a watch from there would miss it (R17). Readers who ask the same at once share one
///   answer. A key's second write waits for the next batch, for each is a version of its own (R11,
///   R18). At most 128 operations and 1 MiB go in one.
/// - **When.** Natural batching: who finds the line free goes at once, and who comes while a batch
///   is under way goes with the next one. There are [`lanes`](Self::with_lanes) for as many batches
///   under way at a time, of reads and of writes each.
/// - **Answers** are those that each call would have got alone, but that calls in one transaction
///   share its revision, and that a change of one key arrives in one batch of a watch with those
///   of others.
/// - **Failures** (R83). Where a batch was refused for what it holds (`InvalidArgument`,
///   `PermissionDenied`, `Exhausted`, and not applied), each of its calls is sent again by itself
///   and gets an answer of its own; the key that is refused then goes alone for 10 s. Where the
///   answer to reads failed by its size or for another reason that is not one of reach, each is
///   read again by itself, and what is larger than 16 KiB goes alone for 10 s. Any other failure
///   goes to each call as it is: a batch whose answer was lost leaves each of its writes `Unknown`
///   (R2).
///
/// A call takes as long as the batches before it and its own: the store inside bounds each of them,
/// as [`Bounded`](super::Bounded) does. Of a key that many write at once, one write goes in each.
///
/// Batches are sent at a [`Home`], so that no caller drives what others wait for. Queued are the
/// calls under way, and nothing else.
///
/// Where it stands: around the store itself, inside of [`Retry`](super::Retry), which then repeats
/// for each caller by itself.
///
/// # Cancel safety
///
/// A call that is dropped before its batch is sent never is. Dropped later, a write may be applied,
/// as without this layer.
///
/// # Examples
///
/// ```
/// use coord_api::store::{Op, Range, Store, Txn};
/// use coord_core::layers::Batched;
/// use coord_memory::MemoryStore;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> coord_api::Result<()> {
/// let store = Batched::new(MemoryStore::new());
/// let put = |key: &'static str| store.txn(Txn::new().then(Op::put(key, "1")));
/// // Whether the two meet in one batch is a matter of time; what they get is the same.
/// let (one, other) = tokio::try_join!(put("one"), put("other"))?;
/// assert!(one.succeeded && other.succeeded);
/// assert_eq!(store.range(Range::key("one")).await?.entries.len(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Batched<S> {
    store: Arc<S>,
    home: Home,
    lanes: NonZeroUsize,
    reads: Arc<Line>,
    writes: Arc<Line>,
}

/// The calls of one kind.
#[derive(Debug, Default)]
struct Line {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    queue: CallQueue,
    /// How many tasks send batches.
    lanes: usize,
    apart: Apart,
}

impl<S: Store> Batched<S> {
    /// Around `store`, with one lane for reads and one for writes.
    pub fn new(store: S) -> Self {
        Batched {
            store: Arc::new(store),
            home: Home::shared(),
            lanes: NonZeroUsize::MIN,
            reads: Arc::default(),
            writes: Arc::default(),
        }
    }

    /// How many batches of reads, and how many of writes, are under way at most: more lanes hide a
    /// long way to the store, and make smaller batches.
    #[must_use]
    pub fn with_lanes(mut self, lanes: NonZeroUsize) -> Self {
        self.lanes = lanes;
        self
    }

    /// Sends from this [`Home`] instead of the one that all layers of the process share.
    #[must_use]
    pub fn with_home(mut self, home: Home) -> Self {
        self.home = home;
        self
    }

    /// The store inside.
    pub fn inner(&self) -> &S {
        &self.store
    }

    /// Has a call of one key sent with others; `None` where it is to be sent alone.
    async fn send(
        &self,
        line: &Arc<Line>,
        operation: &'static str,
        key: &Bytes,
        op: Op,
    ) -> Result<Option<(OpReply, Revision)>> {
        self.home.ready().map_err(|error| homeless(operation, error))?;
        let now = self.home.now();
        let effect = effect(&op);
        loop {
            let (answer, starts) = {
                let mut state = line.state.lock();
                if !state.apart.is_empty() && state.apart.is_apart(key, now) {
                    return Ok(None);
                }
                let answer = state.queue.add(key.clone(), op.clone());
                let starts = state.lanes < self.lanes.get();
                state.lanes += usize::from(starts);
                (answer, starts)
            };
            if starts {
                let lane = Lane {
                    line: Arc::clone(line),
                    store: Arc::clone(&self.store),
                    home: self.home.clone(),
                    ended: false,
                };
                self.home.spawn(lane.run()).map_err(|error| homeless(operation, error))?;
            }
            match answer.await {
                Ok(Answer::Done(reply, revision)) => return Ok(Some((reply, revision))),
                Ok(Answer::Failed(error)) => return Err(error.in_operation(operation)),
                Ok(Answer::Alone) => return Ok(None),
                Ok(Answer::NotSent) => {}
                Err(_) => {
                    let error = Error::new(
                        ErrorKind::Internal,
                        operation,
                        "what sent it with others ended by accident: the store panicked, or a runtime ended",
                    );
                    return Err(error.with_outcome(effect.in_doubt()));
                }
            }
        }
    }
}

impl Line {
    fn set_apart(&self, key: Bytes, home: &Home) {
        self.state.lock().apart.add(key, home.now());
    }
}

fn effect(op: &Op) -> Effect {
    if matches!(op, Op::Range(_)) { Effect::Read } else { Effect::Write }
}

/// Whether it was refused for what it holds, and so may be for the sake of one of several.
fn is_refused(error: &Error) -> bool {
    use ErrorKind::{Exhausted, InvalidArgument, PermissionDenied};
    error.outcome() == Outcome::NotApplied
        && matches!(error.kind(), InvalidArgument | PermissionDenied | Exhausted)
}

fn is_large(reply: &RangeReply) -> bool {
    reply.entries.iter().map(Entry::bytes).sum::<usize>() > LARGE_ENTRY
}

/// What sends the batches of one line, one after the other.
struct Lane<S> {
    line: Arc<Line>,
    store: Arc<S>,
    home: Home,
    /// Whether it ended as it should.
    ended: bool,
}

impl<S: Store> Lane<S> {
    /// Sends what waits, until nothing does.
    async fn run(mut self) {
        loop {
            gather(OPS, || self.line.state.lock().queue.len()).await;
            let batch = {
                let mut state = self.line.state.lock();
                let batch = state.queue.take_batch();
                if batch.is_empty() {
                    state.lanes -= 1;
                    self.ended = true;
                    return;
                }
                batch
            };
            self.send(batch).await;
        }
    }

    async fn send(&self, batch: Vec<Shared>) {
        let reads = batch.iter().any(|shared| effect(&shared.op) == Effect::Read);
        let ops = batch.iter().map(|shared| shared.op.clone()).collect();
        match self.store.txn(Txn { then: ops, ..Txn::new() }).await {
            Ok(reply) => {
                for (shared, answer) in batch.into_iter().zip(reply.replies) {
                    if matches!(&answer, OpReply::Range(reply) if is_large(reply)) {
                        self.line.set_apart(shared.key.clone(), &self.home);
                    }
                    shared.tell(&Answer::Done(answer, reply.revision));
                }
            }
            Err(error) => {
                let of_one =
                    is_refused(&error) || reads && !error.is_transient() && error.kind() != ErrorKind::Closed;
                let answer = match batch.as_slice() {
                    [shared] => {
                        if of_one {
                            self.line.set_apart(shared.key.clone(), &self.home);
                        }
                        Answer::Failed(error)
                    }
                    _ if of_one => Answer::Alone,
                    _ => Answer::Failed(error),
                };
                batch.into_iter().for_each(|shared| shared.tell(&answer));
            }
        }
    }
}

impl<S> Drop for Lane<S> {
    /// Ended by accident, with its runtime or by a panic of the store: what it has sent is in
    /// doubt, and what waits is queued again by those who wait, one of whom starts another lane.
    fn drop(&mut self) {
        if !self.ended {
            let mut state = self.line.state.lock();
            state.lanes -= 1;
            state.queue.send_back();
        }
    }
}

/// A write that may share a transaction with others, and its key.
fn shared(txn: &Txn) -> Option<(Bytes, Op)> {
    match (txn.compares.as_slice(), txn.then.as_slice(), txn.otherwise.as_slice()) {
        ([], [op @ (Op::Put { key, lease: None, .. } | Op::Delete { key })], []) => {
            Some((key.clone(), op.clone()))
        }
        _ => None,
    }
}

#[async_trait]
impl<S: Store> Store for Batched<S> {
    async fn range(&self, range: Range) -> Result<RangeReply> {
        const OPERATION: &str = "store.range";
        let key = match &range {
            Range { span: Span::Key(key), at: None, .. } => key.clone(),
            _ => return self.store.range(range).await,
        };
        range.validate()?;
        if let Some((reply, revision)) =
            self.send(&self.reads, OPERATION, &key, Op::Range(range.clone())).await?
        {
            let reply = TxnReply { succeeded: true, revision, replies: vec![reply] };
            return reply.try_range(0).cloned();
        }
        let answer = self.store.range(range).await;
        let apart = match &answer {
            Ok(reply) => is_large(reply),
            Err(error) => is_refused(error),
        };
        if apart {
            self.reads.set_apart(key, &self.home);
        }
        answer
    }

    async fn txn(&self, txn: Txn) -> Result<TxnReply> {
        let Some((key, op)) = shared(&txn) else { return self.store.txn(txn).await };
        txn.validate()?;
        if let Some((reply, revision)) = self.send(&self.writes, "store.txn", &key, op).await? {
            return Ok(TxnReply { succeeded: true, revision, replies: vec![reply] });
        }
        let answer = self.store.txn(txn).await;
        if answer.as_ref().is_err_and(is_refused) {
            self.writes.set_apart(key, &self.home);
        }
        answer
    }

    coord_api::forward_store! {
        self => self.store;
        watch, grant_lease, keep_alive, lease, revoke_lease, status, close
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use coord_api::LeaseId;
    use coord_memory::MemoryStore;
    use futures_util::future::join_all;
    use futures_util::{FutureExt, poll};
    use tokio::sync::Semaphore;
    use tokio::time::advance;

    use super::*;

    /// A store that answers nothing before it is let, notes what it is asked, and may fail.
    #[derive(Clone, Debug)]
    struct Held {
        good: MemoryStore,
        permits: Arc<Semaphore>,
        asked: Arc<Mutex<Vec<Txn>>>,
        /// Each transaction with one of these keys fails so; without an error it panics.
        failing: Arc<Mutex<(HashSet<Bytes>, Option<Error>)>>,
    }

    impl Held {
        fn new(permits: usize) -> Self {
            Held {
                good: MemoryStore::new(),
                permits: Arc::new(Semaphore::new(permits)),
                asked: Arc::default(),
                failing: Arc::default(),
            }
        }

        fn fail(&self, key: &'static str, error: Option<Error>) {
            *self.failing.lock() = ([Bytes::from(key)].into(), error);
        }

        /// How many operations each request had, and forgets them.
        fn asked(&self) -> Vec<usize> {
            self.asked.lock().drain(..).map(|txn| txn.then.len()).collect()
        }
    }

    #[async_trait]
    impl Store for Held {
        async fn range(&self, range: Range) -> Result<RangeReply> {
            let reply = self.txn(Txn::new().then(Op::Range(range))).await?;
            reply.try_range(0).cloned()
        }

        async fn txn(&self, txn: Txn) -> Result<TxnReply> {
            self.asked.lock().push(txn.clone());
            self.permits.acquire().await.unwrap().forget();
            let failed = {
                let failing = self.failing.lock();
                let spans = txn.then.iter().map(|op| match op {
                    Op::Range(range) => range.span.start().to_vec(),
                    Op::Put { key, .. } | Op::Delete { key } => key.to_vec(),
                });
                let fails = spans.into_iter().any(|key| failing.0.contains(&Bytes::from(key)));
                fails.then(|| failing.1.clone().expect("on purpose"))
            };
            match failed {
                Some(error) => Err(error),
                None => self.good.txn(txn).await,
            }
        }

        coord_api::forward_store! {
            self => self.good;
            watch, grant_lease, keep_alive, lease, revoke_lease, status, close
        }
    }

    fn put(key: impl Into<Bytes>) -> Txn {
        Txn::new().then(Op::put(key, "v"))
    }

    /// Lets every task run until it waits.
    async fn settle() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    /// Over a store that has answered nothing yet, with a first write under way, so that what comes
    /// waits.
    async fn busy() -> (Batched<Held>, Held, tokio::task::JoinHandle<Result<TxnReply>>) {
        let held = Held::new(0);
        let store = Batched::new(held.clone()).with_home(Home::callers());
        let other = store.clone();
        let first = tokio::spawn(async move { other.txn(put("first")).await });
        settle().await;
        assert_eq!(held.asked(), [1], "who finds the line free goes at once");
        (store, held, first)
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_while_one_is_under_way_goes_together() {
        let (store, held, first) = busy().await;
        let mut calls: Vec<_> = (0..200).map(|n| Box::pin(store.txn(put(format!("k{n}"))))).collect();
        calls.push(Box::pin(store.txn(Txn::new().then(Op::delete("first")))));
        calls.push(Box::pin(store.txn(Txn::new().then(Op::delete("none")))));
        for call in &mut calls {
            assert!(poll!(call).is_pending());
        }
        held.permits.add_permits(9);
        let replies: Vec<_> = join_all(calls).await.into_iter().map(Result::unwrap).collect();
        assert_eq!(held.asked(), [128, 74]);
        let mut revision = first.await.unwrap().unwrap().revision;
        for together in [&replies[..128], &replies[128..]] {
            revision = revision.next();
            assert!(together.iter().all(|reply| reply.revision == revision));
        }
        assert_eq!(replies[0].replies, [OpReply::Put]);
        assert_eq!((replies[200].existed(0), replies[201].existed(0)), (Some(true), Some(false)));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_else_shares_a_request() {
        let (store, held, first) = busy().await;
        let alone = [
            put("k").when(coord_api::store::Compare::Absent("a".into())),
            put("k").otherwise(Op::delete("k")),
            put("k").then(Op::put("l", "v")),
            Txn::new().then(Op::Range(Range::key("k"))),
            Txn::new().then(Op::put_leased("k", "v", LeaseId::new(7))),
        ];
        for txn in alone {
            let mut call = store.txn(txn);
            assert!(poll!(&mut call).is_pending());
        }
        for range in [Range::prefix("k"), Range::key("k").with_at(Revision::new(1))] {
            let mut call = store.range(range);
            let _ = poll!(&mut call);
        }
        assert_eq!(held.asked(), [1, 1, 2, 1, 1, 1, 1], "each went at once");
        // And of those that wait, no read with a write.
        let (mut read, mut write) = (store.range(Range::key("k")), store.txn(put("k")));
        assert!(poll!(&mut read).is_pending() && poll!(&mut write).is_pending());
        settle().await;
        assert_eq!(held.asked(), [1], "the line of reads is another one");
        held.permits.add_permits(9);
        assert_eq!(read.await.unwrap().entries.len(), 0);
        let first = first.await.unwrap().unwrap();
        assert_eq!(write.await.unwrap().revision, first.revision.next());
    }

    #[tokio::test(start_paused = true)]
    async fn two_writes_of_a_key_are_two_versions() {
        let (store, held, first) = busy().await;
        held.permits.add_permits(9);
        let writes = join_all((0..3).map(|_| store.txn(put("k")))).await;
        let revisions: HashSet<_> = writes.into_iter().map(|reply| reply.unwrap().revision).collect();
        assert_eq!(revisions.len(), 3);
        first.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_the_same_at_once_shares_the_answer() {
        let held = Held::new(99);
        let store = Batched::new(held.clone()).with_home(Home::callers());
        store.txn(put("k")).await.unwrap();
        let reads = join_all((0..50).map(|_| store.range(Range::key("k")))).await;
        assert!(reads.into_iter().all(|reply| reply.unwrap().entries.len() == 1));
        assert_eq!(held.asked(), [1, 1]);
    }

    fn refusal(kind: ErrorKind, outcome: Outcome) -> Option<Error> {
        Some(Error::new(kind, "store.txn", "on purpose").with_outcome(outcome))
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_fails_its_own_caller_only_and_then_goes_alone() {
        use ErrorKind::{Exhausted, InvalidArgument, PermissionDenied};
        for kind in [InvalidArgument, PermissionDenied, Exhausted] {
            let (store, held, first) = busy().await;
            held.fail("bad", refusal(kind, Outcome::NotApplied));
            held.permits.add_permits(999);
            let (one, bad, other) =
                tokio::join!(store.txn(put("one")), store.txn(put("bad")), store.txn(put("other")));
            assert_eq!((one.is_ok(), bad.unwrap_err().kind(), other.is_ok()), (true, kind, true));
            assert_eq!(held.asked(), [3, 1, 1, 1], "together, and then each alone");
            let (one, bad) = tokio::join!(store.txn(put("one")), store.txn(put("bad")));
            assert_eq!((one.is_ok(), bad.is_ok()), (true, false));
            assert_eq!(held.asked(), [1, 1], "it costs others nothing any more");
            held.fail("none", None);
            advance(apart::APART).await;
            let (one, bad) = tokio::join!(store.txn(put("one")), store.txn(put("bad")));
            assert_eq!((one.is_ok(), bad.is_ok()), (true, true));
            assert_eq!(held.asked(), [2], "for a while");
            first.await.unwrap().unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn any_other_failure_is_everyones() {
        for (kind, outcome) in
            [(ErrorKind::Unavailable, Outcome::NotApplied), (ErrorKind::Timeout, Outcome::Unknown)]
        {
            let (store, held, first) = busy().await;
            held.fail("bad", refusal(kind, outcome));
            held.permits.add_permits(999);
            let answers = tokio::join!(store.txn(put("one")), store.txn(put("bad")));
            for error in [answers.0.unwrap_err(), answers.1.unwrap_err()] {
                assert_eq!((error.kind(), error.outcome()), (kind, outcome));
            }
            assert_eq!(held.asked(), [2]);
            let answers = tokio::join!(store.range(Range::key("one")), store.range(Range::key("bad")));
            assert_eq!(answers.0.unwrap_err().kind(), kind);
            assert_eq!(answers.1.unwrap_err().operation(), "store.range");
            first.await.unwrap().unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn reads_whose_answer_does_not_fit_are_read_alone() {
        let held = Held::new(999);
        let store = Batched::new(held.clone()).with_home(Home::callers());
        store.txn(Txn::new().then(Op::put("large", vec![b'.'; LARGE_ENTRY]))).await.unwrap();
        held.asked();
        held.fail("large", refusal(ErrorKind::Internal, Outcome::NotApplied));
        let answers = tokio::join!(store.range(Range::key("large")), store.range(Range::key("one")));
        assert_eq!((answers.0.is_ok(), answers.1.is_ok()), (false, true));
        assert_eq!(held.asked(), [2, 1, 1]);
        held.fail("none", None);
        store.range(Range::key("large")).await.unwrap();
        held.asked();
        let answers = tokio::join!(store.range(Range::key("large")), store.range(Range::key("one")));
        assert_eq!((answers.0.is_ok(), answers.1.is_ok()), (true, true));
        assert_eq!(held.asked(), [1, 1], "what is large goes alone");
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_away_before_it_is_sent_takes_the_call_back() {
        let (store, held, first) = busy().await;
        let (mut gone, mut stays) = (store.txn(put("gone")), store.txn(put("stays")));
        assert!(poll!(&mut gone).is_pending() && poll!(&mut stays).is_pending());
        drop(gone);
        held.permits.add_permits(9);
        stays.await.unwrap();
        first.await.unwrap().unwrap();
        assert_eq!(store.range(Range::key("gone")).await.unwrap().entries, []);
        // Left alone, a call holds up nobody, whether it waits or was the first one.
        let mut left = store.txn(put("left"));
        assert!(poll!(&mut left).is_pending());
        assert!(store.txn(put("k")).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_invalid_is_refused_before_it_waits() {
        let (store, held, _first) = busy().await;
        let too_large = Txn::new().then(Op::put("k", vec![0; (1 << 20) + 1]));
        for txn in [put(""), too_large] {
            let error = store.txn(txn).now_or_never().unwrap().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        }
        let error = store.range(Range::key("")).now_or_never().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert_eq!(held.asked(), [0; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn when_the_store_panics_what_was_sent_is_in_doubt_and_the_rest_is_sent() {
        let (store, held, first) = busy().await;
        held.fail("first", None);
        held.permits.add_permits(9);
        assert!(store.txn(put("k")).await.is_ok());
        let error = first.await.unwrap().unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Internal, Outcome::Unknown));
    }

    #[test]
    fn when_its_runtime_ends_another_one_sends() {
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let held = Held::new(0);
        let store = Batched::new(held.clone()).with_home(Home::callers());
        let ending = runtime();
        let (mut sent, mut waits) = (store.txn(put("sent")), store.txn(put("waits")));
        ending.block_on(async {
            assert!(poll!(&mut sent).is_pending());
            settle().await;
            assert!(poll!(&mut waits).is_pending());
        });
        drop(ending);
        held.permits.add_permits(9);
        runtime().block_on(async {
            assert!(waits.await.is_ok());
            assert_eq!(sent.await.unwrap_err().outcome(), Outcome::Unknown);
        });
    }
}
