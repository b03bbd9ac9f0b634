//! What somebody has seen: version vectors.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::collections::btree_map;

use serde::{Deserialize, Serialize};

use super::Refusal;
use super::id::{Actor, Dot};

/// How two vectors lie to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Causality {
    /// The other has seen all of this, and more.
    Before,
    /// This has seen all of the other, and more.
    After,
    /// Both have seen the same.
    Equal,
    /// Each has seen something that the other has not.
    Concurrent,
}

/// For each actor the last of its edits that was seen. Who has seen one has seen all before it, for
/// an actor's edits reach everybody in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<Actor, u64>", into = "BTreeMap<Actor, u64>")]
pub struct VersionVector(BTreeMap<Actor, u64>);

impl VersionVector {
    /// Nothing was seen.
    #[must_use]
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// The last edit of `actor` that was seen; 0 for none.
    #[must_use]
    pub fn get(&self, actor: &Actor) -> u64 {
        self.0.get(actor).copied().unwrap_or(0)
    }

    /// Whether that edit was seen.
    #[must_use]
    pub fn contains(&self, dot: &Dot) -> bool {
        dot.seq <= self.get(&dot.actor)
    }

    /// That edit was seen, and all of its actor before it.
    pub fn insert(&mut self, dot: &Dot) {
        self.raise(&dot.actor, dot.seq);
    }

    fn raise(&mut self, actor: &Actor, seq: u64) {
        if seq > self.get(actor) {
            self.0.insert(actor.clone(), seq);
        }
    }

    /// That edit was not seen, nor any of its actor behind it.
    pub fn remove(&mut self, dot: &Dot) {
        self.lower(&dot.actor, dot.seq.saturating_sub(1));
    }

    /// Nothing of `actor` behind `seq` was seen.
    pub fn lower(&mut self, actor: &Actor, seq: u64) {
        if self.get(actor) <= seq {
        } else if seq == 0 {
            self.0.remove(actor);
        } else {
            self.0.insert(actor.clone(), seq);
        }
    }

    /// What either has seen.
    pub fn join(&mut self, other: &Self) {
        for (actor, seq) in &other.0 {
            self.raise(actor, *seq);
        }
    }

    /// What both have seen.
    #[must_use]
    pub fn meet(&self, other: &Self) -> Self {
        let both = self.0.iter().map(|(actor, seq)| (actor.clone(), (*seq).min(other.get(actor))));
        Self(both.filter(|(_, seq)| *seq > 0).collect())
    }

    /// Whether all that `other` has seen was seen here.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        other.0.iter().all(|(actor, seq)| *seq <= self.get(actor))
    }

    /// How this lies to `other`.
    #[must_use]
    pub fn compare(&self, other: &Self) -> Causality {
        match (self.covers(other), other.covers(self)) {
            (true, true) => Causality::Equal,
            (true, false) => Causality::After,
            (false, true) => Causality::Before,
            (false, false) => Causality::Concurrent,
        }
    }

    /// Each actor that was seen, with the last of its edits.
    pub fn iter(&self) -> impl Iterator<Item = (&Actor, u64)> {
        self.0.iter().map(|(actor, seq)| (actor, *seq))
    }

    /// Whether nothing was seen.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Of how many actors something was seen.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl PartialOrd for VersionVector {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match self.compare(other) {
            Causality::Before => Some(Ordering::Less),
            Causality::After => Some(Ordering::Greater),
            Causality::Equal => Some(Ordering::Equal),
            Causality::Concurrent => None,
        }
    }
}

impl TryFrom<BTreeMap<Actor, u64>> for VersionVector {
    type Error = Refusal;

    /// A vector has one form: what was not seen is not in it.
    fn try_from(entries: BTreeMap<Actor, u64>) -> Result<Self, Refusal> {
        match entries.iter().find(|(_, seq)| **seq == 0) {
            Some((actor, _)) => Err(Refusal::Vector { actor: actor.clone() }),
            None => Ok(Self(entries)),
        }
    }
}

impl From<VersionVector> for BTreeMap<Actor, u64> {
    fn from(vector: VersionVector) -> Self {
        vector.0
    }
}

impl FromIterator<Dot> for VersionVector {
    fn from_iter<I: IntoIterator<Item = Dot>>(dots: I) -> Self {
        let mut vector = Self::new();
        dots.into_iter().for_each(|dot| vector.insert(&dot));
        vector
    }
}

impl IntoIterator for VersionVector {
    type Item = (Actor, u64);
    type IntoIter = btree_map::IntoIter<Actor, u64>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::id::RegionId;
    use super::*;

    fn actor(n: u8) -> Actor {
        Actor::region(RegionId::new(format!("r{n}")).unwrap(), 1)
    }

    fn vectors() -> impl Strategy<Value = VersionVector> {
        proptest::collection::vec((0_u8..4, 1_u64..4), 0..5)
            .prop_map(|dots| dots.into_iter().map(|(n, seq)| Dot::new(actor(n), seq)).collect())
    }

    #[test]
    fn the_four_ways() {
        let (a, b) = (Dot::new(actor(0), 1), Dot::new(actor(1), 1));
        let one: VersionVector = [a.clone()].into_iter().collect();
        let other: VersionVector = [b.clone()].into_iter().collect();
        let both: VersionVector = [a, b].into_iter().collect();
        assert_eq!(one.compare(&one), Causality::Equal);
        assert_eq!(one.compare(&both), Causality::Before);
        assert_eq!(both.compare(&one), Causality::After);
        assert_eq!(one.compare(&other), Causality::Concurrent);
        assert_eq!(VersionVector::new().compare(&one), Causality::Before);
    }

    proptest! {
        #[test]
        fn joining_and_meeting_are_a_lattice(a in vectors(), b in vectors(), c in vectors()) {
            let join = |x: &VersionVector, y: &VersionVector| { let mut x = x.clone(); x.join(y); x };
            prop_assert_eq!(join(&a, &b), join(&b, &a));
            prop_assert_eq!(join(&join(&a, &b), &c), join(&a, &join(&b, &c)));
            prop_assert_eq!(join(&a, &a), a.clone());
            prop_assert_eq!(a.meet(&b), b.meet(&a));
            prop_assert_eq!(join(&a, &a.meet(&b)), a.clone());
            prop_assert_eq!(a.meet(&join(&a, &b)), a.clone());
            prop_assert!(join(&a, &b).covers(&a) && a.covers(&a.meet(&b)));
        }

        #[test]
        fn what_was_taken_away_was_not_seen(a in vectors(), n in 0_u8..4, seq in 1_u64..4) {
            let dot = Dot::new(actor(n), seq);
            let mut less = a.clone();
            less.remove(&dot);
            prop_assert!(!less.contains(&dot) && a.covers(&less));
            less.insert(&dot);
            prop_assert!(less.contains(&dot));
        }
    }
}
