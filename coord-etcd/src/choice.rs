//! Which member is asked, and when one that failed is tried again. Pure: time and chance come in,
//! and what is to be done comes out.

use std::time::Duration;

use coord_home::BackoffPolicy;
use tokio::time::Instant;

/// The pauses before the trials of a member that failed.
const TRIALS: BackoffPolicy = BackoffPolicy::new(Duration::from_secs(1), Duration::from_secs(32));

/// A member that answers for so long has its past forgiven.
const TRUSTED_AFTER: Duration = Duration::from_secs(60);

/// The choice among the members of one cluster.
///
/// One member is the *usual* one. It is asked until it fails; then another one is *preferred*, one
/// that has not failed if there is any. A member that failed is tried again in the background,
/// after pauses that grow, with a single request at a time. When the usual one passes such a trial
/// it is asked again, or else all clients would be with the same member after each has been
/// restarted.
#[derive(Debug)]
pub(crate) struct Choice<M> {
    /// Never empty, and each member once.
    members: Vec<Candidate<M>>,
    /// The member that is asked while it answers.
    usual: M,
    /// The member that is asked now.
    preferred: M,
}

/// A member, and how it did lately.
#[derive(Debug)]
struct Candidate<M> {
    member: M,
    health: Health,
    /// Whether somebody tries it again.
    on_trial: bool,
}

impl<M> Candidate<M> {
    fn new(member: M) -> Self {
        Candidate { member, health: Health::default(), on_trial: false }
    }
}

/// What the failure of a member makes necessary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct AfterFailure {
    /// Trials of this member are to begin. Whoever makes them asks for [`Choice::next_trial`] until
    /// there is none, or else says [`Choice::abandon_trials`].
    pub(crate) begin_trials: bool,
    /// Another member is asked from now on.
    pub(crate) moved: bool,
}

impl<M: Clone + PartialEq> Choice<M> {
    /// Among these, which must be some. The usual one is drawn by `chance`, from 0 to 1, so that
    /// many clients spread over the cluster.
    pub(crate) fn new(members: Vec<M>, chance: f64) -> Option<Self> {
        let usual = drawn(&members, chance)?.clone();
        Some(Choice {
            members: members.into_iter().map(Candidate::new).collect(),
            preferred: usual.clone(),
            usual,
        })
    }

    /// The member that is asked now.
    pub(crate) fn preferred(&self) -> &M {
        &self.preferred
    }

    /// The member that is asked while it answers.
    pub(crate) fn usual(&self) -> &M {
        &self.usual
    }

    /// Who the members are.
    pub(crate) fn members(&self) -> impl Iterator<Item = &M> {
        self.members.iter().map(|candidate| &candidate.member)
    }

    /// How many members there are.
    pub(crate) fn count(&self) -> usize {
        self.members.len()
    }

    /// When a member last failed, unless it has recovered, or is none.
    pub(crate) fn failed(&self, member: &M) -> Option<Instant> {
        self.find(member)?.health.failed()
    }

    /// A member failed, or was silent: from now on another one is asked. Of those that have not
    /// failed it is drawn by `chance`, from 0 to 1; else it is the one that has not failed for the
    /// longest time. A single member is not tried in the background: it is asked all the same.
    pub(crate) fn fail(&mut self, member: &M, now: Instant, chance: f64) -> AfterFailure {
        let is_single = self.members.len() == 1;
        let Some(candidate) = self.find_mut(member) else { return AfterFailure::default() };
        candidate.health.fail(now);
        let begin_trials = !is_single && !candidate.on_trial;
        candidate.on_trial |= begin_trials;
        let other = if self.preferred == *member { self.another_than(member, chance).cloned() } else { None };
        let moved = other.is_some();
        self.preferred = other.unwrap_or_else(|| self.preferred.clone());
        AfterFailure { begin_trials, moved }
    }

    fn another_than(&self, failed: &M, chance: f64) -> Option<&M> {
        let others: Vec<_> = self.members.iter().filter(|candidate| candidate.member != *failed).collect();
        let first = others.iter().map(|candidate| candidate.health.failed()).min()?;
        let best: Vec<_> = others.iter().filter(|candidate| candidate.health.failed() == first).collect();
        drawn(&best, chance).map(|candidate| &candidate.member)
    }

    /// How long to wait before the next trial of a member; `None` where there is none, because it
    /// is no member any more or has recovered otherwise. The trials are over then.
    pub(crate) fn next_trial(&mut self, member: &M, chance: f64) -> Option<Duration> {
        let candidate = self.find_mut(member)?;
        candidate.on_trial &= candidate.health.failed().is_some();
        candidate.on_trial.then(|| candidate.health.pause(chance))
    }

    /// Nobody tries this member any more, although it has not recovered: its next failure begins
    /// the trials again.
    pub(crate) fn abandon_trials(&mut self, member: &M) {
        if let Some(candidate) = self.find_mut(member) {
            candidate.on_trial = false;
        }
    }

    /// A member failed a trial.
    pub(crate) fn fail_trial(&mut self, member: &M) {
        if let Some(candidate) = self.find_mut(member) {
            candidate.health.fail_trial();
        }
    }

    /// A member passed a trial. Whether it is the usual one, which is asked again from now on.
    pub(crate) fn pass_trial(&mut self, member: &M, now: Instant) -> bool {
        let Some(candidate) = self.find_mut(member) else { return false };
        candidate.health.recover(now);
        candidate.on_trial = false;
        let is_usual = self.usual == *member;
        if is_usual {
            self.preferred = member.clone();
        }
        is_usual
    }

    /// A member has answered otherwise. Where it had failed, it is as one that has passed a trial,
    /// but is not asked for that.
    pub(crate) fn recover(&mut self, member: &M, now: Instant) {
        if let Some(candidate) = self.find_mut(member).filter(|candidate| candidate.health.failed().is_some())
        {
            candidate.health.recover(now);
        }
    }

    /// From now on, this member is asked while it answers.
    pub(crate) fn prefer(&mut self, member: &M) {
        self.usual = member.clone();
        self.preferred = member.clone();
    }

    /// These are the members from now on. Whoever was a member before keeps its past. Where the
    /// usual one is none any more, it is the one that is asked now or, where that is gone as well,
    /// one that is drawn by `chance`, from 0 to 1. Without any, nothing changes.
    pub(crate) fn become_these(&mut self, members: &[M], chance: f64) {
        let mut before = std::mem::take(&mut self.members);
        for member in members {
            if self.find(member).is_none() {
                let known = before
                    .iter()
                    .position(|candidate| candidate.member == *member)
                    .map(|at| before.swap_remove(at));
                self.members.push(known.unwrap_or_else(|| Candidate::new(member.clone())));
            }
        }
        let healthiest = self.members.iter().min_by_key(|candidate| candidate.health.failed());
        let Some((healthiest, any)) = healthiest.zip(drawn(&self.members, chance)) else {
            self.members = before;
            return;
        };
        let (healthiest, any) = (healthiest.member.clone(), any.member.clone());
        let keeps_preferred = self.find(&self.preferred).is_some();
        if self.find(&self.usual).is_none() {
            self.usual = if keeps_preferred { self.preferred.clone() } else { any };
        }
        if !keeps_preferred {
            self.preferred = if self.failed(&self.usual).is_none() { self.usual.clone() } else { healthiest };
        }
    }

    fn find(&self, member: &M) -> Option<&Candidate<M>> {
        self.members.iter().find(|candidate| candidate.member == *member)
    }

    fn find_mut(&mut self, member: &M) -> Option<&mut Candidate<M>> {
        self.members.iter_mut().find(|candidate| candidate.member == *member)
    }
}

/// One of these, by `chance` from 0 to 1.
fn drawn<T>(from: &[T], chance: f64) -> Option<&T> {
    // The conversion takes what is out of range for the nearest that is not.
    let at = (chance * from.len() as f64) as usize;
    from.get(at.min(from.len().saturating_sub(1)))
}

/// How a member did lately.
#[derive(Debug, Default)]
struct Health {
    failed: Option<Instant>,
    recovered: Option<Instant>,
    /// Failed trials, and relapses, since it was last trusted.
    strikes: u32,
}

impl Health {
    /// A call to it failed, and the fault was its own.
    fn fail(&mut self, now: Instant) {
        if self.failed.is_none()
            && self
                .recovered
                .is_none_or(|recovered| now.saturating_duration_since(recovered) >= TRUSTED_AFTER)
        {
            self.strikes = 0;
        }
        self.failed = Some(now);
    }

    /// It failed a trial, too.
    fn fail_trial(&mut self) {
        self.strikes = self.strikes.saturating_add(1);
    }

    /// It answers again.
    fn recover(&mut self, now: Instant) {
        self.failed = None;
        self.recovered = Some(now);
        self.strikes = self.strikes.saturating_add(1);
    }

    /// When it last failed, unless it has recovered.
    fn failed(&self) -> Option<Instant> {
        self.failed
    }

    /// The pause before its next trial. Many clients that lost a member at once come back to it one
    /// by one, by chance.
    fn pause(&self, chance: f64) -> Duration {
        TRIALS.pause(self.strikes, chance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Three members, of which `a` is the usual one.
    fn choice() -> Choice<char> {
        Choice::new(vec!['a', 'b', 'c'], 0.0).unwrap()
    }

    fn members(choice: &Choice<char>) -> String {
        choice.members().collect()
    }

    #[test]
    fn the_usual_member_is_drawn() {
        let usual = |chance| *Choice::new(vec!['a', 'b', 'c'], chance).unwrap().preferred();
        assert_eq!(
            [0.0, 0.3, 0.5, 0.99, 1.0, -1.0, f64::NAN].map(usual),
            ['a', 'a', 'b', 'c', 'c', 'a', 'a']
        );
        assert!(Choice::<char>::new(Vec::new(), 0.5).is_none());
    }

    #[test]
    fn a_member_that_fails_is_ejected_for_one_that_has_not() {
        let (mut choice, now) = (choice(), Instant::now());
        assert_eq!(choice.fail(&'a', now, 1.0), AfterFailure { begin_trials: true, moved: true });
        assert_eq!((*choice.preferred(), *choice.usual(), choice.failed(&'a')), ('c', 'a', Some(now)));
        // `b` failed while another one was asked, as a watch on it finds out.
        assert_eq!(choice.fail(&'b', now + SECOND, 0.0), AfterFailure { begin_trials: true, moved: false });
        assert_eq!(*choice.preferred(), 'c');
        // Now all have: the one that failed first is asked, whatever chance says.
        choice.fail(&'c', now + 2 * SECOND, 1.0);
        assert_eq!(*choice.preferred(), 'a');
    }

    #[test]
    fn a_member_is_tried_by_one_task_at_a_time() {
        let (mut choice, now) = (choice(), Instant::now());
        assert!(choice.fail(&'a', now, 0.0).begin_trials);
        assert!(!choice.fail(&'a', now, 0.0).begin_trials, "it is on trial already");
        assert!(choice.next_trial(&'a', 0.0).is_some());
        choice.pass_trial(&'a', now);
        assert!(choice.fail(&'a', now, 0.0).begin_trials);
        choice.abandon_trials(&'a');
        assert!(choice.fail(&'a', now, 0.0).begin_trials, "whoever tried it is gone");
    }

    #[test]
    fn the_usual_member_is_asked_again_when_it_passes_a_trial() {
        let (mut choice, now) = (choice(), Instant::now());
        choice.fail(&'a', now, 0.0);
        choice.fail(&'b', now, 0.0);
        assert_eq!(*choice.preferred(), 'c');
        choice.fail_trial(&'a');
        assert!(choice.failed(&'a').is_some() && *choice.preferred() == 'c');
        assert!(!choice.pass_trial(&'b', now), "it is not the usual one");
        assert_eq!((*choice.preferred(), choice.failed(&'b')), ('c', None));
        assert!(choice.pass_trial(&'a', now));
        assert_eq!(*choice.preferred(), 'a');
    }

    #[test]
    fn trials_end_with_a_recovery_by_another_way_and_with_the_membership() {
        let (mut choice, now) = (choice(), Instant::now());
        choice.fail(&'a', now, 0.0);
        choice.recover(&'a', now);
        assert_eq!(
            (choice.next_trial(&'a', 0.0), *choice.preferred()),
            (None, 'b'),
            "nobody goes back for that"
        );
        assert!(choice.fail(&'a', now, 0.0).begin_trials);
        choice.become_these(&['b', 'c'], 0.0);
        assert_eq!(choice.next_trial(&'a', 0.0), None);
        assert_eq!(choice.fail(&'a', now, 0.0), AfterFailure::default(), "it is no member any more");
    }

    #[test]
    fn a_single_member_is_asked_all_the_same() {
        let (mut choice, now) = (Choice::new(vec!['a'], 0.5).unwrap(), Instant::now());
        assert_eq!(choice.fail(&'a', now, 0.5), AfterFailure::default());
        assert_eq!((*choice.preferred(), choice.failed(&'a')), ('a', Some(now)));
    }

    #[test]
    fn members_come_and_go() {
        let (mut choice, now) = (choice(), Instant::now());
        choice.fail(&'a', now, 0.0);
        assert_eq!(*choice.preferred(), 'b');
        choice.become_these(&['c', 'b', 'b', 'd'], 0.0);
        assert_eq!((members(&choice).as_str(), choice.count()), ("cbd", 3));
        assert_eq!((*choice.preferred(), *choice.usual()), ('b', 'b'), "who is asked stays");
        choice.fail(&'c', now, 0.0);
        choice.become_these(&['c', 'd'], 0.0);
        assert_eq!(
            (*choice.usual(), *choice.preferred()),
            ('c', 'd'),
            "by chance, but not asked while it fails"
        );
        assert!(choice.failed(&'c').is_some(), "who stays keeps its past");
        choice.become_these(&[], 0.0);
        assert_eq!(
            (members(&choice).as_str(), *choice.preferred()),
            ("cd", 'd'),
            "nobody is nothing to go by"
        );
    }

    #[test]
    fn a_member_that_goes_on_failing_is_tried_more_and_more_rarely() {
        let (mut choice, now) = (choice(), Instant::now());
        assert_eq!(choice.next_trial(&'a', 0.0), None);
        choice.fail(&'a', now, 0.0);
        for longest in [1, 2, 4, 8, 16, 32, 32] {
            let pauses = [0.0, 1.0].map(|chance| choice.next_trial(&'a', chance));
            assert_eq!(pauses, [Some(SECOND * longest / 2), Some(SECOND * longest)]);
            // What is asked of it meanwhile, because there is nobody else, changes nothing.
            choice.fail(&'a', now + SECOND, 0.0);
            choice.fail_trial(&'a');
        }
    }

    #[test]
    fn one_that_fails_again_soon_has_to_wait_longer_and_later_it_is_forgiven() {
        let (mut choice, mut now) = (choice(), Instant::now());
        for longest in [1, 2, 4] {
            choice.fail(&'a', now, 0.0);
            assert_eq!(choice.next_trial(&'a', 1.0), Some(SECOND * longest));
            choice.pass_trial(&'a', now);
            assert_eq!(choice.failed(&'a'), None);
            now += TRUSTED_AFTER - SECOND;
        }
        choice.pass_trial(&'a', now);
        choice.fail(&'a', now + TRUSTED_AFTER, 0.0);
        assert_eq!(choice.next_trial(&'a', 1.0), Some(SECOND));
    }
}
