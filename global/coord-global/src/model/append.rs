//! What an append writes: made of what is known, and written only if the head is still the one
//! that it was made of (G1).

use std::collections::{BTreeMap, BTreeSet};

use super::Refusal;
use super::event::{Body, Event, FORMAT, Sealed};
use super::id::{Actor, Dot, EditId, Hash, NodeId, RegionId, Session};
use super::log::{ActorRecord, Entry, Head, chained};
use super::node::{End, Node, fold};
use super::sibling::{Sibling, covers};
use super::vector::VersionVector;

/// The most events of one entry.
pub const ENTRY_EVENTS_MAX: usize = 100;
/// The most bytes of the events of one entry.
pub const ENTRY_BYTES_MAX: usize = 512 * 1024;
/// The most bytes of one append: of the entry and the files.
pub const APPEND_BYTES_MAX: usize = 1_200_000;
/// The most keys that one append writes.
pub const APPEND_KEYS_MAX: usize = 120;
/// The most versions of a file that callers of the API may keep beside each other.
pub const API_SIBLINGS_MAX: usize = 32;

/// What is known of a space at its head.
pub trait Known {
    /// How far that actor has come.
    fn actor(&self, actor: &Actor) -> Option<ActorRecord>;
    /// That file.
    fn node(&self, id: &NodeId) -> Option<Node>;
    /// Whether that content is at the coordinator.
    fn has_content(&self, hash: &Hash) -> bool;
}

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// It has this position now.
    At(u64),
    /// The actor has come so far already: as its record stands, this event was accepted before.
    /// The record goes back with the answer, and who does not find it in its own chain is forked
    /// (G2).
    Before,
}

/// What a caller of the API or the leader wants to write: its place in the chain is given when it
/// is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// The save that it carries.
    pub edit: EditId,
    /// The file.
    pub node: NodeId,
    /// What of it the writer had seen.
    pub context: VersionVector,
    /// What it does.
    pub body: Body,
}

/// A version that a resolution lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loser {
    /// The file.
    pub node: NodeId,
    /// The edit.
    pub dot: Dot,
    /// What it left.
    pub sibling: Sibling,
    /// Where the resolution lies.
    pub position: u64,
}

/// One transaction: compare the head with `expected` and every content with there, then write all
/// of the rest or nothing.
#[derive(Clone, Debug)]
pub struct Append {
    /// The head that it was made of.
    pub expected: Head,
    /// The head after it.
    pub head: Head,
    /// What goes into the log.
    pub entry: Entry,
    /// The files, `None` for one that is forgotten: one write each, however many events touch it.
    pub nodes: BTreeMap<NodeId, Option<Node>>,
    /// The actors.
    pub actors: BTreeMap<Actor, ActorRecord>,
    /// What was listed.
    pub losers: Vec<Loser>,
    /// The content that must still be there (G21).
    pub contents: BTreeSet<Hash>,
}

/// An append that is being made.
#[derive(Debug)]
pub struct Appending<'a, K> {
    known: &'a K,
    append: Append,
    bytes: usize,
    node_bytes: BTreeMap<NodeId, usize>,
    keys: usize,
    /// Of the keys, those of others that are compared as well.
    beside: usize,
}

/// How long a file is in the store.
fn encoded(node: &Node) -> usize {
    bcs::serialized_size(node).unwrap_or(0)
}

impl<K> Clone for Appending<'_, K> {
    fn clone(&self) -> Self {
        Self {
            known: self.known,
            append: self.append.clone(),
            bytes: self.bytes,
            node_bytes: self.node_bytes.clone(),
            keys: self.keys,
            beside: self.beside,
        }
    }
}

impl<'a, K: Known> Appending<'a, K> {
    /// Nothing yet, on top of `head`.
    #[must_use]
    pub fn new(known: &'a K, head: &Head, received_ms: u64) -> Self {
        let entry = Entry { received_ms, first: head.position + 1, chain: head.chain, events: Vec::new() };
        let append = Append {
            expected: head.clone(),
            head: head.clone(),
            entry,
            nodes: BTreeMap::new(),
            actors: BTreeMap::new(),
            losers: Vec::new(),
            contents: BTreeSet::new(),
        };
        // The head and the entry.
        Self { known, append, bytes: 0, node_bytes: BTreeMap::new(), keys: 2, beside: 0 }
    }

    /// What it is made of.
    #[must_use]
    pub const fn known(&self) -> &K {
        self.known
    }

    /// How far an actor has come with what is in here.
    #[must_use]
    pub fn actor(&self, actor: &Actor) -> Option<ActorRecord> {
        self.append.actors.get(actor).copied().or_else(|| self.known.actor(actor))
    }

    /// A file with what is in here.
    #[must_use]
    pub fn node(&self, id: &NodeId) -> Option<Node> {
        self.append.nodes.get(id).cloned().unwrap_or_else(|| self.known.node(id))
    }

    /// The files that are changed in here.
    pub fn changed(&self) -> impl Iterator<Item = &Node> {
        self.append.nodes.values().flatten()
    }

    /// The position of the last event.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.append.head.position
    }

    /// So many keys more are compared and written beside it, in the same transaction.
    pub const fn beside(&mut self, keys: usize) {
        self.keys += keys;
        self.beside += keys;
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.append.entry.events.is_empty()
    }

    /// Whether more is in it than one append may write.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.append.entry.events.len() > ENTRY_EVENTS_MAX
            || self.bytes > ENTRY_BYTES_MAX
            || self.bytes + self.node_bytes.values().sum::<usize>() > APPEND_BYTES_MAX
            || self.keys > APPEND_KEYS_MAX
            || self.append.contents.len() + self.beside > APPEND_KEYS_MAX
    }

    /// Whether no more goes in. One event always does.
    #[must_use]
    pub fn is_full(&self, next: &Sealed) -> bool {
        let events = self.append.entry.events.len();
        // At most: the file, the path that it leaves, the one that it takes, and its actor.
        let keys = self.keys + 4;
        let node = self.node(&next.event().node).map_or(0, |node| encoded(&node));
        let all = self.bytes + self.node_bytes.values().sum::<usize>() + node + 2 * next.bytes().len();
        events > 0
            && (events == ENTRY_EVENTS_MAX
                || all > APPEND_BYTES_MAX
                || self.bytes + next.bytes().len() > ENTRY_BYTES_MAX
                || keys > APPEND_KEYS_MAX)
    }

    /// Takes the next edit of a region, for which `session` speaks.
    ///
    /// # Errors
    ///
    /// Why not; nothing is changed. [`Refusal::is_of_the_edit`] tells whether it is the edit that
    /// is bad.
    pub fn take(&mut self, event: &Sealed, session: Session) -> Result<Accepted, Refusal> {
        let actor = &event.event().dot.actor;
        if actor.is_instance() {
            return Err(Refusal::NotTheActor { actor: actor.clone() });
        }
        let record = self.actor(actor).filter(|record| record.session == Some(session));
        let Some(record) = record else { return Err(Refusal::Busy { actor: actor.clone() }) };
        self.take_next(event, record)
    }

    fn take_next(&mut self, event: &Sealed, record: ActorRecord) -> Result<Accepted, Refusal> {
        let Dot { actor, seq } = event.dot();
        if *seq <= record.seq {
            let another = *seq == record.seq && event.hash() != record.hash;
            return if another {
                Err(Refusal::Forked { actor: actor.clone(), seq: *seq })
            } else {
                Ok(Accepted::Before)
            };
        }
        if *seq != record.seq + 1 {
            return Err(Refusal::Gap { actor: actor.clone(), expected: record.seq + 1, found: *seq });
        }
        if event.event().prev != record.hash {
            return Err(Refusal::Forked { actor: actor.clone(), seq: record.seq });
        }
        self.check(event.event())?;
        Ok(Accepted::At(self.insert(event, record)))
    }

    /// Writes as one of the names that the instances share.
    ///
    /// # Errors
    ///
    /// As [`take`](Self::take).
    pub fn write(&mut self, actor: Actor, draft: Draft) -> Result<Sealed, Refusal> {
        let record = self.actor(&actor).unwrap_or_default();
        let Draft { edit, node, context, body } = draft;
        let dot = Dot::new(actor, record.seq + 1);
        let event = Sealed::new(Event { format: FORMAT, dot, edit, node, context, body, prev: record.hash })?;
        self.check(event.event())?;
        let siblings = self.node(&node).map_or(0, |node| {
            node.siblings
                .iter()
                .filter(|(dot, sibling)| !covers(&event.event().context, dot, sibling))
                .count()
        });
        if siblings >= API_SIBLINGS_MAX {
            return Err(Refusal::Siblings { max: API_SIBLINGS_MAX });
        }
        self.insert(&event, record);
        Ok(event)
    }

    /// What is wrong with an event as things stand here.
    fn check(&self, event: &Event) -> Result<(), Refusal> {
        for (actor, claimed) in event.context.iter() {
            let known = self.actor(actor).map_or(0, |record| record.seq);
            if claimed > known {
                return Err(Refusal::Future { actor: actor.clone(), claimed, known });
            }
        }
        let content = event.version().and_then(|version| version.content);
        if let Some(content) = content {
            if !self.known.has_content(&content.hash) {
                return Err(Refusal::ContentMissing { hash: content.hash });
            }
        }
        if let Body::Forget = event.body {
            let node = self.node(&event.node);
            let forgettable =
                node.is_none_or(|node| node.visible().is_none_or(|visible| visible.is_deleted()));
            if !forgettable {
                return Err(Refusal::Body("a file that is there is not forgotten".into()));
            }
        }
        Ok(())
    }

    fn insert(&mut self, event: &Sealed, record: ActorRecord) -> u64 {
        let append = &mut self.append;
        let id = event.event().node;
        let node = append.nodes.get(&id).cloned().unwrap_or_else(|| self.known.node(&id));
        let position = append.head.position + 1;
        let (node, folded) = fold(append.head.names, node, position, append.entry.received_ms, event.event());
        append.head.position = position;
        append.head.chain = chained(append.head.chain, event);
        append.head.tally.count(&folded);
        let before = append.losers.len();
        let listed = folded.ended.into_iter().filter(|(_, _, end)| matches!(end, End::Listed | End::Forked));
        append.losers.extend(listed.map(|(dot, sibling, _)| Loser { node: id, dot, sibling, position }));
        self.keys += append.losers.len() - before;
        append
            .contents
            .extend(event.event().version().and_then(|version| version.content).map(|content| content.hash));
        self.node_bytes.insert(id, node.as_ref().map_or(0, encoded));
        if append.nodes.insert(id, node).is_none() {
            self.keys += 3;
        }
        let record = ActorRecord { seq: event.event().dot.seq, hash: event.hash(), session: record.session };
        if append.actors.insert(event.event().dot.actor.clone(), record).is_none() {
            self.keys += 1;
        }
        self.bytes += event.bytes().len();
        append.entry.events.push(event.clone());
        position
    }

    /// The transaction; `None` if it would write nothing.
    #[must_use]
    pub fn finish(self) -> Option<Append> {
        (!self.append.entry.events.is_empty()).then_some(self.append)
    }
}

/// How a region shows itself when its agent starts, and whenever it has lost its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Who it was last; `None` for one that has no state.
    pub actor: Option<Actor>,
    /// This run of its agent.
    pub session: Session,
    /// The run before.
    pub before: Option<Session>,
    /// The epoch that it knows.
    pub epoch: u32,
    /// How far it has folded the log.
    pub cursor: u64,
    /// The chain there.
    pub chain: Hash,
    /// It has found that the actor's record is not in its own chain: its disk was restored.
    pub renew: bool,
    /// It has found that the log is not the one that it has folded: the store was restored.
    pub astray: bool,
}

/// What a region is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// Who it is from now on. Another incarnation than before: what it has not seen accepted is in
    /// doubt.
    pub actor: Actor,
    /// How far that has come.
    pub record: ActorRecord,
    /// How far the actor has come that it names, if it is another one now: no edit of that one is
    /// taken any more.
    pub before: Option<ActorRecord>,
    /// The epoch. Another one than before: the store was restored.
    pub epoch: u32,
}

/// What answering a [`Hello`] writes, together with the head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// The answer. Its epoch goes into the head.
    pub welcome: Welcome,
    /// The actors.
    pub actors: BTreeMap<Actor, ActorRecord>,
}

/// Answers a [`Hello`] of `region`. `last` is its last incarnation with its record, `named` the
/// record of the actor that it names, and `alive` says whether the agent that speaks for the last
/// one still shows itself. `fresh` is an epoch that no store of this space ever had, for the case
/// that this one was restored: seconds since 1970 are, whatever the store forgot. The answer counts
/// when what it writes was written while the head was still `head`: then no append that was made
/// before arrives after it.
///
/// # Errors
///
/// [`Refusal::Busy`] while another agent speaks for the region (G9), [`Refusal::NotTheActor`] for
/// an actor of another region.
pub fn hello(
    head: &Head,
    region: &RegionId,
    last: Option<(u32, ActorRecord)>,
    named: Option<ActorRecord>,
    hello: &Hello,
    alive: bool,
    fresh: u32,
) -> Result<Greeting, Refusal> {
    if let Some(actor) = hello.actor.as_ref().filter(|actor| actor.of_region() != Some(region)) {
        return Err(Refusal::NotTheActor { actor: actor.clone() });
    }
    // A region that knows of a later epoch, or of a log that goes on or went another way, has seen
    // what the store has forgotten.
    let has_folded = hello.cursor > 0 && hello.epoch == head.epoch;
    let beyond = hello.cursor > head.position || hello.cursor == head.position && hello.chain != head.chain;
    let restored = hello.epoch > head.epoch || has_folded && (beyond || hello.astray);
    let epoch = if restored { head.epoch.max(hello.epoch).saturating_add(1).max(fresh) } else { head.epoch };

    let known = last.map(|(incarnation, record)| (Actor::region(region.clone(), incarnation), record));
    let mut actors = BTreeMap::new();
    // An incarnation that the store has never heard of has got nothing into it.
    let incarnation = hello.actor.as_ref().map_or(0, Actor::incarnation);
    let is_news = incarnation > 0 && last.is_none_or(|(last, _)| last < incarnation);
    let mut before = is_news.then(ActorRecord::default);
    if let Some((actor, record)) = &known {
        let same_run = record.session == Some(hello.session);
        let next_run = hello.before.is_some() && record.session == hello.before;
        let is_the_last = hello.actor.as_ref() == Some(actor);
        if !(same_run || is_the_last && next_run) && alive {
            return Err(Refusal::Busy { actor: actor.clone() });
        }
        if same_run && !is_the_last && record.seq == 0 && epoch == head.epoch {
            // This run was answered before, and has not heard it.
            let was_the_last = actor.incarnation() == incarnation + 1;
            let before = named.filter(|_| was_the_last);
            actors.insert(actor.clone(), *record);
            let welcome = Welcome { actor: actor.clone(), record: *record, before, epoch };
            return Ok(Greeting { welcome, actors });
        }
        if is_the_last && (same_run || next_run) && !hello.renew && epoch == hello.epoch {
            let record = ActorRecord { session: Some(hello.session), ..*record };
            actors.insert(actor.clone(), record);
            let welcome = Welcome { actor: actor.clone(), record, before: None, epoch };
            return Ok(Greeting { welcome, actors });
        }
        if is_the_last {
            before = Some(*record);
        }
        actors.insert(actor.clone(), ActorRecord { session: None, ..*record });
    }
    // Also a name that only the region still knows, since the store was restored, is used up.
    let used = known.map(|(actor, _)| actor).into_iter().chain(hello.actor.clone());
    let incarnation = used.map(|actor| actor.incarnation()).max().unwrap_or(0).saturating_add(1);
    let record = ActorRecord { session: Some(hello.session), ..ActorRecord::default() };
    let actor = Actor::region(region.clone(), incarnation);
    actors.insert(actor.clone(), record);
    Ok(Greeting { welcome: Welcome { actor, record, before, epoch }, actors })
}

#[cfg(test)]
mod tests {
    use super::super::event::{BlobRef, Fields, Strategy, Version};
    use super::super::path::{Names, RelPath};
    use super::super::samples::{actor, content, delete, file, node, write};
    use super::*;

    /// What an instance knows: the actors of a test, no files, all content but one.
    #[derive(Default)]
    struct Space {
        actors: BTreeMap<Actor, ActorRecord>,
        nodes: BTreeMap<NodeId, Node>,
    }

    impl Known for Space {
        fn actor(&self, actor: &Actor) -> Option<ActorRecord> {
            self.actors.get(actor).copied()
        }

        fn node(&self, id: &NodeId) -> Option<Node> {
            self.nodes.get(id).cloned()
        }

        fn has_content(&self, hash: &Hash) -> bool {
            *hash != Hash::of_content(b"swept")
        }
    }

    fn session() -> Session {
        Session::from([1; 16])
    }

    fn space() -> Space {
        let record = ActorRecord { session: Some(session()), ..ActorRecord::default() };
        Space { actors: [(actor("a"), record), (actor("b"), record)].into(), nodes: BTreeMap::new() }
    }

    fn appending(space: &Space) -> Appending<'_, Space> {
        Appending::new(space, &Head::new(Names::Folded), 1_000)
    }

    /// The events of one actor, chained.
    fn chain(events: Vec<Event>) -> Vec<Sealed> {
        let mut prev = Hash::ZERO;
        let sealed = events.into_iter().map(|event| {
            let sealed = Sealed::new(Event { prev, ..event }).unwrap();
            prev = sealed.hash();
            sealed
        });
        sealed.collect()
    }

    #[test]
    fn a_chain_is_taken_in_its_order_and_once() {
        let space = space();
        let mut appending = appending(&space);
        let events = chain(vec![write("a", 1, "one", &[]), write("a", 2, "two", &[("a", 1)])]);
        assert_eq!(
            appending.take(&events[1], session()),
            Err(Refusal::Gap { actor: actor("a"), expected: 1, found: 2 })
        );
        assert_eq!(appending.take(&events[0], session()), Ok(Accepted::At(1)));
        assert_eq!(appending.take(&events[0], session()), Ok(Accepted::Before));
        assert_eq!(appending.take(&events[1], session()), Ok(Accepted::At(2)));
        let append = appending.finish().unwrap();
        assert_eq!(append.entry.last(), 2);
        assert_eq!(append.nodes.len(), 1, "one write a key, however many events touch it");
        assert_eq!(append.head.position, 2);
        assert_eq!(append.head.tally.alive(), 1);
        assert_eq!(append.actors[&actor("a")].hash, events[1].hash());
    }

    #[test]
    fn another_edit_under_a_known_name_is_a_fork() {
        let space = space();
        let mut appending = appending(&space);
        let events = chain(vec![write("a", 1, "one", &[]), write("a", 2, "two", &[("a", 1)])]);
        let others = chain(vec![write("a", 1, "other", &[]), write("a", 2, "two", &[("a", 1)])]);
        appending.take(&events[0], session()).unwrap();
        let forked = Err(Refusal::Forked { actor: actor("a"), seq: 1 });
        assert_eq!(appending.take(&others[0], session()), forked);
        assert_eq!(appending.take(&others[1], session()), forked, "it is not chained to what was accepted");
    }

    #[test]
    fn one_agent_speaks_for_a_region() {
        let space = space();
        let mut appending = appending(&space);
        let event = &chain(vec![write("a", 1, "one", &[])])[0];
        let busy = Err(Refusal::Busy { actor: actor("a") });
        assert_eq!(appending.take(event, Session::from([2; 16])), busy);
        let stranger = &chain(vec![write("c", 1, "one", &[])])[0];
        assert_eq!(appending.take(stranger, session()), Err(Refusal::Busy { actor: actor("c") }));
        assert!(appending.finish().is_none());
    }

    #[test]
    fn what_an_edit_cannot_have_seen() {
        let space = space();
        let mut appending = appending(&space);
        let event = &chain(vec![write("a", 1, "one", &[("b", 1)])])[0];
        let refusal = appending.take(event, session()).unwrap_err();
        assert_eq!(refusal, Refusal::Future { actor: actor("b"), claimed: 1, known: 0 });
        assert!(refusal.is_of_the_edit());
    }

    #[test]
    fn content_that_is_not_there_is_uploaded_again() {
        let space = space();
        let mut appending = appending(&space);
        let event = &chain(vec![write("a", 1, "swept", &[])])[0];
        let refusal = appending.take(event, session()).unwrap_err();
        assert_eq!(refusal, Refusal::ContentMissing { hash: Hash::of_content(b"swept") });
        assert!(!refusal.is_of_the_edit());
        // A deletion needs none.
        let event = &chain(vec![delete("a", 1, &[])])[0];
        assert_eq!(appending.take(event, session()), Ok(Accepted::At(1)));
        assert!(appending.finish().unwrap().contents.is_empty());
    }

    fn draft(text: &str, n: u8) -> Draft {
        let body = Body::Write(Version { time: super::super::Hlc::at(n.into()), ..file(text, 1) });
        Draft { edit: EditId::from([n; 16]), node: node(), context: VersionVector::new(), body }
    }

    #[test]
    fn callers_of_the_api_keep_no_more_versions_than_they_may() {
        let space = space();
        let mut appending = appending(&space);
        for n in 0..API_SIBLINGS_MAX as u8 {
            appending.write(Actor::api(1), draft(&n.to_string(), n)).unwrap();
        }
        let refusal = appending.write(Actor::api(1), draft("more", 99)).unwrap_err();
        assert_eq!(refusal, Refusal::Siblings { max: API_SIBLINGS_MAX });
        // Who has seen them replaces them.
        let context = appending.node(&node()).unwrap().context;
        appending.write(Actor::api(1), Draft { context, ..draft("one", 100) }).unwrap();
        assert_eq!(appending.node(&node()).unwrap().siblings.len(), 1);
    }

    #[test]
    fn a_file_that_is_there_is_not_forgotten() {
        let space = space();
        let mut appending = appending(&space);
        appending.write(Actor::api(1), draft("one", 1)).unwrap();
        let context = appending.node(&node()).unwrap().context;
        let forget = Draft { context, body: Body::Forget, ..draft("", 2) };
        assert!(matches!(appending.write(Actor::lead(1), forget), Err(Refusal::Body(_))));
    }

    #[test]
    fn an_append_is_cut_before_it_is_too_large() {
        let space = space();
        let mut appending = appending(&space);
        let name = SpaceNames::new();
        let mut taken = 0;
        for (n, event) in name.creates(200).iter().enumerate() {
            if appending.is_full(event) {
                break;
            }
            appending.take(event, session()).unwrap();
            taken = n + 1;
        }
        let append = appending.finish().unwrap();
        // The head, the entry, the actor; of each file itself, the path that it takes and one that
        // it might leave.
        let keys = 3 + append.nodes.len() * 3;
        assert!(keys <= APPEND_KEYS_MAX && taken >= 30, "{taken} events write {keys} keys");
    }

    struct SpaceNames(super::super::SpaceName);

    impl SpaceNames {
        fn new() -> Self {
            Self(super::super::SpaceName::new("main").unwrap())
        }

        /// Files of one actor, chained.
        fn creates(&self, count: u64) -> Vec<Sealed> {
            let events = (1..=count).map(|seq| {
                let path = format!("f{seq}");
                let id = NodeId::created(&self.0, &path, &Hash::of_content(b"x"), 0);
                let version =
                    Version { path: RelPath::new(&path).unwrap(), content: content("x"), ..file("x", seq) };
                let mut event = write("a", seq, "x", &[]);
                (event.node, event.body) = (id, Body::Write(version));
                event
            });
            chain(events.collect())
        }
    }

    #[test]
    fn a_resolution_says_what_it_lists() {
        let space = space();
        let mut appending = appending(&space);
        appending.take(&chain(vec![write("a", 1, "one", &[])])[0], session()).unwrap();
        appending.take(&chain(vec![write("b", 1, "two", &[])])[0], session()).unwrap();
        let found = appending.node(&node()).unwrap();
        for draft in super::super::leader::resolve(node(), &found, Strategy::LastWriterWins) {
            appending.write(Actor::lead(1), draft).unwrap();
        }
        let append = appending.finish().unwrap();
        assert_eq!(append.losers.len(), 1);
        let version = &append.losers[0].sibling.version;
        assert_eq!(version.content, Some(BlobRef { hash: Hash::of_content(b"one"), size: 3 }));
        assert_eq!(append.head.tally.listed, 1);
        assert_eq!(append.head.tally.kept, 1);
        assert_eq!(append.head.tally.alive(), 1);
        assert!(version.changed.has(Fields::CONTENT));
    }

    // ---- Hello ----

    fn said(actor: Option<Actor>, session: u8, before: Option<u8>) -> Hello {
        let session = Session::from([session; 16]);
        let before = before.map(|before| Session::from([before; 16]));
        Hello { actor, session, before, epoch: 1, cursor: 0, chain: Hash::ZERO, renew: false, astray: false }
    }

    fn answer(last: Option<(u32, ActorRecord)>, said: &Hello, alive: bool) -> Result<Welcome, Refusal> {
        let region = RegionId::new("a").unwrap();
        let greeting = hello(&Head::new(Names::Folded), &region, last, None, said, alive, 100)?;
        let (actor, record) = (&greeting.welcome.actor, &greeting.welcome.record);
        assert_eq!(greeting.actors.get(actor), Some(record), "what was said is written");
        Ok(greeting.welcome)
    }

    fn record(seq: u64, session: u8) -> ActorRecord {
        ActorRecord {
            seq,
            hash: Hash::of_content(&seq.to_be_bytes()),
            session: Some(Session::from([session; 16])),
        }
    }

    #[test]
    fn a_restart_waits_for_nobody_and_of_two_copies_one_is_refused() {
        let last = Some((1, record(7, 1)));
        // It names the run before: that is a restart, also while the old one still counts as alive.
        let welcome = answer(last, &said(Some(actor("a")), 2, Some(1)), true).unwrap();
        assert_eq!((welcome.actor, welcome.record.seq), (actor("a"), 7));
        // A copy of the disk that knows an older run: while the other lives, it is refused.
        let copy = said(Some(actor("a")), 3, Some(0));
        assert_eq!(answer(last, &copy, true), Err(Refusal::Busy { actor: actor("a") }));
        // When nobody speaks any more, it is a disk that was restored: another incarnation.
        let welcome = answer(last, &copy, false).unwrap();
        assert_eq!(welcome.actor, Actor::region(RegionId::new("a").unwrap(), 2));
        assert_eq!((welcome.record.seq, welcome.before.map(|record| record.seq)), (0, Some(7)));
    }

    #[test]
    fn a_region_speaks_for_itself() {
        let other = said(Some(actor("b")), 2, None);
        assert_eq!(answer(None, &other, false), Err(Refusal::NotTheActor { actor: actor("b") }));
    }

    #[test]
    fn a_store_that_forgot_is_another_epoch() {
        let beyond = Hello { cursor: 5, ..said(Some(actor("a")), 1, None) };
        let welcome = answer(Some((1, record(0, 1))), &beyond, false).unwrap();
        assert_eq!((welcome.epoch, welcome.actor.incarnation()), (100, 2));
        let later = Hello { epoch: 3, ..said(Some(actor("a")), 1, None) };
        assert_eq!(answer(Some((1, record(0, 1))), &later, false).unwrap().epoch, 100);
        let first = said(None, 1, None);
        assert_eq!(answer(None, &Hello { epoch: 0, ..first }, false).unwrap().epoch, 1);
    }

    #[test]
    fn a_name_that_the_store_forgot_is_not_given_again() {
        let third = Actor::region(RegionId::new("a").unwrap(), 3);
        let welcome = answer(Some((1, record(0, 9))), &said(Some(third), 1, None), false).unwrap();
        assert_eq!(welcome.actor.incarnation(), 4);
        assert_eq!(welcome.before, Some(ActorRecord::default()), "nothing of it was accepted");
    }
}
