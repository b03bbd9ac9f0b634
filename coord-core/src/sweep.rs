//! Maps of what lives elsewhere, cleared of the dead now and then instead of at every step.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Weak};

/// A map whose dead entries are swept out whenever it has doubled: constant work for each
/// insertion, and never more than twice the living.
#[derive(Debug)]
pub struct SweptMap<K, V> {
    entries: HashMap<K, V>,
    sweep_at: usize,
}

impl<K, V> Default for SweptMap<K, V> {
    fn default() -> Self {
        SweptMap { entries: HashMap::new(), sweep_at: 64 }
    }
}

impl<K: Eq + Hash, V> SweptMap<K, V> {
    /// The value of a key, dead or alive.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key)
    }

    /// Inserts, after sweeping out what is not `alive` if it is time to.
    pub fn insert(&mut self, key: K, value: V, alive: impl Fn(&V) -> bool) {
        if self.entries.len() >= self.sweep_at {
            self.entries.retain(|_, value| alive(value));
            self.sweep_at = (self.entries.len() * 2).max(64);
        }
        self.entries.insert(key, value);
    }

    /// All values, dead or alive.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.entries.values()
    }
}

impl<K: Eq + Hash, V: Default> SweptMap<K, Weak<V>> {
    /// What all who name this key share, for as long as one of them has it; a new one where nobody
    /// does.
    pub fn shared(&mut self, key: K) -> Arc<V> {
        self.get(&key).and_then(Weak::upgrade).unwrap_or_else(|| {
            let shared = Arc::default();
            self.insert(key, Arc::downgrade(&shared), |shared| shared.strong_count() > 0);
            shared
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shared_lives_for_as_long_as_somebody_has_it() {
        let mut map: SweptMap<u32, Weak<u32>> = SweptMap::default();
        let one = map.shared(1);
        assert!(Arc::ptr_eq(&one, &map.shared(1)) && !Arc::ptr_eq(&one, &map.shared(2)));
        let gone = Arc::downgrade(&one);
        drop(one);
        assert!(gone.upgrade().is_none());
        (0..10_000).for_each(|n| drop(map.shared(n)));
        assert!(map.entries.len() <= 128, "{}", map.entries.len());
    }

    #[test]
    fn the_dead_never_outnumber_the_living_for_long() {
        let mut map = SweptMap::default();
        for n in 0..10_000 {
            map.insert(n, n, |value| value % 100 == 0);
        }
        assert!(map.entries.len() <= 2 * 100 + 64);
        assert!((0..10_000).step_by(100).all(|n| map.get(&n).is_some()));
    }
}
