//! A region as it is written down: in parts, so that a step writes what it has changed (G3, G4).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::snapshot::Filling;
use super::{Replica, SetAside, Shown};
use crate::model::Refusal;
use crate::model::event::Sealed;
use crate::model::id::{Actor, Dot, EditId, Hash, NodeId, RegionId, Session, SpaceName};
use crate::model::log::ActorRecord;
use crate::model::node::Node;
use crate::model::outbox::{Outbox, Pending};
use crate::model::path::Names;
use crate::model::state::State;
use crate::model::tracked::Tracked;
use crate::model::view::PathView;

/// The newest form of what is written down that this build reads (G26).
pub const REPLICA_FORMAT: u8 = 1;

/// A part of a region that is written down by itself. Its text is a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// Who it is, and how far it has come: JSON.
    State,
    /// A file of its fold. A snapshot fills another generation, which takes the place of the one
    /// before when it is complete; generations that are [not in
    /// use](Replica::generations_in_use) are to be removed.
    Node {
        /// The generation.
        generation: u32,
        /// The file.
        id: NodeId,
    },
    /// An own edit that has its name.
    Sealed(u64),
    /// An own edit that has none yet.
    Pending(u64),
    /// What stands on the disk of a file.
    Shown(NodeId),
    /// What the disk may show of a file since it was decided to write that.
    Writing(NodeId),
    /// An own edit that the log has under the name of another copy of this disk.
    Found(EditId),
    /// An edit that was not taken: JSON.
    SetAside(u64),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::State => f.write_str("state"),
            Self::Node { generation, id } => write!(f, "node/{generation:010}/{id}"),
            Self::Sealed(seq) => write!(f, "sealed/{seq:020}"),
            Self::Pending(order) => write!(f, "pending/{order:020}"),
            Self::Shown(id) => write!(f, "shown/{id}"),
            Self::Writing(id) => write!(f, "writing/{id}"),
            Self::Found(edit) => write!(f, "found/{edit}"),
            Self::SetAside(number) => write!(f, "aside/{number:020}"),
        }
    }
}

impl FromStr for Part {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        let unknown = || Refusal::Encoding(format!("{text:?} is no part of a region"));
        let Some((kind, rest)) = text.split_once('/') else {
            return if text == "state" { Ok(Self::State) } else { Err(unknown()) };
        };
        let number = || rest.parse::<u64>().map_err(|_| unknown());
        Ok(match kind {
            "node" => {
                let (generation, id) = rest.split_once('/').ok_or_else(unknown)?;
                Self::Node { generation: generation.parse().map_err(|_| unknown())?, id: id.parse()? }
            }
            "sealed" => Self::Sealed(number()?),
            "pending" => Self::Pending(number()?),
            "shown" => Self::Shown(rest.parse()?),
            "writing" => Self::Writing(rest.parse()?),
            "found" => Self::Found(rest.parse()?),
            "aside" => Self::SetAside(number()?),
            _ => return Err(unknown()),
        })
    }
}

/// What became of a part: its bytes, or `None` where there is nothing any more.
pub type Change = (Part, Option<Vec<u8>>);

/// Who a region is, and how far it has come.
#[derive(Serialize, Deserialize)]
struct Written {
    format: u8,
    space: SpaceName,
    region: RegionId,
    names: Names,
    /// The epoch of its fold, where that is, and the chain there.
    base: (u32, u64, Hash),
    generation: u32,
    generations: u32,
    filling: Option<WrittenFilling>,
    actor: Option<Actor>,
    epoch: u32,
    own: ActorRecord,
    accepted: u64,
    last_pending: u64,
    last_set_aside: u64,
    session: Session,
    before: Option<Session>,
    welcomed: bool,
    renew: bool,
    astray: bool,
    doubt_until: Option<u64>,
    settled: Option<u64>,
    skipped: bool,
    trimmed: bool,
}

#[derive(Serialize, Deserialize)]
struct WrittenFilling {
    generation: u32,
    names: Names,
    base: (u32, u64, Hash),
    record: ActorRecord,
    next: Option<NodeId>,
}

impl Replica {
    /// What has to be written down of what was changed since the last time that it was
    /// [`written`](Self::written): all of it together, or nothing. [`Part::State`] is always among
    /// it.
    ///
    /// # Errors
    ///
    /// [`Refusal::Encoding`] where something cannot be written down. Nothing is forgotten.
    pub fn changes(&self) -> Result<Vec<Change>, Refusal> {
        let mut changes = vec![(Part::State, Some(json(&self.state())?))];
        let node = |state: &State, generation, id: &NodeId| -> Result<Change, Refusal> {
            let value = state.nodes.get(id).map(binary).transpose()?;
            Ok((Part::Node { generation, id: *id }, value))
        };
        for id in &self.folded {
            changes.push(node(&self.base, self.generation, id)?);
        }
        if let Some(filling) = &self.filling {
            for id in &filling.paged {
                changes.push(node(&filling.state, filling.generation, id)?);
            }
        }
        for (seq, event) in self.outbox.sealed.changes() {
            changes.push((Part::Sealed(seq), event.map(binary).transpose()?));
        }
        for (order, pending) in self.outbox.pending.changes() {
            changes.push((Part::Pending(order), pending.map(binary).transpose()?));
        }
        for (id, shown) in self.shown.changes() {
            changes.push((Part::Shown(id), shown.map(binary).transpose()?));
        }
        for (id, writing) in self.writing.changes() {
            changes.push((Part::Writing(id), writing.map(binary).transpose()?));
        }
        for (edit, dot) in self.found.changes() {
            changes.push((Part::Found(edit), dot.map(binary).transpose()?));
        }
        for (number, edit) in self.set_aside.changes() {
            changes.push((Part::SetAside(number), edit.map(json).transpose()?));
        }
        Ok(changes)
    }

    /// The [`changes`](Self::changes) are written down.
    pub fn written(&mut self) {
        self.folded.clear();
        if let Some(filling) = &mut self.filling {
            filling.paged.clear();
        }
        self.outbox.sealed.written();
        self.outbox.pending.written();
        self.shown.written();
        self.writing.written();
        self.found.written();
        self.set_aside.written();
    }

    /// The generations of files that are in use: of its fold, and of the snapshot that is being
    /// taken.
    #[must_use]
    pub fn generations_in_use(&self) -> (u32, Option<u32>) {
        (self.generation, self.filling.as_ref().map(|filling| filling.generation))
    }

    /// A region as it was written down. Files of generations that are not in use are left out.
    ///
    /// # Errors
    ///
    /// [`Refusal::Encoding`] where a part is not what is written there, or [`Part::State`] is
    /// missing; [`Refusal::Format`] where a newer build wrote it (G26).
    pub fn restore<V: AsRef<[u8]>>(parts: impl IntoIterator<Item = (Part, V)>) -> Result<Self, Refusal> {
        let mut state: Option<Written> = None;
        let mut nodes: BTreeMap<u32, BTreeMap<NodeId, Node>> = BTreeMap::new();
        let mut sealed: BTreeMap<u64, Sealed> = BTreeMap::new();
        let mut pending: BTreeMap<u64, Pending> = BTreeMap::new();
        let mut shown: BTreeMap<NodeId, Shown> = BTreeMap::new();
        let mut writing: BTreeMap<NodeId, Option<Shown>> = BTreeMap::new();
        let mut found: BTreeMap<EditId, Dot> = BTreeMap::new();
        let mut set_aside: BTreeMap<u64, SetAside> = BTreeMap::new();
        for (part, value) in parts {
            let value = value.as_ref();
            match part {
                Part::State => state = Some(read_state(value)?),
                Part::Node { generation, id } => {
                    nodes.entry(generation).or_default().insert(id, from_binary(&part, value)?);
                }
                Part::Sealed(seq) => drop(sealed.insert(seq, from_binary(&part, value)?)),
                Part::Pending(order) => drop(pending.insert(order, from_binary(&part, value)?)),
                Part::Shown(id) => drop(shown.insert(id, from_binary(&part, value)?)),
                Part::Writing(id) => drop(writing.insert(id, from_binary(&part, value)?)),
                Part::Found(edit) => drop(found.insert(edit, from_binary(&part, value)?)),
                Part::SetAside(number) => {
                    set_aside.insert(number, serde_json::from_slice(value).map_err(|why| bad(&part, &why))?);
                }
            }
        }
        let state = state.ok_or_else(|| bad(&Part::State, &"it is missing"))?;
        let mut state_of = |names, (epoch, cursor, chain), generation| {
            let mut state = State::new(names, epoch);
            (state.cursor, state.chain) = (cursor, chain);
            state.nodes = nodes.remove(&generation).unwrap_or_default();
            state
        };
        let base = state_of(state.names, state.base, state.generation);
        let filling = state.filling.map(|filling| Filling {
            state: state_of(filling.names, filling.base, filling.generation),
            generation: filling.generation,
            paged: Default::default(),
            record: filling.record,
            next: filling.next,
        });
        let outbox =
            Outbox::restored(sealed.into_iter().collect(), pending.into_iter().collect(), state.last_pending);
        let mut replica = Self {
            space: state.space,
            region: state.region,
            view: PathView::new(base.names()),
            base,
            generation: state.generation,
            generations: state.generations,
            folded: Default::default(),
            actor: state.actor,
            epoch: state.epoch,
            own: state.own,
            accepted: state.accepted,
            outbox,
            disk: shown.iter().map(|(id, shown)| (shown.path.clone(), *id)).collect(),
            shown: shown.into_iter().collect(),
            writing: writing.into_iter().collect(),
            set_aside: set_aside.into_iter().collect(),
            last_set_aside: state.last_set_aside,
            session: state.session,
            before: state.before,
            welcomed: state.welcomed,
            renew: state.renew,
            astray: state.astray,
            doubt_until: state.doubt_until,
            settled: state.settled,
            found: found.into_iter().collect::<Tracked<_, _>>(),
            skipped: state.skipped,
            trimmed: state.trimmed,
            filling,
        };
        replica.refresh_view();
        Ok(replica)
    }

    fn state(&self) -> Written {
        // A field that is added is written down as well, or it is said here that it need not be.
        let Self {
            space,
            region,
            base,
            generation,
            generations,
            actor,
            epoch,
            own,
            accepted,
            outbox,
            session,
            before,
            welcomed,
            renew,
            astray,
            doubt_until,
            settled,
            skipped,
            trimmed,
            filling,
            last_set_aside,
            // Parts of their own.
            shown: _,
            writing: _,
            set_aside: _,
            found: _,
            // Made of the parts.
            view: _,
            disk: _,
            folded: _,
        } = self;
        let filling = filling.as_ref().map(|filling| {
            let Filling { state, generation, record, next, paged: _ } = filling;
            WrittenFilling {
                generation: *generation,
                names: state.names(),
                base: (state.epoch, state.cursor, state.chain),
                record: *record,
                next: *next,
            }
        });
        Written {
            format: REPLICA_FORMAT,
            space: space.clone(),
            region: region.clone(),
            names: base.names(),
            base: (base.epoch, base.cursor, base.chain),
            generation: *generation,
            generations: *generations,
            filling,
            actor: actor.clone(),
            epoch: *epoch,
            own: *own,
            accepted: *accepted,
            last_pending: outbox.last,
            last_set_aside: *last_set_aside,
            session: *session,
            before: *before,
            welcomed: *welcomed,
            renew: *renew,
            astray: *astray,
            doubt_until: *doubt_until,
            settled: *settled,
            skipped: *skipped,
            trimmed: *trimmed,
        }
    }
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, Refusal> {
    serde_json::to_vec(value).map_err(|error| Refusal::Encoding(error.to_string()))
}

fn binary(value: &impl Serialize) -> Result<Vec<u8>, Refusal> {
    bcs::to_bytes(value).map_err(|error| Refusal::Encoding(error.to_string()))
}

fn from_binary<T: DeserializeOwned>(part: &Part, value: &[u8]) -> Result<T, Refusal> {
    bcs::from_bytes(value).map_err(|why| bad(part, &why))
}

fn read_state(value: &[u8]) -> Result<Written, Refusal> {
    #[derive(Deserialize)]
    struct Format {
        format: u8,
    }
    let Format { format } = serde_json::from_slice(value).map_err(|why| bad(&Part::State, &why))?;
    if format > REPLICA_FORMAT {
        return Err(Refusal::Format { found: format, known: REPLICA_FORMAT });
    }
    serde_json::from_slice(value).map_err(|why| bad(&Part::State, &why))
}

fn bad(part: &Part, why: &dyn fmt::Display) -> Refusal {
    Refusal::Encoding(format!("{part} of a region is not what is written there: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::samples::node;

    #[test]
    fn a_part_is_its_key() {
        let edit = EditId::from([9; 16]);
        for part in [
            Part::State,
            Part::Node { generation: 3, id: node() },
            Part::Sealed(u64::MAX),
            Part::Pending(0),
            Part::Shown(node()),
            Part::Writing(node()),
            Part::Found(edit),
            Part::SetAside(7),
        ] {
            assert_eq!(part.to_string().parse(), Ok(part));
        }
        for text in ["", "node", "node/1", "state/", "sealed/x", "other/1"] {
            assert!(text.parse::<Part>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_a_newer_build_wrote_or_nobody_is_not_read() {
        let replica = Replica::new(
            SpaceName::new("main").unwrap(),
            RegionId::new("a").unwrap(),
            Names::Folded,
            Session::from([1; 16]),
        );
        let changes = replica.changes().unwrap();
        let [(Part::State, Some(state))] = &changes[..] else { panic!("{changes:?}") };
        assert_eq!(Replica::restore([(Part::State, state)]).unwrap(), replica);
        let newer = String::from_utf8(state.clone()).unwrap().replace("\"format\":1", "\"format\":2");
        assert_eq!(
            Replica::restore([(Part::State, newer)]),
            Err(Refusal::Format { found: 2, known: REPLICA_FORMAT })
        );
        assert!(matches!(Replica::restore([(Part::State, "{}")]), Err(Refusal::Encoding(_))));
        assert!(matches!(Replica::restore([(Part::Sealed(1), "")]), Err(Refusal::Encoding(_))));
        assert!(matches!(Replica::restore::<Vec<u8>>([]), Err(Refusal::Encoding(_))));
    }
}
