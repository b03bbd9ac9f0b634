//! Whether a stream of watches has gone deaf. Pure: time comes in.

use std::time::Duration;

use coord_api::Revision;
use tokio::time::Instant;

/// How long a stream may take to come as far as the store is known to be.
const CATCH_UP: Duration = Duration::from_millis(1_200);

/// How long a stream is believed while nobody knows how far the store is.
const BLIND: Duration = Duration::from_secs(3);

/// How long a stream that has never answered a request for progress may take to do so, before it is
/// asked otherwise what happened.
const MUTE: Duration = Duration::from_millis(900);

/// How long that may take.
pub(super) const PROBE_WITHIN: Duration = Duration::from_millis(700);

/// How long a stream may take to tell what is known to have happened.
const DELIVER_WITHIN: Duration = Duration::from_millis(600);

/// What is to be done about a stream unless something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    /// To ask by reading what happened in the ranges that it is to tell of.
    Probe,
    /// To give it up.
    Deaf,
}

/// What speaks for and against a stream of watches.
///
/// A member that is cut off from the others goes on answering, and is silent about changes that it
/// does not hear of. So it is not silence that counts: a linearizable read says how far the store
/// is, and a healthy stream gets there, by a change or by word of its member.
///
/// Some proxies pass changes on and never give their word. Of one that has not given it yet, it is
/// read what happened in the ranges that are watched: where that is nothing, there is nothing to
/// tell, and what happened must be told soon.
#[derive(Debug)]
pub(super) struct Liveness {
    /// The member has come so far, by what it delivers or by its word.
    reached: Revision,
    /// Where it must come, and since when that is waited for.
    wanted: Option<(Revision, Instant)>,
    /// When the store was last asked how far it is.
    marked: Instant,
    /// Whether it has ever answered a request for progress.
    answers: bool,
    /// Whether it is being read what happened.
    probing: bool,
    /// Since when something is known to have happened in the range of a watch that it has not told
    /// of.
    undelivered_since: Option<Instant>,
}

impl Liveness {
    /// A new stream. `answers` where another one on the same connection has answered a request for
    /// progress.
    pub(super) fn new(now: Instant, answers: bool) -> Self {
        Liveness {
            reached: Revision::ZERO,
            wanted: None,
            marked: now,
            answers,
            probing: false,
            undelivered_since: None,
        }
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

    /// Changes of a revision were delivered. That it delivers is a sign of life even where it is
    /// far behind.
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

    /// The member has answered a request for progress.
    pub(super) fn answered(&mut self, revision: Revision) {
        self.answers = true;
        self.told(revision);
    }

    /// It is being read what happened.
    pub(super) fn probing(&mut self) {
        self.probing = true;
    }

    /// It was read what happened, up to revision `as_of`. `undelivered_since` says since when
    /// something is known to have happened that was not delivered.
    pub(super) fn probed(&mut self, as_of: Revision, undelivered_since: Option<Instant>, now: Instant) {
        self.probing = false;
        self.set_undelivered_since(undelivered_since);
        self.told(as_of);
        if let Some((_, since)) = &mut self.wanted {
            *since = now;
        }
    }

    /// Since when something is known to have happened that was not delivered.
    pub(super) fn set_undelivered_since(&mut self, undelivered_since: Option<Instant>) {
        self.undelivered_since = undelivered_since;
    }

    /// A watch joined that has the past to deliver, from `after` on.
    pub(super) fn behind(&mut self, after: Revision) {
        self.reached = self.reached.min(after);
    }

    /// Whether it has ever answered a request for progress.
    pub(super) fn answers(&self) -> bool {
        self.answers
    }

    /// What is to be done unless something happens, and when.
    pub(super) fn due(&self) -> (Instant, Due) {
        let blind = (self.marked + BLIND, Due::Deaf);
        let late = self.wanted.filter(|_| !self.probing).map(|(_, since)| match self.answers {
            true => (since + CATCH_UP, Due::Deaf),
            false => (since + MUTE, Due::Probe),
        });
        let undelivered_since = self.undelivered_since.map(|since| (since + DELIVER_WITHIN, Due::Deaf));
        [late, undelivered_since].into_iter().flatten().fold(blind, |first, due| first.min(due))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(revision: u64) -> Revision {
        Revision::new(revision)
    }

    fn reached_10(now: Instant) -> Liveness {
        let mut liveness = Liveness::new(now, false);
        liveness.answered(at(10));
        liveness
    }

    #[test]
    fn a_watch_that_is_as_far_as_the_store_is_believed() {
        let start = Instant::now();
        let mut liveness = reached_10(start);
        assert!(!liveness.mark(at(10), start));
        assert_eq!(liveness.due(), (start + BLIND, Due::Deaf));
    }

    #[test]
    fn a_watch_that_falls_behind_is_asked_and_given_up() {
        let start = Instant::now();
        let mut liveness = reached_10(start);
        assert!(liveness.mark(at(11), start));
        assert_eq!(liveness.due(), (start + CATCH_UP, Due::Deaf));
        // Neither later marks nor words that do not get there put it off.
        assert!(liveness.mark(at(12), start + CATCH_UP / 2));
        liveness.told(at(10));
        assert_eq!(liveness.due(), (start + CATCH_UP, Due::Deaf));
    }

    #[test]
    fn a_watch_that_catches_up_is_believed_again() {
        let start = Instant::now();
        let mut liveness = reached_10(start);
        liveness.mark(at(20), start);
        let later = start + CATCH_UP / 2;
        liveness.delivered(at(15), later);
        assert_eq!(liveness.due(), (later + CATCH_UP, Due::Deaf), "it is far behind, and alive");
        liveness.told(at(20));
        assert_eq!(liveness.due(), (start + BLIND, Due::Deaf));
    }

    #[test]
    fn a_watch_from_the_past_must_come_to_the_present() {
        let start = Instant::now();
        let mut liveness = reached_10(start);
        liveness.behind(at(5));
        assert!(liveness.mark(at(10), start));
        assert_eq!(liveness.due(), (start + CATCH_UP, Due::Deaf));
    }

    #[test]
    fn without_word_of_the_store_no_watch_is_believed_for_long() {
        let start = Instant::now();
        let mut liveness = reached_10(start);
        let later = start + Duration::from_secs(1);
        assert!(!liveness.mark(at(10), later));
        assert_eq!(liveness.due(), (later + BLIND, Due::Deaf));
    }

    #[test]
    fn of_a_stream_that_never_answers_it_is_read_what_happened() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start, false);
        liveness.told(at(10));
        assert!(liveness.mark(at(11), start));
        assert_eq!(liveness.due(), (start + MUTE, Due::Probe));
        liveness.probing();
        assert_eq!(liveness.due(), (start + BLIND, Due::Deaf), "it is known soon");
        let later = start + MUTE;
        // Nothing happened: there is nothing to tell.
        liveness.probed(at(12), None, later);
        assert_eq!(liveness.due(), (start + BLIND, Due::Deaf));
        // Something did, and it is not told.
        liveness.mark(at(13), later);
        liveness.probing();
        liveness.probed(at(13), Some(later), later);
        assert_eq!(liveness.due(), (later + DELIVER_WITHIN, Due::Deaf));
        // Now it is.
        liveness.set_undelivered_since(None);
        assert_eq!(liveness.due(), (later + BLIND, Due::Deaf));
        // Once it has answered, its word counts.
        liveness.answered(at(13));
        liveness.mark(at(14), later);
        assert_eq!(liveness.due(), (later + CATCH_UP, Due::Deaf));
    }
}
