//! Whether a stream of watches has gone deaf. Pure: time comes in.

use std::time::Duration;

use coord_api::Revision;
use tokio::time::Instant;

/// How long a stream may take to come as far as the store is known to be.
const CATCH_UP: Duration = Duration::from_millis(1_200);

/// How long a stream is believed while nobody knows how far the store is.
const BLIND: Duration = Duration::from_secs(3);

/// What speaks for and against a stream of watches.
///
/// A member that is cut off from the others goes on answering, and is silent about changes that it does not hear of. So it is not silence that counts: a
/// linearizable read says how far the store is, and a healthy stream gets there, by a change or by word of its member.
#[derive(Debug)]
pub(super) struct Liveness {
    /// The member has come so far, by what it delivers or by its word.
    reached: Revision,
    /// Where it must come, and since when that is waited for.
    wanted: Option<(Revision, Instant)>,
    /// When the store was last asked how far it is.
    marked: Instant,
}

impl Liveness {
    pub(super) fn new(now: Instant) -> Self {
        Liveness { reached: Revision::ZERO, wanted: None, marked: now }
    }

    /// The store is as far as `revision`. Whether the member is to be asked how far it has come.
    pub(super) fn mark(&mut self, revision: Revision, now: Instant) -> bool {
        self.marked = self.marked.max(now);
        if self.reached >= revision {
            return false;
        }
        self.wanted.get_or_insert((revision, now));
        true
    }

    /// Changes of a revision were delivered. That it delivers is a sign of life even where it is far behind.
    pub(super) fn delivered(&mut self, revision: Revision, now: Instant) {
        self.told(revision);
        if let Some((_, since)) = &mut self.wanted {
            *since = now;
        }
    }

    /// The member says that it has come so far.
    pub(super) fn told(&mut self, revision: Revision) {
        self.reached = self.reached.max(revision);
        self.wanted = self.wanted.filter(|(wanted, _)| self.reached < *wanted);
    }

    /// A watch joined that has the past to deliver, from `after` on.
    pub(super) fn behind(&mut self, after: Revision) {
        self.reached = self.reached.min(after);
    }

    /// When the stream counts as deaf unless something happens.
    pub(super) fn deadline(&self) -> Instant {
        let blind = self.marked + BLIND;
        self.wanted.map_or(blind, |(_, since)| blind.min(since + CATCH_UP))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(revision: u64) -> Revision {
        Revision::new(revision)
    }

    fn reached_10(now: Instant) -> Liveness {
        let mut liveness = Liveness::new(now);
        liveness.told(at(10));
        liveness
    }

    #[test]
    fn a_watch_that_is_as_far_as_the_store_is_believed() {
        let start = Instant::now();
        let mut liveness = reached_10(start);
        assert!(!liveness.mark(at(10), start));
        assert_eq!(liveness.deadline(), start + BLIND);
    }

    #[test]
    fn a_watch_that_falls_behind_is_asked_and_given_up() {
        let start = Instant::now();
        let mut liveness = reached_10(start);
        assert!(liveness.mark(at(11), start));
        assert_eq!(liveness.deadline(), start + CATCH_UP);
        // Neither later marks nor words that do not get there put it off.
        assert!(liveness.mark(at(12), start + CATCH_UP / 2));
        liveness.told(at(10));
        assert_eq!(liveness.deadline(), start + CATCH_UP);
    }

    #[test]
    fn a_watch_that_catches_up_is_believed_again() {
        let start = Instant::now();
        let mut liveness = reached_10(start);
        liveness.mark(at(20), start);
        let later = start + CATCH_UP / 2;
        liveness.delivered(at(15), later);
        assert_eq!(liveness.deadline(), later + CATCH_UP, "it is far behind, and alive");
        liveness.told(at(20));
        assert_eq!(liveness.deadline(), start + BLIND);
    }

    #[test]
    fn a_watch_from_the_past_must_come_to_the_present() {
        let start = Instant::now();
        let mut liveness = reached_10(start);
        liveness.behind(at(5));
        assert!(liveness.mark(at(10), start));
        assert_eq!(liveness.deadline(), start + CATCH_UP);
    }

    #[test]
    fn without_word_of_the_store_no_watch_is_believed_for_long() {
        let start = Instant::now();
        let mut liveness = reached_10(start);
        let later = start + Duration::from_secs(1);
        assert!(!liveness.mark(at(10), later));
        assert_eq!(liveness.deadline(), later + BLIND);
    }
}
