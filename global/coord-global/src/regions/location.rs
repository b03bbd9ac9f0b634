//! Where a file is the newest: computed of the acks, and stored nowhere.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ack::Ack;
use crate::model::RegionId;

/// How a file is in a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Location {
    /// The region has not folded the last event of the file, or keeps only the content that it is
    /// asked for, and was not asked for this one.
    Stale,
    /// It has folded it, and the content is on its way.
    Syncing,
    /// It has the file as it is: a replica.
    Synced {
        /// When it said so last, in milliseconds since 1970 on the clock of the instance that
        /// received it.
        at_ms: u64,
    },
}

impl Location {
    /// How a file whose last event lies at `position` is in a region with this ack; one that never
    /// sent any has nothing. `has_content` is false where the region keeps only the content that
    /// it is asked for, and does not have this one.
    #[must_use]
    pub const fn of(position: u64, ack: Option<&Ack>, has_content: bool) -> Self {
        match ack {
            Some(ack) if ack.folded >= position && has_content => {
                if ack.content < position {
                    Self::Syncing
                } else {
                    Self::Synced { at_ms: ack.at_ms }
                }
            }
            _ => Self::Stale,
        }
    }

    /// Whether the region has the file as it is.
    #[must_use]
    pub const fn is_replica(&self) -> bool {
        matches!(self, Self::Synced { .. })
    }
}

/// How a file whose last event lies at `position` is in each of `regions`. `has` says whether a
/// region has the file's content, as far as that is told one by one (`have/`): true for each that
/// keeps all content.
#[must_use]
pub fn locations<'a>(
    position: u64,
    regions: impl IntoIterator<Item = &'a RegionId>,
    acks: &BTreeMap<RegionId, Ack>,
    has: impl Fn(&RegionId) -> bool,
) -> BTreeMap<RegionId, Location> {
    let location = |id: &RegionId| Location::of(position, acks.get(id), has(id));
    regions.into_iter().map(|id| (id.clone(), location(id))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_where_the_acks_say() {
        let id = |name: &str| RegionId::new(name).unwrap();
        let ack = |folded, content| Ack { incarnation: 1, folded, content, at_ms: folded * 100 };
        let acks: BTreeMap<RegionId, Ack> = [
            ("behind", ack(6, 6)),
            ("loading", ack(9, 6)),
            ("exact", ack(7, 7)),
            ("ahead", ack(9, 8)),
            ("on-demand", ack(9, 9)),
            ("gone", ack(9, 9)),
        ]
        .map(|(name, ack)| (id(name), ack))
        .into();
        let regions = ["behind", "loading", "exact", "ahead", "on-demand", "new"].map(id);
        let found = locations(7, &regions, &acks, |region| region.as_str() != "on-demand");
        let expected = [
            ("behind", Location::Stale),
            ("loading", Location::Syncing),
            ("exact", Location::Synced { at_ms: 700 }),
            ("ahead", Location::Synced { at_ms: 900 }),
            ("on-demand", Location::Stale),
            ("new", Location::Stale),
        ];
        assert_eq!(found, expected.map(|(name, location)| (id(name), location)).into());
        let replicas: Vec<_> = found.iter().filter(|(_, location)| location.is_replica()).collect();
        assert_eq!(replicas.len(), 2);
    }

    /// An ack that claims more content than it has folded counts for what it has folded.
    #[test]
    fn content_alone_is_no_replica() {
        let ack = Ack { incarnation: 1, folded: 3, content: 9, at_ms: 1 };
        assert_eq!(Location::of(5, Some(&ack), true), Location::Stale);
        assert_eq!(Location::of(3, Some(&ack), true), Location::Synced { at_ms: 1 });
    }
}
