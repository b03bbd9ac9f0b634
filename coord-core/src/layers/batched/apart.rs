//! Keys whose calls go alone for a while. Pure.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

/// How long a key stays apart.
pub(super) const APART: Duration = Duration::from_secs(10);

/// So many keys are remembered at most. What comes when there are as many is not: it costs others a
/// second request again.
const KEYS: usize = 1_024;

/// The keys that go alone, since what goes with them fails for their sake, or is late.
#[derive(Debug, Default)]
pub(super) struct Apart(HashMap<Bytes, Instant>);

impl Apart {
    pub(super) fn add(&mut self, key: Bytes, now: Instant) {
        if self.0.len() >= KEYS {
            self.0.retain(|_, end| *end > now);
        }
        if self.0.len() < KEYS || self.0.contains_key(&key) {
            self.0.insert(key, now + APART);
        }
    }

    pub(super) fn is_apart(&self, key: &Bytes, now: Instant) -> bool {
        self.0.get(key).is_some_and(|end| *end > now)
    }

    /// Whether there may be some.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_forgets_after_its_time_and_is_bounded() {
        let (mut apart, now) = (Apart::default(), Instant::now());
        let key = |n: usize| Bytes::from(format!("k{n}"));
        assert!(apart.is_empty());
        for n in 0..=KEYS {
            apart.add(key(n), now);
        }
        assert!(apart.is_apart(&key(KEYS - 1), now) && !apart.is_apart(&key(KEYS), now));
        apart.add(key(0), now + APART / 2);
        assert!(apart.is_apart(&key(0), now + APART) && !apart.is_apart(&key(1), now + APART));
        apart.add(key(KEYS), now + APART);
        assert_eq!(apart.0.len(), 2, "what is over makes room");
    }
}
