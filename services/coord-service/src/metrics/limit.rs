//! How many series there may be, and which kind a name is.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};

use ::metrics::Key;
use foldhash::quality::RandomState;
use parking_lot::{Mutex, RwLock};

/// The kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
    Summary,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            Kind::Summary => "summary",
        })
    }
}

/// Which series there are.
#[derive(Debug)]
pub(super) struct Series {
    per_name: usize,
    total: usize,
    /// The hashes of all series that were admitted. Two series with the same hash count as one,
    /// which bounds as well.
    known: RwLock<HashSet<u64, RandomState>>,
    hashes: RandomState,
    names: Mutex<HashMap<String, Name>>,
}

#[derive(Debug)]
struct Name {
    kind: Kind,
    series: usize,
    /// Whether it was said already that some of it is refused.
    told: bool,
}

/// Why a series is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// The name is of another kind.
    Kind(Kind),
    /// The name has too many series.
    PerName(usize),
    /// All names together have too many.
    Total(usize),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Kind(kind) => write!(f, "the name is a {kind} already"),
            Refused::PerName(limit) => {
                write!(f, "the name has {limit} series already; a label has values without a bound")
            }
            Refused::Total(limit) => write!(f, "there are {limit} series already"),
        }
    }
}

impl Series {
    pub(super) fn new(per_name: usize, total: usize) -> Self {
        Series {
            per_name,
            total,
            known: RwLock::default(),
            hashes: RandomState::default(),
            names: Mutex::default(),
        }
    }

    /// A number for a series. The hash that a key brings along is not enough: that of labels `1`
    /// and `11` is the same.
    fn id(&self, kind: Kind, key: &Key) -> u64 {
        let mut hasher = self.hashes.build_hasher();
        (kind as u8, key.name()).hash(&mut hasher);
        for label in key.labels() {
            (label.key(), label.value()).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// Whether a series may be recorded. If not, then why, and whether that is news.
    pub(super) fn admit(&self, kind: Kind, key: &Key) -> Result<(), (Refused, bool)> {
        let id = self.id(kind, key);
        if self.known.read().contains(&id) {
            return Ok(());
        }
        let mut names = self.names.lock();
        let total = self.known.read().len();
        // Names are bounded as well: a new one needs room for its first series.
        let name = match names.get_mut(key.name()) {
            Some(name) => name,
            None if total >= self.total => return Err((Refused::Total(self.total), false)),
            None => names.entry(key.name().to_owned()).or_insert(Name { kind, series: 0, told: false }),
        };
        let refused = if name.kind != kind {
            Refused::Kind(name.kind)
        } else if name.series >= self.per_name {
            Refused::PerName(self.per_name)
        } else if total >= self.total {
            Refused::Total(self.total)
        } else {
            if self.known.write().insert(id) {
                name.series += 1;
            }
            return Ok(());
        };
        Err((refused, !std::mem::replace(&mut name.told, true)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &'static str, label: usize) -> Key {
        Key::from_parts(name, vec![::metrics::Label::new("n", label.to_string())])
    }

    #[test]
    fn a_name_has_no_more_series_than_the_limit_and_says_so_once() {
        let series = Series::new(3, 100);
        for n in 0..3 {
            assert_eq!(series.admit(Kind::Counter, &key("a", n)), Ok(()));
        }
        assert_eq!(series.admit(Kind::Counter, &key("a", 3)), Err((Refused::PerName(3), true)));
        assert_eq!(series.admit(Kind::Counter, &key("a", 4)), Err((Refused::PerName(3), false)));
        assert_eq!(series.admit(Kind::Counter, &key("a", 0)), Ok(()), "what is there goes on");
        assert_eq!(series.admit(Kind::Counter, &key("b", 0)), Ok(()));
    }

    #[test]
    fn all_names_together_are_bounded() {
        let series = Series::new(100, 3);
        for (name, n) in [("a", 0), ("a", 1), ("b", 0)] {
            assert_eq!(series.admit(Kind::Gauge, &key(name, n)), Ok(()));
        }
        assert_eq!(series.admit(Kind::Gauge, &key("a", 2)), Err((Refused::Total(3), true)));
        assert_eq!(series.admit(Kind::Gauge, &key("c", 0)), Err((Refused::Total(3), false)));
        assert_eq!(series.names.lock().len(), 2);
    }

    #[test]
    fn the_first_use_of_a_name_decides_its_kind() {
        let series = Series::new(10, 10);
        assert_eq!(series.admit(Kind::Histogram, &key("a", 0)), Ok(()));
        assert_eq!(series.admit(Kind::Summary, &key("a", 0)), Err((Refused::Kind(Kind::Histogram), true)));
        assert_eq!(series.admit(Kind::Histogram, &key("a", 1)), Ok(()));
    }
}
