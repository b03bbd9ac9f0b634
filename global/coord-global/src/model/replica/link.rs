//! What a region says to the coordinator, and hears from it.

use std::collections::BTreeSet;

use super::super::Refusal;
use super::super::append::{Hello, Welcome};
use super::super::event::{Body, Event, FORMAT, Sealed};
use super::super::id::{Dot, Hash};
use super::super::log::{ActorRecord, Entry};
use super::super::outbox::Pending;
use super::super::state::Astray;
use super::{Need, Replica, SetAside};

impl Replica {
    /// How it shows itself.
    #[must_use]
    pub fn hello(&self) -> Hello {
        Hello {
            actor: self.actor.clone(),
            session: self.session,
            before: self.before,
            epoch: self.epoch,
            cursor: if self.base.epoch == self.epoch { self.base.cursor } else { 0 },
            chain: self.base.chain,
            renew: self.renew,
            astray: self.astray,
        }
    }

    /// The answer to a [`Hello`]. `head` is the position up to which the log was when it was given.
    /// It may find that it has to say [`Hello`] once more.
    pub fn welcome(&mut self, welcome: Welcome, head: u64) {
        let Welcome { actor, record, before, epoch } = welcome;
        let first = self.actor.is_none() && self.base.cursor == 0;
        self.welcomed = true;
        (self.before, self.renew, self.astray) = (Some(self.session), false, false);
        if self.actor.as_ref() == Some(&actor) {
            // A store that was restored may have accepted less than it had said.
            self.accepted = 0;
            self.answered(record);
            return;
        }
        let restored = epoch != self.epoch && !first;
        self.epoch = epoch;
        // Another incarnation: what it has not seen accepted is in doubt. Only of a region's very
        // first one nobody can have heard, by whatever copy of its disk.
        let is_new = actor.incarnation() == 1;
        // A store that has forgotten what was folded here has accepted nothing that is not.
        let sure = |record: &ActorRecord| record.seq < self.own.seq || self.is_in_chain(record);
        self.settled = before.filter(sure).map(|record| record.seq);
        self.actor = Some(actor);
        (self.own, self.accepted) = (ActorRecord::default(), 0);
        if first {
            self.base.epoch = epoch;
        }
        if !is_new {
            self.doubt();
            self.doubt_until = Some(head);
        }
        if restored {
            self.trimmed = true;
        } else {
            self.decide_if_read();
        }
    }

    /// How far its actor has come, as the coordinator says: with the answer to a push or a
    /// [`Hello`]. What is accepted stays in the outbox until it is folded (G3).
    pub fn answered(&mut self, record: ActorRecord) {
        if record.seq < self.own.seq {
            // The store has forgotten what was folded here.
            self.astray = true;
            return;
        }
        if self.is_in_chain(&record) {
            self.accepted = self.accepted.max(record.seq);
        } else {
            // Not in this chain: this disk was restored from a copy, or another goes by its name.
            self.renew = true;
        }
    }

    /// The edits to be pushed next, in order.
    pub fn to_push(&self) -> impl Iterator<Item = &Sealed> {
        self.outbox.sealed_from(self.accepted.max(self.own.seq) + 1)
    }

    /// One of its edits was not taken. A bad one is set aside and ends the incarnation; otherwise
    /// the region says Hello again, or uploads the content that is missing.
    pub fn refused(&mut self, seq: u64, reason: Refusal) {
        if reason.is_of_the_edit() {
            if let Some(event) = self.outbox.take_out(seq) {
                let node = event.event().node;
                if let Some(version) = event.event().version().cloned() {
                    self.put_aside(SetAside { edit: event.event().edit, node, version, reason });
                }
                self.refresh(node);
            }
            self.renew = true;
        } else {
            match reason {
                Refusal::ContentMissing { .. } => {}
                Refusal::Forked { .. } => self.renew = true,
                _ => self.welcomed = false,
            }
        }
    }

    /// Gives pending edits their names, as far as their content is at the coordinator. Tells how
    /// many.
    pub fn seal(&mut self, most: usize, mut has_content: impl FnMut(&Hash) -> bool) -> usize {
        let Some(actor) = self.actor.clone().filter(|_| self.need() == Need::Nothing) else { return 0 };
        let mut ready =
            |pending: &Pending| pending.version.content.is_none_or(|content| has_content(&content.hash));
        let mut held = BTreeSet::new();
        let orders: Vec<u64> = self
            .outbox
            .pending()
            // What is behind one of the same file waits for that one.
            .filter(|(_, pending)| {
                !held.contains(&pending.node) && (ready(pending) || !held.insert(pending.node))
            })
            .map(|(order, _)| order)
            .take(most)
            .collect();
        let mut sealed = 0;
        for order in orders {
            let last = self
                .outbox
                .last_sealed()
                .map_or((self.own.seq, self.own.hash), |event| (event.dot().seq, event.hash()));
            let Some(pending) = self.outbox.get(order) else { continue };
            let Pending { edit, node, context, version, .. } = pending.clone();
            let dot = Dot::new(actor.clone(), last.0 + 1);
            let body = Body::Write(version.clone());
            match Sealed::new(Event {
                format: FORMAT,
                dot: dot.clone(),
                edit,
                node,
                context,
                body,
                prev: last.1,
            }) {
                Ok(event) => {
                    self.outbox.seal(order, event);
                    self.named(edit, node, Some(&dot));
                    sealed += 1;
                }
                Err(reason) => {
                    self.outbox.remove(order);
                    self.put_aside(SetAside { edit, node, version, reason });
                }
            }
            self.refresh(node);
        }
        sealed
    }

    /// Folds what of an entry is new, up to `most` events.
    ///
    /// # Errors
    ///
    /// [`Astray`]: what it [needs](Self::need) then is a snapshot, or to say Hello; nothing was
    /// folded.
    pub fn fold(&mut self, entry: &Entry, most: usize) -> Result<usize, Astray> {
        let folded = match self.base.fold(entry, most) {
            Ok(folded) => folded,
            Err(astray) => {
                match &astray {
                    Astray::Trimmed { .. } => self.trimmed = true,
                    Astray::AnotherLog { .. } => self.astray = true,
                    Astray::Unreadable(_) => {}
                }
                return Err(astray);
            }
        };
        let count = folded.len();
        let events: Vec<Sealed> = folded.into_iter().map(|(event, _)| event.clone()).collect();
        for event in events {
            let Dot { actor, seq } = event.dot();
            if actor.of_region() != Some(&self.region) {
            } else if self.actor.as_ref() == Some(actor)
                && self.outbox.sealed(*seq).map(Sealed::hash) == Some(event.hash())
            {
                self.own = ActorRecord { seq: *seq, hash: event.hash(), session: None };
                self.outbox.folded(*seq);
            } else {
                self.found_accepted(&event);
            }
            self.folded.insert(event.event().node);
            self.refresh(event.event().node);
        }
        self.decide_if_read();
        Ok(count)
    }
}
