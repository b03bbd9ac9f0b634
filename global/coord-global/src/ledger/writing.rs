//! Appends: those that wait share one, and what is in doubt is settled first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use coord_api::store::{Compare, Op, Range, Txn};
use coord_api::{Error, ErrorKind, Fence, LeaseId, Outcome};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::error::{LedgerError, Result};
use super::keys::Keys;
use super::picture::{Doubt, Needs, Picture, binary};
use super::{Answers, Ledger, OPERATION, Shared, binary_value, json_value};
use crate::model::append::{self, Accepted, Append, Appending, Draft};
use crate::model::path::directories;
use crate::model::{
    Actor, ActorRecord, Body, EditId, Entry, Names, Node, NodeId, Refusal, RelPath, Sealed, Session,
};

/// How often an append is made anew after others wrote in between.
const TRIES: u32 = 64;

/// How many may wait for an append of one instance.
const WAITING_MAX: usize = 1_000;

/// How many appends may be in doubt at once.
const DOUBTS_MAX: usize = 64;

/// How long what was answered to a write of the API is known, at least.
const ANSWERED: Duration = Duration::from_secs(3600);

/// How many of them hang on one lease: they end together.
const ANSWERS_OF_A_LEASE: usize = 500;

/// How many keys an append may ask for before it is made.
const NEEDS_MAX: usize = 120;

/// As whom an instance writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// A caller of the API.
    Api,
    /// The leader.
    Lead,
}

/// What a write was decided by: where it is so no longer, nothing is written.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// Files, and the position at which each was seen; 0 for one that was not there.
    pub seen: BTreeMap<NodeId, u64>,
    /// Paths that are free: no file's and no directory's, and no file's that would have to be their
    /// directory.
    pub free: BTreeSet<RelPath>,
    /// Handles that are held: the leader's, whose work nobody does who was deposed (G13, G15). They
    /// are of the store that the ledger is in.
    pub fences: Vec<Fence>,
}

impl From<BTreeMap<NodeId, u64>> for Given {
    fn from(seen: BTreeMap<NodeId, u64>) -> Self {
        Self { seen, ..Self::default() }
    }
}

impl<const N: usize> From<[(NodeId, u64); N]> for Given {
    fn from(seen: [(NodeId, u64); N]) -> Self {
        BTreeMap::from(seen).into()
    }
}

/// What became of what a region pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// What was taken, in the order in which it was pushed. What is missing was not looked at: push
    /// it again.
    pub taken: Vec<Accepted>,
    /// The first that was not taken, with its number, if one was not.
    pub refused: Option<(u64, Refusal)>,
    /// How far the actor has come: whoever does not find that in its own chain is forked (G2).
    pub record: ActorRecord,
}

/// What became of what an instance wrote: all of it, at these positions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Where each lies, in the order in which they were given. Empty if there was nothing to write.
    pub positions: Vec<u64>,
}

/// What waits for an append.
pub(super) enum Waiting {
    Push { session: Session, events: Vec<Sealed>, reply: oneshot::Sender<Result<Pushed>> },
    Write { writer: Writer, drafts: Vec<Draft>, given: Given, reply: oneshot::Sender<Result<Written>> },
}

/// What an append in the making says to one who waits.
enum Answer {
    Pushed(Pushed),
    Written(Written),
    Refused(Refusal),
    /// It would be refused, unless it was made before under this edit.
    LookFor(EditId),
    /// There was no room for it, or something about it is not known: it waits for the next one.
    Later,
}

/// An append that was made, and what is said when it is written.
struct Made {
    /// `None` if it would write nothing.
    append: Option<Append>,
    /// To each who waits.
    answers: Vec<Answer>,
    /// What is answered to which write of the API.
    requests: Vec<(EditId, Vec<u64>)>,
    /// What must be held.
    fences: Vec<Fence>,
}

impl Ledger {
    /// Takes the edits of a region, for which `session` speaks, in order; they share an append with
    /// what others push at the same time. A repeat is Ok and gets no new position (G2), so that
    /// whatever is in doubt may be pushed again.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Store`], [`LedgerError::Contended`], and [`LedgerError::Full`] where a
    /// thousand wait already. What is not taken is said in the answer.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: what was pushed may have been taken, or may yet be.
    pub async fn push(&self, session: Session, events: Vec<Sealed>) -> Result<Pushed> {
        self.append(|reply| Waiting::Push { session, events: events.clone(), reply }).await
    }

    /// Writes as one of the names that instances share, all of `drafts` or nothing. `given` is what
    /// the caller decided by: where it is so no longer, nothing is written.
    ///
    /// A write of the API is known by the edit of its first draft for an hour at least: repeated,
    /// by whatever instance, it is Ok with the same answer and writes nothing, also where others
    /// have edited the file since. So an edit's id is given to one write and no other.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Store`] with `LeaseLost` where a fence is not held any more, and
    /// `InvalidArgument` for more than 128 of them; [`LedgerError::Refused`], with
    /// [`Refusal::Changed`] where a file has changed, [`Refusal::Taken`] where a path is not free,
    /// and [`Refusal::TooLarge`] for more than one append may write; else as [`push`](Self::push).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it may have been written, or may yet be.
    pub async fn write(&self, writer: Writer, drafts: Vec<Draft>, given: Given) -> Result<Written> {
        Fence::check(OPERATION, &given.fences)?;
        self.append(|reply| Waiting::Write { writer, drafts: drafts.clone(), given: given.clone(), reply })
            .await
    }

    /// Puts something into the queue and appends until it is answered. Whoever holds the picture
    /// appends for all; where that caller went away in the middle, the others begin anew, which is
    /// safe: what was taken is known as such.
    async fn append<T>(&self, waiting: impl Fn(oneshot::Sender<Result<T>>) -> Waiting) -> Result<T> {
        let shared = &self.shared;
        loop {
            let (reply, mut answer) = oneshot::channel();
            {
                let mut queue = shared.waiting.lock();
                if queue.len() >= WAITING_MAX {
                    return Err(LedgerError::Full { waiting: queue.len() });
                }
                queue.push(waiting(reply));
            }
            let mut picture = shared.picture.lock().await;
            loop {
                match answer.try_recv() {
                    Ok(answer) => return answer,
                    Err(oneshot::error::TryRecvError::Closed) => break,
                    Err(oneshot::error::TryRecvError::Empty) => shared.append_once(&mut picture).await,
                }
            }
        }
    }
}

impl Shared {
    /// One append for as many as have room in it; each of them is answered, or waits on. Where the
    /// caller that runs this goes away, those who wait are not answered, and begin anew.
    async fn append_once(&self, picture: &mut Picture) {
        let mut waiting = std::mem::take(&mut *self.waiting.lock());
        // Whoever went away is not waited for.
        waiting.retain(|waiting| match waiting {
            Waiting::Push { reply, .. } => !reply.is_closed(),
            Waiting::Write { reply, .. } => !reply.is_closed(),
        });
        let Err(error) = self.serve(picture, &mut waiting).await else { return };
        let each = waiting;
        let is_of_one = !matches!(&error, LedgerError::Store(error) if error.is_transient());
        if is_of_one && each.len() > 1 {
            // Something that one of them asks for: it holds nobody else up.
            for waiting in each {
                let mut one = vec![waiting];
                if let Err(error) = self.serve(picture, &mut one).await {
                    one.into_iter().for_each(|waiting| tell(waiting, &error));
                }
            }
        } else {
            each.into_iter().for_each(|waiting| tell(waiting, &error));
        }
    }

    /// Appends for those, and answers them; they are left where it fails.
    async fn serve(&self, picture: &mut Picture, those: &mut Vec<Waiting>) -> Result<()> {
        let answers = self.try_append(picture, those).await?;
        let answered = std::mem::take(those).into_iter().zip(answers);
        let later: Vec<Waiting> =
            answered.filter_map(|(waiting, answer)| answer_to(waiting, answer)).collect();
        // Whoever had no room is first in the next one.
        self.waiting.lock().splice(..0, later);
        // Who was in doubt has been told.
        picture.doubts.retain(|doubt| !doubt.is_written);
        Ok(())
    }

    /// Makes an append of what waits and writes it, until the head that it was made of is still the
    /// head. What is refused counts only then.
    async fn try_append(&self, picture: &mut Picture, waiting: &[Waiting]) -> Result<Vec<Answer>> {
        let mut unanswered = 0;
        for _ in 0..TRIES {
            self.settle_doubts(picture).await?;
            let needs = needs_of(&self.keys, picture, waiting);
            let mut unknown = picture.unknown(&needs);
            while unknown.keys() > 2 {
                self.look(picture, &unknown).await?;
                if picture.knows(&needs) {
                    break;
                }
                // Others wrote: what was known of actors and content is not known any more.
                unknown = picture.unknown(&needs);
            }
            let Made { append, answers, requests, fences } = self.make(picture, waiting);
            let look_for = answers.iter().filter_map(|answer| match answer {
                Answer::LookFor(edit) => Some(*edit),
                _ => None,
            });
            let requests_made = Needs { requests: look_for.collect(), ..Needs::default() };
            if requests_made.keys() > 2 {
                self.look(picture, &requests_made).await?;
                continue;
            }
            let Some(append) = append else {
                // Nothing to write: what was said must have been said of the present head.
                let revision = picture.revision;
                self.look(picture, &needs).await?;
                if picture.revision == revision {
                    return Ok(answers);
                }
                continue;
            };
            let (again, _) = needs.split(NEEDS_MAX);
            let lease = self.lease_of_answers(requests.len()).await?;
            let txn = self.txn(picture, &append, &requests, lease, &again)?;
            let txn = fences.iter().flat_map(Fence::compares).fold(txn, Txn::when);
            let revision = picture.revision;
            picture.doubts.push(Doubt { revision, append, is_written: false });
            let reply = self.store.txn(txn).await;
            match reply {
                Ok(reply) => {
                    let Some(Doubt { append, .. }) = picture.doubts.pop() else { continue };
                    if reply.succeeded {
                        picture.written(append, reply.revision);
                        return Ok(answers);
                    }
                    picture.forget_contents();
                    picture.read(&self.keys, &again, &reply.replies)?;
                    if !fences.is_empty() && picture.revision == revision {
                        self.are_held(&fences).await?;
                    }
                }
                Err(error) => {
                    if error.outcome() == Outcome::NotApplied {
                        picture.doubts.pop();
                    }
                    unanswered += 1;
                    if error.kind() == ErrorKind::LeaseLost && unanswered == 1 {
                        // Of whoever ends leases; the next one is another.
                        *self.answers.lock() = None;
                        continue;
                    }
                    if error.outcome() == Outcome::NotApplied || !error.is_transient() || unanswered == 2 {
                        return Err(error.into());
                    }
                }
            }
        }
        Err(LedgerError::Contended { tries: TRIES })
    }

    /// Reads the head, what came since, and what is needed: in several requests where that is more
    /// than one may ask for.
    async fn look(&self, picture: &mut Picture, needs: &Needs) -> Result<()> {
        let mut rest = needs.clone();
        loop {
            let (part, left) = rest.split(NEEDS_MAX);
            let txn = picture.reads(&self.keys, &part).into_iter().fold(Txn::new(), Txn::then);
            let reply = self.store.txn(txn).await?;
            picture.read(&self.keys, &part, &reply.replies)?;
            if left.keys() == 2 {
                return Ok(());
            }
            rest = left;
        }
    }

    /// What was sent and not answered before: once the head is another one than it compares, it has
    /// arrived or never will, and the log tells which. So long as the head is the same it may still
    /// arrive; then whatever is written meanwhile is written over it, and it is asked about anew.
    async fn settle_doubts(&self, picture: &mut Picture) -> Result<()> {
        if picture.doubts.iter().all(|doubt| doubt.is_written) {
            return Ok(());
        }
        self.look(picture, &Needs::default()).await?;
        let mut at = 0;
        while let Some(doubt) = picture.doubts.get(at) {
            if doubt.is_written || doubt.revision == picture.revision {
                at += 1;
            } else if self.was_written(&doubt.append).await? {
                if let Some(doubt) = picture.doubts.get_mut(at) {
                    doubt.is_written = true;
                }
                at += 1;
            } else {
                picture.doubts.remove(at);
            }
        }
        if picture.doubts.len() > DOUBTS_MAX {
            let what = "too many appends were sent and not answered; the store is not well";
            return Err(Error::new(ErrorKind::Unavailable, OPERATION, what).into());
        }
        Ok(())
    }

    /// Whether an append of ours is in the log.
    async fn was_written(&self, append: &Append) -> Result<bool> {
        let found = self.store.range(Range::key(self.keys.entry(append.entry.last()))).await?;
        match found.entries.first() {
            Some(found) => Ok(binary::<Entry>(found)?.events == append.entry.events),
            None => Ok(false),
        }
    }

    /// Fails where one of them is not held any more.
    async fn are_held(&self, fences: &[Fence]) -> Result<()> {
        let txn = fences.iter().flat_map(Fence::compares).fold(Txn::new(), Txn::when);
        if self.store.txn(txn).await?.succeeded { Ok(()) } else { Err(Fence::lost(OPERATION).into()) }
    }

    /// A lease for so many more answers to writes of the API. Nobody renews it: it lasts from its
    /// first answer to an hour after its last one.
    async fn lease_of_answers(&self, more: usize) -> Result<Option<LeaseId>> {
        if more == 0 {
            return Ok(None);
        }
        let held = *self.answers.lock();
        let held = held.filter(|held| held.since.elapsed() < ANSWERED && held.count < ANSWERS_OF_A_LEASE);
        let held = match held {
            Some(held) => held,
            None => {
                let since = Instant::now();
                Answers { lease: self.store.grant_lease(ANSWERED * 2).await?.id, since, count: 0 }
            }
        };
        *self.answers.lock() = Some(Answers { count: held.count + more, ..held });
        Ok(Some(held.lease))
    }

    /// The append of all that has room in it.
    fn make(&self, picture: &Picture, waiting: &[Waiting]) -> Made {
        let mut requests: Vec<(EditId, Vec<u64>)> = Vec::new();
        let mut fences: Vec<Fence> = Vec::new();
        let mut appending = Appending::new(picture, &picture.head, (self.clock)());
        let answers = waiting
            .iter()
            .map(|waiting| match waiting {
                Waiting::Push { session, events, .. } => {
                    let mut pushed =
                        Pushed { taken: Vec::new(), refused: None, record: ActorRecord::default() };
                    let Some(first) = events.first() else { return Answer::Pushed(pushed) };
                    for event in events {
                        // What was not looked at is looked at for the next append.
                        let mut needs = Needs::default();
                        needs_of_event(&mut needs, event);
                        if appending.is_full(event) || !picture.knows(&needs) {
                            if pushed.taken.is_empty() && pushed.refused.is_none() {
                                return Answer::Later;
                            }
                            break;
                        }
                        match appending.take(event, *session) {
                            Ok(accepted) => pushed.taken.push(accepted),
                            Err(refusal) => {
                                pushed.refused = Some((event.dot().seq, refusal));
                                break;
                            }
                        }
                    }
                    pushed.record = appending.actor(&first.dot().actor).unwrap_or_default();
                    Answer::Pushed(pushed)
                }
                Waiting::Write { writer, drafts, given, .. } => {
                    let written = picture.doubts.iter().filter(|doubt| doubt.is_written);
                    if let Some(positions) =
                        written.filter_map(|doubt| positions_of(&doubt.append, drafts)).next()
                    {
                        return Answer::Written(Written { positions });
                    }
                    let request = request_of(*writer, drafts);
                    if let Some(positions) = request.and_then(|edit| picture.answered(&edit)) {
                        return Answer::Written(Written { positions: positions.clone() });
                    }
                    // Before it is refused it is looked for whether it was made before.
                    let refuse = |refusal| match request {
                        Some(edit) if !picture.was_looked_for(&edit) => Answer::LookFor(edit),
                        _ => Answer::Refused(refusal),
                    };
                    let mut needs = Needs::default();
                    needs_of_write(&mut needs, &self.keys, picture, *writer, drafts, given);
                    // One that is given twice at once is the same one: the second waits.
                    let twice = requests.iter().any(|(edit, _)| Some(*edit) == request);
                    if !picture.knows(&needs) || twice {
                        return Answer::Later;
                    }
                    let changed = given.seen.iter().find(|(id, position)| {
                        appending.node(id).map_or(0, |node| node.position) != **position
                    });
                    if let Some((id, _)) = changed {
                        return refuse(Refusal::Changed { node: *id });
                    }
                    for path in &given.free {
                        let prefixes = prefixes_of(&self.keys, picture.head.names, path);
                        if prefixes.iter().any(|prefix| !picture.is_free(prefix)) {
                            return refuse(Refusal::Taken { path: path.as_str().to_owned() });
                        }
                        // What others take in this append is looked at in the next one.
                        if appending.changed().any(|node| meets(picture.head.names, node, path)) {
                            return Answer::Later;
                        }
                    }
                    let actor = actor_of(*writer, picture.head.epoch);
                    let before = appending.clone();
                    let mut positions = Vec::new();
                    for draft in drafts {
                        match appending.write(actor.clone(), draft.clone()) {
                            Ok(_) => positions.push(appending.position()),
                            Err(refusal) => {
                                appending = before;
                                return refuse(refusal);
                            }
                        }
                    }
                    appending.beside(usize::from(request.is_some()) + 2 * given.fences.len());
                    if appending.is_over() {
                        let alone = before.is_empty();
                        appending = before;
                        // What is too much by itself will be at any time.
                        return if alone { refuse(too_much(drafts.len())) } else { Answer::Later };
                    }
                    requests.extend(request.map(|edit| (edit, positions.clone())));
                    fences.extend(given.fences.iter().cloned());
                    Answer::Written(Written { positions })
                }
            })
            .collect();
        Made { append: appending.finish(), answers, requests, fences }
    }

    fn txn(
        &self,
        picture: &Picture,
        append: &Append,
        requests: &[(EditId, Vec<u64>)],
        lease: Option<LeaseId>,
        needs: &Needs,
    ) -> Result<Txn> {
        let keys = &self.keys;
        let mut txn = Txn::new().when(Compare::Modified(keys.head(), picture.revision));
        for hash in &append.contents {
            txn = txn.when(Compare::Present(keys.content(hash)));
        }
        for (edit, positions) in requests {
            let (key, value) = (keys.request(edit), json_value(positions)?);
            txn = txn.when(Compare::Absent(key.clone()));
            txn = txn.then(match lease {
                Some(lease) => Op::put_leased(key, value, lease),
                None => Op::put(key, value),
            });
        }
        txn = txn.then(Op::put(keys.head(), json_value(&append.head)?));
        let entry = binary_value(&append.entry)?;
        txn = txn.then(Op::put(keys.entry(append.entry.last()), entry));
        for (actor, record) in &append.actors {
            txn = txn.then(Op::put(keys.actor(actor), json_value(record)?));
        }
        for (id, node) in &append.nodes {
            let before = coordinate(picture, picture_node(picture, id).as_ref());
            let after = coordinate(picture, node.as_ref());
            if let Some((path, _)) =
                before.as_ref().filter(|(path, _)| after.as_ref().is_none_or(|(other, _)| other != path))
            {
                txn = txn.then(Op::delete(keys.path(path, id)));
            }
            if let Some((path, claimed)) = after.as_ref().filter(|after| before.as_ref() != Some(*after)) {
                txn = txn.then(Op::put(keys.path(path, id), claimed.to_string().into_bytes()));
            }
            txn = txn.then(match node {
                Some(node) => Op::put(keys.node(id), binary_value(node)?),
                None => Op::delete(keys.node(id)),
            });
        }
        for (number, loser) in append.losers.iter().enumerate() {
            let value = binary_value(&(loser.node, &loser.dot, &loser.sibling))?;
            txn = txn.then(Op::put(keys.loser(loser.position, number), value));
        }
        Ok(picture.reads(keys, needs).into_iter().fold(txn, Txn::otherwise))
    }
}

/// Tells one who waits that it failed.
fn tell(waiting: Waiting, error: &LedgerError) {
    match waiting {
        Waiting::Push { reply, .. } => drop(reply.send(Err(error.clone()))),
        Waiting::Write { reply, .. } => drop(reply.send(Err(error.clone()))),
    }
}

/// Tells one who waits; returns whoever has to wait on.
fn answer_to(waiting: Waiting, answer: Answer) -> Option<Waiting> {
    match (waiting, answer) {
        (waiting, Answer::Later | Answer::LookFor(_)) => return Some(waiting),
        (Waiting::Push { reply, .. }, Answer::Pushed(pushed)) => drop(reply.send(Ok(pushed))),
        (Waiting::Write { reply, .. }, Answer::Written(written)) => drop(reply.send(Ok(written))),
        (Waiting::Push { reply, .. }, Answer::Refused(refusal)) => drop(reply.send(Err(refusal.into()))),
        (Waiting::Write { reply, .. }, Answer::Refused(refusal)) => drop(reply.send(Err(refusal.into()))),
        (Waiting::Push { .. }, Answer::Written(_)) | (Waiting::Write { .. }, Answer::Pushed(_)) => {}
    }
    None
}

fn too_much(drafts: usize) -> Refusal {
    Refusal::TooLarge {
        what: "what is to be written at once".into(),
        size: drafts,
        max: append::ENTRY_EVENTS_MAX,
    }
}

fn picture_node(picture: &Picture, id: &NodeId) -> Option<Node> {
    append::Known::node(picture, id)
}

/// The path that a file takes, in its folded form, and since which position.
fn coordinate(picture: &Picture, node: Option<&Node>) -> Option<(String, u64)> {
    let node = node?;
    let visible = node.visible().filter(|visible| !visible.is_deleted())?;
    Some((picture.head.names.fold(visible.version.path.as_str()), node.claimed))
}

fn actor_of(writer: Writer, epoch: u32) -> Actor {
    match writer {
        Writer::Api => Actor::api(epoch),
        Writer::Lead => Actor::lead(epoch),
    }
}

/// What nothing in the index may begin with where a path is free: itself, and its directories as
/// files.
fn prefixes_of(keys: &Keys, names: Names, path: &RelPath) -> Vec<Bytes> {
    let folded = names.fold(path.as_str());
    let above = directories(&folded).map(|directory| keys.at_path(directory));
    above.chain([keys.at_or_below(&folded)]).collect()
}

/// Whether a file wants that path, or one that cannot be beside it.
fn meets(names: Names, node: &Node, path: &RelPath) -> bool {
    let Some(visible) = node.visible().filter(|visible| !visible.is_deleted()) else { return false };
    let (here, there) = (names.fold(visible.version.path.as_str()), names.fold(path.as_str()));
    let below = |inner: &str, outer: &str| directories(inner).any(|directory| directory == outer);
    here == there || below(&here, &there) || below(&there, &here)
}

/// By what a write of the API is known. What the leader writes is known by what it saw.
fn request_of(writer: Writer, drafts: &[Draft]) -> Option<EditId> {
    drafts.first().filter(|_| writer == Writer::Api).map(|draft| draft.edit)
}

/// Where an append has these drafts, if it has them.
fn positions_of(append: &Append, drafts: &[Draft]) -> Option<Vec<u64>> {
    let at = |draft: &Draft| append.entry.events.iter().position(|event| event.event().edit == draft.edit);
    drafts.iter().map(|draft| Some(append.entry.first + at(draft)? as u64)).collect()
}

fn needs_of_event(needs: &mut Needs, event: &Sealed) {
    let event = event.event();
    needs.actors.insert(event.dot.actor.clone());
    needs.actors.extend(event.context.iter().map(|(actor, _)| actor.clone()));
    needs.nodes.insert(event.node);
    needs.contents.extend(event.version().and_then(|version| version.content).map(|content| content.hash));
}

fn needs_of_write(
    needs: &mut Needs,
    keys: &Keys,
    picture: &Picture,
    writer: Writer,
    drafts: &[Draft],
    given: &Given,
) {
    needs.requests.extend(request_of(writer, drafts));
    needs.actors.insert(actor_of(writer, picture.head.epoch));
    needs.nodes.extend(given.seen.keys().copied());
    needs.free.extend(given.free.iter().flat_map(|path| prefixes_of(keys, picture.head.names, path)));
    for draft in drafts {
        needs.actors.extend(draft.context.iter().map(|(actor, _)| actor.clone()));
        needs.nodes.insert(draft.node);
        let version = match &draft.body {
            Body::Write(version) | Body::Resolve { keep: version, .. } | Body::Fork { version, .. } => {
                Some(version)
            }
            Body::Forget => None,
        };
        needs.contents.extend(version.and_then(|version| version.content).map(|content| content.hash));
    }
}

/// What it takes to make an append of what waits: as much as one read may ask for. The first one
/// always is in it.
fn needs_of(keys: &Keys, picture: &Picture, waiting: &[Waiting]) -> Needs {
    let mut needs = Needs::default();
    for waiting in waiting {
        match waiting {
            Waiting::Push { events, .. } => {
                for event in events {
                    let mut more = needs.clone();
                    needs_of_event(&mut more, event);
                    if more.keys() > NEEDS_MAX && needs.keys() > 2 {
                        return needs;
                    }
                    needs = more;
                }
            }
            Waiting::Write { writer, drafts, given, .. } => {
                let mut more = needs.clone();
                needs_of_write(&mut more, keys, picture, *writer, drafts, given);
                if more.keys() > NEEDS_MAX && needs.keys() > 2 {
                    return needs;
                }
                needs = more;
            }
        }
    }
    needs
}
