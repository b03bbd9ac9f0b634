//! Where a registration stands, and what is to be done next. Pure: the time comes in, and nothing
//! is sent or awaited here.

use coord_api::Takeover;
use tokio::time::Instant;

/// Where a registration stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing is wanted in the store.
    Idle,
    /// It is not in the store as wanted, and is to be written: then, or at once.
    Writing { not_before: Option<Instant> },
    /// The store holds what is wanted, as far as is known.
    Held,
}

/// What happens to a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Other content is wanted. With a policy for a live foreign owner, it is registered anew;
    /// without one, what is registered is updated or goes on.
    Wanted(Option<Takeover>),
    /// It was written as wanted.
    Placed,
    /// It was found to be gone from the store, at this time.
    Lost(Instant),
    /// Writing it failed, and is tried again then.
    Failed(Instant),
    /// A foreign owner was found in its place, and is to be replaced.
    Contested,
    /// Nothing is wanted any more.
    Over,
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Nothing, until something is wanted.
    Rest,
    /// Write it.
    Write,
    /// Wait until then, and write it. What happens to it meanwhile counts.
    WriteAt(Instant),
    /// Wait until it is lost, or another's.
    Follow,
    /// Give way to the foreign owner who took its place: a registration that heals never fights
    /// (R37).
    GiveWay,
}

/// The life of one registration.
#[derive(Clone, Debug)]
pub(super) struct Lifecycle {
    phase: Stage,
    /// What to do with a live foreign owner, until it was written; none when healing.
    takeover: Option<Takeover>,
    /// A foreign owner was found in its place: who does not want to replace it any more is
    /// superseded.
    contested: bool,
    /// Since when it is lost, once it was held.
    lost_at: Option<Instant>,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Lifecycle { phase: Stage::Idle, takeover: None, contested: false, lost_at: None }
    }
}

impl Lifecycle {
    /// Takes an event in, and says what is to be done next.
    pub(super) fn step(&mut self, event: Event) -> Action {
        match event {
            Event::Wanted(takeover) => {
                self.phase = Stage::Writing { not_before: None };
                self.takeover = takeover;
            }
            Event::Placed => *self = Lifecycle { phase: Stage::Held, ..Lifecycle::default() },
            Event::Lost(at) => {
                if self.phase == Stage::Held {
                    self.phase = Stage::Writing { not_before: None };
                }
                self.lost_at.get_or_insert(at);
            }
            Event::Failed(again) => {
                if self.phase != Stage::Idle {
                    self.phase = Stage::Writing { not_before: Some(again) };
                }
            }
            Event::Contested => self.contested = true,
            Event::Over => self.phase = Stage::Idle,
        }
        self.action()
    }

    /// What is to be done next.
    pub(super) fn action(&self) -> Action {
        match self.phase {
            Stage::Idle => Action::Rest,
            Stage::Held => Action::Follow,
            Stage::Writing { .. } if self.contested && self.takeover.is_none() => Action::GiveWay,
            Stage::Writing { not_before: None } => Action::Write,
            Stage::Writing { not_before: Some(then) } => Action::WriteAt(then),
        }
    }

    /// Whether a live foreign owner is replaced.
    pub(super) fn replaces(&self) -> bool {
        self.takeover == Some(Takeover::Replace)
    }

    /// Whether it goes on with what was registered, and does not register anew.
    pub(super) fn goes_on(&self) -> bool {
        self.takeover.is_none()
    }

    /// Since when it is lost, once it was held.
    pub(super) fn lost_at(&self) -> Option<Instant> {
        self.lost_at
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn later(now: Instant) -> Instant {
        now + Duration::from_secs(1)
    }

    #[test]
    fn it_is_written_followed_lost_and_written_again() {
        let (mut life, now) = (Lifecycle::default(), Instant::now());
        assert_eq!(life.action(), Action::Rest);
        assert_eq!(life.step(Event::Wanted(Some(Takeover::Exclusive))), Action::Write);
        assert!(!life.goes_on() && !life.replaces());
        assert_eq!(life.step(Event::Placed), Action::Follow);
        assert_eq!(life.step(Event::Lost(now)), Action::Write);
        assert_eq!(life.step(Event::Failed(later(now))), Action::WriteAt(later(now)));
        assert_eq!(life.step(Event::Lost(later(now))), Action::WriteAt(later(now)), "the pause goes on");
        assert_eq!(life.lost_at(), Some(now), "lost once, since the first time");
        assert!(life.goes_on(), "healing takes nothing from anybody");
        assert_eq!(life.step(Event::Placed), Action::Follow);
        assert_eq!(life.lost_at(), None);
    }

    #[test]
    fn who_wants_to_replace_a_foreign_owner_tries_on_and_who_does_not_gives_way() {
        let (mut life, now) = (Lifecycle::default(), Instant::now());
        life.step(Event::Wanted(Some(Takeover::Replace)));
        assert_eq!(life.step(Event::Contested), Action::Write);
        assert!(life.replaces());
        assert_eq!(life.step(Event::Failed(now)), Action::WriteAt(now));
        assert_eq!(
            life.step(Event::Wanted(None)),
            Action::GiveWay,
            "its caller went away, and what was registered before is lost"
        );
        assert_eq!(life.step(Event::Wanted(Some(Takeover::Replace))), Action::Write);
        assert_eq!(life.step(Event::Placed), Action::Follow);
        assert_eq!(life.step(Event::Wanted(None)), Action::Write, "an update of what is held");
    }

    #[test]
    fn what_is_over_rests_whatever_happens() {
        let (mut life, now) = (Lifecycle::default(), Instant::now());
        life.step(Event::Wanted(Some(Takeover::Replace)));
        life.step(Event::Placed);
        assert_eq!(life.step(Event::Over), Action::Rest);
        assert_eq!(life.step(Event::Failed(now)), Action::Rest);
        assert_eq!(life.step(Event::Lost(now)), Action::Rest);
    }
}
