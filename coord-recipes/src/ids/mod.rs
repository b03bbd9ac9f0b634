//! Instance ids: the smallest free numbers, claimed for many callers at once (R41 to R44).

mod keeper;

use std::collections::{BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use coord_api::handle::Leased as _;
use coord_api::store::{Change, Compare, Entry, Op, OpReply, Range, RangeReply, Span, Txn, round_ttl};
use coord_api::{Error, ErrorKind, IdOptions, InstanceId, InstanceIdAllocator, Outcome, Result, Wait, key};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use coord_core::session::{LeasedEntry, Placed, SessionRef, Token};
use coord_core::telemetry::Subject;
use coord_core::watch::{Delivery, ResumingWatch};
use coord_core::{Client, Limit, backoff, gather, homeless, keys};

pub use keeper::{InstanceIdKeeper, KeptId};

/// What an instance id is called in logs and metrics.
pub(crate) const CONTRACT: &str = "id";

/// Ids that one claim takes at most: each needs a compare, and a transaction has room for 128.
const CLAIM: usize = 100;

/// Instance ids over a store.
#[derive(Debug)]
pub(crate) struct Allocators {
    client: Client,
    /// Bounded by the number of services that the program allocates for.
    pools: Mutex<HashMap<String, Arc<ServiceIds>>>,
}

/// The callers of one service, and the one task that serves them.
#[derive(Debug)]
struct ServiceIds {
    client: Client,
    service: String,
    directory: Bytes,
    range: RangeInclusive<u32>,
    waiting: Mutex<Waitlist>,
    /// A caller came or went.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Waitlist {
    /// Bounded by the calls under way.
    requests: Vec<IdRequest>,
    /// Whether the task runs.
    served: bool,
}

#[derive(Debug)]
struct IdRequest {
    ttl: Duration,
    /// Whether to wait where no id is free.
    patient: bool,
    /// Tells the caller that it waits, once none was free.
    queued: Option<oneshot::Sender<()>>,
    answer: oneshot::Sender<Result<(u32, LeasedEntry)>>,
}

impl Allocators {
    pub(crate) fn new(client: Client) -> Self {
        Allocators { client, pools: Mutex::default() }
    }

    fn pool(
        &self,
        operation: &'static str,
        service: &str,
        range: &RangeInclusive<u32>,
    ) -> Result<Arc<ServiceIds>> {
        let mut pools = self.pools.lock();
        if let Some(pool) = pools.get(service) {
            if pool.range != *range {
                return Err(Error::invalid_argument(
                    operation,
                    "this provider allocates for this service from another range already",
                ));
            }
            return Ok(Arc::clone(pool));
        }
        let pool = ServiceIds {
            client: self.client.clone(),
            service: service.to_owned(),
            directory: keys::ids(service),
            range: range.clone(),
            waiting: Mutex::default(),
            changed: Notify::new(),
        };
        let pool = Arc::new(pool);
        pools.insert(service.to_owned(), Arc::clone(&pool));
        Ok(pool)
    }
}

#[async_trait]
impl InstanceIdAllocator for Allocators {
    async fn acquire_id_with(&self, service: &str, options: IdOptions) -> Result<InstanceId> {
        const OPERATION: &str = "allocator.acquire_id";
        key::check_segment(OPERATION, service)?;
        let ttl = round_ttl(OPERATION, options.ttl)?;
        if options.range.is_empty() || *options.range.end() < 1 {
            return Err(Error::invalid_argument(
                OPERATION,
                "a range of ids that is empty, or whose greatest id is less than 1",
            ));
        }
        let limit = Limit::of(self.client.home(), options.wait);
        let acquire = async {
            let pool = self.pool(OPERATION, service, &options.range)?;
            loop {
                match pool.acquire(ttl, options.wait, limit).await? {
                    Some(acquired) => return Ok(acquired),
                    // What serves the pool went down with the runtime that it ran on: it is started
                    // again.
                    None if self.client.is_closed() => return Err(Error::closed(OPERATION)),
                    None => tokio::task::yield_now().await,
                }
            }
        };
        let (id, entry) = self.client.run_on(OPERATION, service, Outcome::NotApplied, acquire).await?;
        entry.held();
        Ok(InstanceId::new(service, id, entry))
    }
}

impl ServiceIds {
    /// Asks for an id and waits for it; `None` where nobody will answer.
    async fn acquire(
        self: &Arc<Self>,
        ttl: Duration,
        wait: Wait,
        limit: Limit,
    ) -> Result<Option<(u32, LeasedEntry)>> {
        const OPERATION: &str = "allocator.acquire_id";
        let home = self.client.home();
        // Declared before the answer, and so dropped after it.
        let _leaving = Leaving(self);
        let (answer, mut answered) = oneshot::channel();
        let (queued, waits) = oneshot::channel();
        self.ask(IdRequest { ttl, patient: wait != Wait::Never, queued: Some(queued), answer })?;
        let first = async {
            tokio::select! {
                biased;
                answer = &mut answered => Ok(Some(answer)),
                Ok(()) = waits => Ok(None),
            }
        };
        let answer = match limit.answer(home, OPERATION, first).await? {
            Some(answer) => answer,
            None => limit.queue(home, OPERATION, async { Ok(answered.await) }).await?,
        };
        answer.ok().transpose()
    }

    /// Queues a request, and starts the task that serves it where none runs: it ends when nobody
    /// waits any more.
    fn ask(self: &Arc<Self>, request: IdRequest) -> Result<()> {
        let starts = {
            let mut waiting = self.waiting.lock();
            waiting.requests.push(request);
            !std::mem::replace(&mut waiting.served, true)
        };
        if starts {
            // Not under the lock: a given runtime that is just ending drops the task at once, here,
            // and what the task leaves behind takes the lock as well.
            let serve = Served { pool: Arc::clone(self), done: false }.serve();
            self.client.home().spawn(serve).map_err(|error| homeless("allocator.acquire_id", error))?;
        }
        self.changed.notify_one();
        Ok(())
    }

    /// Everyone who waits, or `None` when nobody does: then the task must end.
    fn take(&self, mut patient: Vec<IdRequest>) -> Option<Vec<IdRequest>> {
        let mut waiting = self.waiting.lock();
        patient.append(&mut waiting.requests);
        patient.retain(|request| !request.answer.is_closed());
        if patient.is_empty() {
            waiting.served = false;
            return None;
        }
        Some(patient)
    }

    async fn serve_while_asked(&self) {
        let mut patient = Vec::new();
        let mut freed: Option<ResumingWatch> = None;
        loop {
            // The callers of one moment come together in one claim.
            gather(CLAIM, || self.waiting.lock().requests.len()).await;
            let Some(requests) = self.take(std::mem::take(&mut patient)) else { return };
            patient = self.round(requests).await;
            if patient.is_empty() {
                freed = None;
                continue;
            }
            // None is free. The watch starts with the state, so that an id freed meanwhile is not
            // slept over (R42).
            let feed = freed.get_or_insert_with(|| self.client.follow(Span::prefix(self.directory.clone())));
            for queued in patient.iter_mut().filter_map(|request| request.queued.take()) {
                // A caller that is gone need not know.
                let _ = queued.send(());
            }
            let news = tokio::select! {
                biased;
                news = self.until_freed(feed) => news,
                () = self.changed.notified() => Ok(()),
            };
            if let Err(error) = news {
                patient.drain(..).for_each(|request| request.refuse(error.clone()));
            }
        }
    }

    /// Waits until an id may be free.
    async fn until_freed(&self, feed: &mut ResumingWatch) -> Result<()> {
        loop {
            match feed.next().await? {
                Delivery::Batch(batch)
                    if batch.changes.iter().any(|change| matches!(change, Change::Delete { .. })) =>
                {
                    return Ok(());
                }
                Delivery::Resync { state, .. } if self.free(&self.taken(&state)).next().is_some() => {
                    return Ok(());
                }
                _ => {}
            }
        }
    }

    /// Serves requests once; returns those that go on waiting.
    async fn round(&self, mut requests: Vec<IdRequest>) -> Vec<IdRequest> {
        let mut patient = Vec::new();
        let mut backoff = backoff();
        while let Some(ttl) = requests.first().map(|request| request.ttl) {
            let (mut claimants, others): (Vec<_>, Vec<_>) =
                requests.into_iter().partition(|request| request.ttl == ttl);
            requests = claimants.split_off(claimants.len().min(CLAIM));
            requests.extend(others);
            match self.claim(ttl, &mut claimants).await {
                Ok(()) => patient.extend(claimants.into_iter().filter_map(|request| {
                    if request.patient {
                        return Some(request);
                    }
                    request.refuse(Error::new(
                        ErrorKind::Exhausted,
                        "allocator.acquire_id",
                        "every id of the range is held",
                    ));
                    None
                })),
                // The lease died under the claim, and all that it wrote with it: claim again under
                // a new one.
                Err(error) if error.kind() == ErrorKind::LeaseLost => {
                    requests
                        .splice(0..0, claimants.into_iter().filter(|request| !request.answer.is_closed()));
                    self.client.home().sleep(backoff.pause()).await;
                }
                Err(error) => claimants.into_iter().for_each(|request| request.refuse(error.clone())),
            }
        }
        patient
    }

    /// Lets those join a claim who came while its session was made. Not later: what is free is read
    /// for all of them after they have asked (R41).
    fn admit_late(&self, ttl: Duration, claimants: &mut Vec<IdRequest>) {
        let mut waiting = self.waiting.lock();
        let mut room = CLAIM.saturating_sub(claimants.len());
        let (late, others): (Vec<_>, Vec<_>) =
            std::mem::take(&mut waiting.requests).into_iter().partition(|request| {
                let joins = request.ttl == ttl && room > 0;
                room -= usize::from(joins);
                joins
            });
        waiting.requests = others;
        claimants.extend(late);
    }

    /// Claims the smallest free ids for as many of the claimants as there are, in their order, and
    /// leaves the others in the list (R41).
    ///
    /// One read and one transaction; one transaction more for each conflict with another provider,
    /// which has then made progress.
    async fn claim(&self, ttl: Duration, claimants: &mut Vec<IdRequest>) -> Result<()> {
        let session = self.client.enter("allocator.acquire_id", ttl).await?;
        self.admit_late(ttl, claimants);
        let ids = Range::prefix(self.directory.clone()).with_keys_only();
        let mut state = self.client.store().range(ids.clone()).await?;
        loop {
            claimants.retain(|request| !request.answer.is_closed());
            let taken = self.taken(&state);
            let claimed: Vec<(u32, LeasedEntry)> = self
                .free(&taken)
                .take(claimants.len())
                .map(|id| {
                    let subject = Subject::new(CONTRACT, format!("{}/{id}", self.service));
                    (id, LeasedEntry::new(session.clone(), keys::id(&self.directory, id), subject))
                })
                .collect();
            if claimed.is_empty() {
                return Ok(());
            }
            let entries: Vec<&LeasedEntry> = claimed.iter().map(|(_, entry)| entry).collect();
            let claim = || {
                let absent = |txn: Txn, entry: &&LeasedEntry| {
                    txn.when(Compare::Absent(entry.key().clone())).then(self.put(entry))
                };
                entries.iter().fold(Txn::new().otherwise(Op::Range(ids.clone())), absent)
            };
            match LeasedEntry::place_all(&entries, Token::New, &claim).await? {
                Placed::Written(_) => return hand_out(claimed, claimants),
                Placed::Refused(mut reply) => {
                    state = match reply.replies.pop() {
                        Some(OpReply::Range(state)) => state,
                        _ => {
                            return Err(Error::new(
                                ErrorKind::Internal,
                                "allocator.acquire_id",
                                "the store left out an answer",
                            ));
                        }
                    };
                }
                Placed::Found(found) => {
                    if self.adopt(&session, &entries, &found).await? {
                        return hand_out(claimed, claimants);
                    }
                    state = self.client.store().range(ids.clone()).await?;
                }
            }
        }
    }

    /// Takes over what a claim wrote whose answer was lost, if all of it was found after the claim
    /// was fenced off. Says whether it did; what is not taken over is released by the session.
    ///
    /// It is written once more, because an entry found here may as well be that of an earlier claim
    /// that was given up: its release, which names the entry's revision, may be on its way.
    async fn adopt(
        &self,
        session: &SessionRef,
        entries: &[&LeasedEntry],
        found: &[Option<Entry>],
    ) -> Result<bool> {
        let on_lease = |found: &&Entry| found.lease == Some(session.lease());
        let Some(ours) =
            found.iter().map(|found| found.as_ref().filter(on_lease)).collect::<Option<Vec<&Entry>>>()
        else {
            return Ok(false);
        };
        entries.iter().zip(&ours).for_each(|(entry, found)| entry.confirm(found, Token::New));
        let again = || {
            let same = |txn: Txn, (entry, found): (&&LeasedEntry, &&Entry)| {
                txn.when(Compare::Modified(entry.key().clone(), found.modified)).then(self.put(entry))
            };
            entries.iter().zip(&ours).fold(Txn::new(), same)
        };
        Ok(matches!(LeasedEntry::place_all(entries, Token::Kept, &again).await?, Placed::Written(_)))
    }

    fn put(&self, entry: &LeasedEntry) -> Op {
        Op::put_leased(entry.key().clone(), self.client.owner().value(), entry.session().lease())
    }

    /// The ids that are held. Keys that are no ids were left by someone else.
    fn taken(&self, state: &RangeReply) -> BTreeSet<u32> {
        let id = |key: &Bytes| {
            let digits = std::str::from_utf8(keys::segment(&self.directory, key)?).ok()?;
            digits.parse::<u32>().ok().filter(|id| id.to_string() == digits)
        };
        state.entries.iter().filter_map(|entry| id(&entry.key)).collect()
    }

    /// The ids that are free, the smallest first.
    fn free<'a>(&self, taken: &'a BTreeSet<u32>) -> impl Iterator<Item = u32> + use<'a> {
        self.range.clone().filter(|id| !taken.contains(id))
    }
}

/// What serves a pool. When it ends, also by accident, nobody waits for it any more: those who
/// have no answer yet ask again, or find that the provider is closed.
struct Served {
    pool: Arc<ServiceIds>,
    /// Nobody was left to be served.
    done: bool,
}

impl Served {
    async fn serve(mut self) {
        let pool = Arc::clone(&self.pool);
        tokio::select! {
            biased;
            () = pool.client.closing() => {}
            () = pool.serve_while_asked() => self.done = true,
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let left = {
            let mut waiting = self.pool.waiting.lock();
            waiting.served = false;
            std::mem::take(&mut waiting.requests)
        };
        drop(left);
    }
}

impl IdRequest {
    fn refuse(self, error: Error) {
        // A caller that is gone needs no answer.
        let _ = self.answer.send(Err(error));
    }
}

/// Gives each claimant an id. An id whose claimant went away is dropped, and so released (R29).
///
/// # Errors
///
/// `LeaseLost` when the answer came after the local deadline: what is lost already is given to
/// nobody.
fn hand_out(claimed: Vec<(u32, LeasedEntry)>, claimants: &mut Vec<IdRequest>) -> Result<()> {
    if !claimed.iter().all(|(_, entry)| entry.state().is_held()) {
        return Err(Error::lease_lost("allocator.acquire_id", "the lease was lost before the answer came"));
    }
    let served = claimants.drain(..claimed.len().min(claimants.len()));
    for (request, grant) in served.zip(claimed) {
        let _ = request.answer.send(Ok(grant));
    }
    Ok(())
}

/// Tells the task that a caller went away, so that it does not wait for nobody.
struct Leaving<'a>(&'a ServiceIds);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.changed.notify_one();
    }
}
