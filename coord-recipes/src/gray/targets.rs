//! Who has a gray value: the instances that are named, those with a label, and a part of all (R73).

use std::collections::{BTreeMap, BTreeSet};

use coord_api::{Error, Result, key};
use serde::{Deserialize, Serialize};

/// The most ids and labels that a release names, together (R73).
pub const MAX_TARGETS: usize = 1_000;

/// The bytes of the ids and labels that a release names, at most (R73).
pub const MAX_TARGET_BYTES: usize = 64 * 1024;

/// Into how many parts instances are divided.
const BUCKETS: u64 = 10_000;

/// How many of them are one percent.
const BUCKETS_A_PERCENT: u64 = BUCKETS / 100;

/// What an instance is known by: its id, and its labels.
///
/// The id is best one that a restart does not change: who gets a percentage of all goes by it.
///
/// # Examples
///
/// ```
/// use coord_recipes::GrayIdentity;
///
/// let me = GrayIdentity::new("gateway-7").with_label("zone", "north");
/// assert_eq!(me.id(), "gateway-7");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrayIdentity {
    id: String,
    labels: BTreeMap<String, String>,
}

impl GrayIdentity {
    /// An instance without labels.
    pub fn new(id: impl Into<String>) -> Self {
        GrayIdentity { id: id.into(), labels: BTreeMap::new() }
    }

    /// With this label. One of the same name takes its place.
    #[must_use]
    pub fn with_label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(name.into(), value.into());
        self
    }

    /// The id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The labels, by their names.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    /// Its bucket for a key, below 10,000: it is among the first `n` percent iff its bucket is
    /// below 100 × `n` (R73). For each key the instances are divided anew.
    pub fn bucket(&self, key: &str) -> u64 {
        let key = key.strip_prefix('/').unwrap_or(key);
        let bytes = key.bytes().chain([0]).chain(self.id.bytes());
        mixed(bytes.fold(FNV_OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME))) % BUCKETS
    }

    /// Checks an id, which is one segment of a key, and labels.
    pub(super) fn check(&self, operation: &'static str) -> Result<()> {
        check_id(operation, &self.id)?;
        self.labels.iter().try_for_each(|(name, value)| check_label(operation, name, value))
    }
}

/// FNV-1a of 64 bits.
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// Spreads a hash over all its bits, as MurmurHash3 ends: ids that differ in their last digits
/// alone would be near to each other.
fn mixed(mut hash: u64) -> u64 {
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

/// Who has a gray value: who is named by its id, or by a label, or is among the percentage (R73).
///
/// # Examples
///
/// ```
/// use coord_recipes::{GrayIdentity, GrayTargets};
///
/// let targets = GrayTargets::default().with_id("gateway-7").with_label("zone", "north");
/// assert!(targets.include("limits", &GrayIdentity::new("gateway-7")));
/// assert!(!targets.include("limits", &GrayIdentity::new("gateway-8")));
/// let everyone = GrayTargets::default().with_percent(100);
/// assert!(everyone.include("limits", &GrayIdentity::new("gateway-8")));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
#[serde(default)]
pub struct GrayTargets {
    /// The ids of instances.
    pub ids: BTreeSet<String>,
    /// Names of labels, and their values: an instance with any of them.
    pub labels: BTreeSet<(String, String)>,
    /// How many of all instances, in percent; raising it only adds some. At most 100.
    pub percent: u8,
}

impl GrayTargets {
    /// With the instance of this id.
    #[must_use]
    pub fn with_id(mut self, id: impl Into<String>) -> Self {
        self.ids.insert(id.into());
        self
    }

    /// With all instances that have this label.
    #[must_use]
    pub fn with_label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert((name.into(), value.into()));
        self
    }

    /// With this percentage of all instances.
    #[must_use]
    pub fn with_percent(mut self, percent: u8) -> Self {
        self.percent = percent;
        self
    }

    /// Whether an instance is among them, for a release of `key`.
    pub fn include(&self, key: &str, instance: &GrayIdentity) -> bool {
        let named = |(name, value): &(String, String)| instance.labels.get(name) == Some(value);
        self.ids.contains(&instance.id)
            || self.labels.iter().any(named)
            || instance.bucket(key) < u64::from(self.percent) * BUCKETS_A_PERCENT
    }

    /// Checks what can be released to.
    pub(super) fn check(&self, operation: &'static str) -> Result<()> {
        let wrong = |message: &'static str| Err(Error::invalid_argument(operation, message));
        if self.percent > 100 {
            return wrong("more than 100 percent of the instances");
        }
        if self.percent == 0 && self.ids.is_empty() && self.labels.is_empty() {
            return wrong("a release to nobody; `withdraw` takes one back");
        }
        if self.ids.len().saturating_add(self.labels.len()) > MAX_TARGETS {
            return wrong(
                "more than 1,000 ids and labels; give a percentage, or instances a label in common",
            );
        }
        let ids = self.ids.iter().map(String::len);
        let labels = self.labels.iter().map(|(name, value)| name.len().saturating_add(value.len()));
        if ids.chain(labels).fold(0, usize::saturating_add) > MAX_TARGET_BYTES {
            return wrong("more than 64 KiB of ids and labels; give a percentage, or a label in common");
        }
        self.ids.iter().try_for_each(|id| check_id(operation, id))?;
        self.labels.iter().try_for_each(|(name, value)| check_label(operation, name, value))
    }
}

/// An id is one segment of a key, as that of a service's instance is (R4).
fn check_id(operation: &'static str, id: &str) -> Result<()> {
    key::check_segment(operation, id).map(|_| ())
}

/// A label has a name, which is one segment of a key, and a value of at most as many bytes.
fn check_label(operation: &'static str, name: &str, value: &str) -> Result<()> {
    key::check_segment(operation, name)?;
    if value.len() > key::MAX_KEY_BYTES {
        return Err(Error::invalid_argument(operation, "a label's value of more than 512 bytes"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use coord_api::ErrorKind;
    use proptest::prelude::*;

    use super::*;

    fn bucket(key: &str, id: &str) -> u64 {
        GrayIdentity::new(id).bucket(key)
    }

    #[test]
    fn an_instance_is_named_by_its_id_or_any_of_its_labels() {
        let me = GrayIdentity::new("a").with_label("zone", "north").with_label("tier", "");
        for (targets, included) in [
            (GrayTargets::default(), false),
            (GrayTargets::default().with_id("a"), true),
            (GrayTargets::default().with_id("b").with_id("A"), false),
            (GrayTargets::default().with_label("zone", "north").with_id("b"), true),
            (GrayTargets::default().with_label("zone", "south").with_label("north", "zone"), false),
            (GrayTargets::default().with_label("tier", ""), true),
            (GrayTargets::default().with_label("none", ""), false),
            (GrayTargets::default().with_percent(100), true),
        ] {
            assert_eq!(targets.include("k", &me), included, "{targets:?}");
        }
    }

    #[test]
    fn what_names_nobody_or_too_many_is_refused() {
        let numbered = |count| (0..count).fold(GrayTargets::default(), |all, n| all.with_id(n.to_string()));
        let long =
            |count: usize| (0..count).fold(GrayTargets::default(), |all, n| all.with_id(format!("{n:0512}")));
        for good in [
            GrayTargets::default().with_percent(1),
            GrayTargets::default().with_label("a", ""),
            numbered(1_000),
            long(128),
        ] {
            good.check("t").unwrap();
        }
        for bad in [
            GrayTargets::default(),
            GrayTargets::default().with_percent(101),
            GrayTargets::default().with_id(""),
            GrayTargets::default().with_id("a/b"),
            GrayTargets::default().with_label("", "x"),
            GrayTargets::default().with_label("x", "v".repeat(513)),
            numbered(1_001),
            long(129),
        ] {
            assert_eq!(bad.check("t").unwrap_err().kind(), ErrorKind::InvalidArgument, "{bad:?}");
        }
    }

    /// Programs in other languages go by them.
    #[test]
    fn buckets_are_for_ever() {
        let vectors = [
            ("", ""),
            ("limits", "gateway-7"),
            ("prod/gateway/limits", "gateway-7"),
            ("limits", "a"),
            ("limits", "ключ"),
        ]
        .map(|(key, id)| bucket(key, id));
        assert_eq!(vectors, [2_267, 5_463, 3_970, 8_107, 8_956]);
        assert_eq!(bucket("/limits", "a"), bucket("limits", "a"), "a leading slash is none of the key");
    }

    #[test]
    fn each_percentage_is_about_as_many_of_the_instances() {
        for key in ["limits", "prod/gateway/limits", "k"] {
            let ids: [fn(u32) -> String; 3] =
                [|n| n.to_string(), |n| format!("gateway-{n}"), |n| format!("{n:08x}-pod")];
            for id in ids {
                let buckets: Vec<u64> = (0..10_000).map(|n| bucket(key, &id(n))).collect();
                for percent in [1, 5, 10, 25, 50, 75, 90, 99] {
                    let among = buckets.iter().filter(|bucket| **bucket < percent * 100).count();
                    // Five standard deviations of as many independent throws.
                    let part = percent as f64 / 100.0;
                    let (mean, off) = (10_000.0 * part, 5.0 * (10_000.0 * part * (1.0 - part)).sqrt());
                    assert!((among as f64 - mean).abs() < off, "{key}: {among} for {percent} %");
                }
            }
        }
    }

    #[test]
    fn for_another_key_other_instances_are_chosen() {
        let first = GrayTargets::default().with_percent(50);
        let instances = (0..10_000).map(|n| GrayIdentity::new(format!("i-{n}")));
        let both = instances.filter(|one| first.include("a", one) && first.include("b", one)).count();
        assert!((2_200..2_800).contains(&both), "{both} of 10,000 for both keys");
    }

    proptest! {
        #[test]
        fn a_greater_percentage_only_adds(
            key in "[a-z/]{1,20}",
            id in "\\PC{1,20}",
            less in 0_u8..=100,
            more in 0_u8..=100,
        ) {
            let (less, more) = (less.min(more), less.max(more));
            let instance = GrayIdentity::new(id);
            let among = |percent| GrayTargets::default().with_percent(percent).include(&key, &instance);
            prop_assert!(!among(less) || among(more));
            prop_assert!(!among(0) && among(100));
        }

        #[test]
        fn targets_come_back_as_they_were_written(
            ids in proptest::collection::btree_set("\\PC{0,9}", 0..5),
            labels in proptest::collection::btree_set(("\\PC{0,9}", "\\PC{0,9}"), 0..5),
            percent in 0_u8..=100,
        ) {
            let targets = GrayTargets { ids, labels, percent };
            let written = serde_json::to_string(&targets).unwrap();
            prop_assert_eq!(serde_json::from_str::<GrayTargets>(&written).unwrap(), targets);
        }
    }
}
