//! What a session knows of its lease and of what hangs on it. Pure: the time comes in, and nothing
//! is sent or awaited here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coord_api::{Error, Revision};
use tokio::time::Instant;

use super::loss::LossCell;

/// How far the local deadline lies before the lease's own: a twentieth of the TTL, within 10 and
/// 500 ms.
fn margin(ttl: Duration) -> Duration {
    (ttl / 20).clamp(Duration::from_millis(10), Duration::from_millis(500))
}

/// The state of one session.
#[derive(Debug)]
pub(super) struct SessionState {
    /// Until here the lease is certainly alive, by the local clock.
    deadline: Instant,
    /// When the last answered renewal was sent.
    renewed: Instant,
    /// How the last renewal failed, where it failed.
    failure: Option<Error>,
    /// The mod revision of the session's key: what writes under the session compare with.
    fence: Revision,
    /// The newest fence under which a write's outcome was left open; settled by a newer fence.
    in_doubt: Option<Revision>,
    /// What hangs on the lease, or is being written, by its number. Ordered, so that the same
    /// things happen in the same order each time.
    entries: BTreeMap<u64, Tracked>,
    /// Calls that need the session and have nothing on it yet.
    uses: usize,
    /// Since when nothing needs it.
    idle_since: Instant,
    /// A pending release grew too old: the lease must run out, so that nothing dropped is held for
    /// ever (R9).
    expiring: bool,
    /// It was retired for want of use, or is over: nobody may enter any more.
    shut: bool,
    /// Somebody entered: until then it waits for those for whom it was made.
    entered: bool,
}

/// An entry on the lease that a handle stands for.
#[derive(Clone, Debug)]
pub(super) struct Tracked {
    pub(super) key: Bytes,
    pub(super) loss: Arc<LossCell>,
    /// Its mod revision, as last known; none while its first write is under way.
    pub(super) modified: Option<Revision>,
}

/// Whether a session may be entered, or written under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission<T> {
    Granted(T),
    /// The local deadline has passed: the session is over, and must be told so.
    Expired,
    /// It takes nobody any more.
    Shut,
}

/// When a session that nothing needs may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retirement {
    /// Something needs it.
    Needed,
    /// Then, if nothing needs it until then.
    At(Instant),
    /// Now: nobody enters it any more.
    Now,
}

/// Whose an entry is that may be what a write in doubt has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// Nobody's.
    Nobody,
    /// It is what a handle stands for.
    Handle,
    /// A handle is writing it, or will learn that it has lost it.
    Unclear,
}

impl SessionState {
    /// A lease of `ttl`, asked for at `sent`, whose key was written at `fence`.
    pub(super) fn new(sent: Instant, ttl: Duration, fence: Revision, now: Instant) -> Self {
        SessionState {
            deadline: sent + ttl.saturating_sub(margin(ttl)),
            renewed: sent,
            failure: None,
            fence,
            in_doubt: None,
            entries: BTreeMap::new(),
            uses: 0,
            idle_since: now,
            expiring: false,
            shut: false,
            entered: false,
        }
    }

    /// Until when the lease is certainly alive.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Whether the local deadline has passed (R32).
    pub(super) fn has_expired(&self, now: Instant) -> bool {
        self.deadline <= now
    }

    /// The time left to the local deadline.
    pub(super) fn left(&self, now: Instant) -> Duration {
        self.deadline.saturating_duration_since(now)
    }

    /// When the last answered renewal was sent.
    pub(super) fn renewed_at(&self) -> Instant {
        self.renewed
    }

    /// How the last renewal failed, where it failed.
    pub(super) fn failure(&self) -> Option<&Error> {
        self.failure.as_ref()
    }

    /// Whether the lease is left to run out.
    pub(super) fn is_expiring(&self) -> bool {
        self.expiring
    }

    /// Whether callers may enter, as far as is known without a look at the clock.
    pub(super) fn is_open(&self) -> bool {
        !self.shut && !self.expiring
    }

    /// Counts a caller in.
    pub(super) fn enter(&mut self, now: Instant) -> Admission<()> {
        match (self.has_expired(now), self.is_open()) {
            (true, _) => Admission::Expired,
            (false, false) => Admission::Shut,
            (false, true) => {
                self.uses += 1;
                self.entered = true;
                Admission::Granted(())
            }
        }
    }

    /// Counts another reference to what was entered.
    pub(super) fn enter_again(&mut self) {
        self.uses += 1;
    }

    /// Counts a caller out. Says whether nothing needs the session any more.
    pub(super) fn leave(&mut self, now: Instant) -> bool {
        self.uses = self.uses.saturating_sub(1);
        self.rest(now)
    }

    /// Counts out `leaving` callers whose entries are written now, and says under which fence.
    pub(super) fn begin_write(
        &mut self,
        entries: Vec<(u64, Tracked)>,
        leaving: usize,
        now: Instant,
    ) -> Admission<Revision> {
        match (self.has_expired(now), self.shut) {
            (true, _) => Admission::Expired,
            (false, true) => Admission::Shut,
            (false, false) => {
                self.entries.extend(entries);
                self.uses = self.uses.saturating_sub(leaving);
                Admission::Granted(self.fence)
            }
        }
    }

    /// The fence for a write that is about to be sent.
    pub(super) fn fence(&self) -> Revision {
        self.fence
    }

    /// An entry was written at `modified`: from here on its loss is noticed. Says whether the
    /// session still lives.
    pub(super) fn written(&mut self, number: u64, entry: Tracked) -> bool {
        if !self.shut {
            self.entries.insert(number, entry);
        }
        !self.shut
    }

    /// Forgets an entry. Says whether nothing needs the session any more, and something did.
    pub(super) fn untrack(&mut self, number: u64, now: Instant) -> bool {
        self.entries.remove(&number).is_some() && self.rest(now)
    }

    /// Something needs the session no more.
    fn rest(&mut self, now: Instant) -> bool {
        let idle = self.is_idle();
        if idle {
            self.idle_since = now;
        }
        idle
    }

    /// Whether nothing needs the session: what was released or lost does not, however long its
    /// handle is kept (R9a).
    fn is_idle(&self) -> bool {
        self.uses == 0 && self.entries.is_empty()
    }

    /// Whether it may end for want of use: after one TTL, or at once where the provider is
    /// `abandoned` and somebody has entered (R9a).
    pub(super) fn retire(
        &mut self,
        ttl: Duration,
        releases_pending: bool,
        abandoned: bool,
        now: Instant,
    ) -> Retirement {
        if !self.is_idle() || releases_pending {
            return Retirement::Needed;
        }
        let then = self.idle_since + ttl;
        if now < then && !(abandoned && self.entered) {
            return Retirement::At(then);
        }
        self.shut = true;
        Retirement::Now
    }

    /// Nobody enters any more. Hands out all that hung on the lease.
    pub(super) fn end(&mut self) -> Vec<Tracked> {
        self.shut = true;
        std::mem::take(&mut self.entries).into_values().collect()
    }

    /// The lease is left to run out.
    pub(super) fn let_expire(&mut self) {
        self.expiring = true;
    }

    /// A renewal that was sent at `sent` was answered. Too late is too late: a deadline that passed
    /// is never moved (R32).
    pub(super) fn renewed(&mut self, sent: Instant, granted: Duration, now: Instant) {
        self.failure = None;
        if !self.shut && now < self.deadline {
            self.deadline = self.deadline.max(sent + granted.saturating_sub(margin(granted)));
            self.renewed = self.renewed.max(sent);
        }
    }

    /// A renewal failed.
    pub(super) fn renewal_failed(&mut self, failure: Error) {
        self.failure = Some(failure);
    }

    /// The entries that are known to be in the store.
    pub(super) fn in_store(&self) -> Vec<u64> {
        self.entries.iter().filter(|(_, entry)| entry.modified.is_some()).map(|(number, _)| *number).collect()
    }

    /// Takes out those of the entries `numbers` that are not among the lease's `keys`, which were
    /// read later and are sorted (R32).
    pub(super) fn take_removed(&mut self, numbers: &[u64], keys: &[Bytes], now: Instant) -> Vec<Tracked> {
        let is_gone =
            |entry: &Tracked| keys.binary_search_by(|key| key.as_ref().cmp(entry.key.as_ref())).is_err();
        let gone: Vec<u64> =
            numbers.iter().filter(|number| self.entries.get(number).is_some_and(is_gone)).copied().collect();
        let removed: Vec<Tracked> = gone.iter().filter_map(|number| self.entries.remove(number)).collect();
        if !removed.is_empty() {
            self.rest(now);
        }
        removed
    }

    /// A write under `fence` was sent, and nobody knows its outcome.
    pub(super) fn doubt(&mut self, fence: Revision) {
        if self.fence <= fence {
            self.in_doubt = Some(fence);
        }
    }

    /// Whether an earlier write may yet be applied.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.in_doubt.is_some()
    }

    /// The session's key was seen to be written at `seen`: no write under an earlier fence can be
    /// applied any more (R2).
    pub(super) fn learn_fence(&mut self, seen: Revision) {
        self.fence = self.fence.max(seen);
        self.in_doubt = self.in_doubt.filter(|in_doubt| *in_doubt >= self.fence);
    }

    /// Whose the entry under `key` is, that was written at `modified`.
    pub(super) fn owner_of(&self, key: &Bytes, modified: Revision) -> Owner {
        let mut tracked = self.entries.values().filter(|entry| entry.key == *key).peekable();
        if tracked.peek().is_none() {
            return Owner::Nobody;
        }
        if tracked.any(|entry| entry.modified == Some(modified)) { Owner::Handle } else { Owner::Unclear }
    }
}

#[cfg(test)]
mod tests {
    use coord_api::ErrorKind;

    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    fn at(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    fn session() -> (SessionState, Instant) {
        let start = Instant::now();
        (SessionState::new(start, TTL, Revision::new(5), start), start)
    }

    fn entry(key: &'static str, modified: Option<u64>) -> Tracked {
        Tracked { key: key.into(), loss: Arc::default(), modified: modified.map(Revision::new) }
    }

    #[test]
    fn the_deadline_lies_a_margin_before_the_leases_end_and_never_comes_back() {
        let (mut state, start) = session();
        assert!(!state.has_expired(at(start, 9_499)) && state.has_expired(at(start, 9_500)));
        state.renewed(at(start, 3_000), TTL, at(start, 3_100));
        assert_eq!(state.deadline(), at(start, 12_500), "counted from when it was sent");
        state.renewed(at(start, 2_000), TTL, at(start, 3_200));
        assert_eq!(state.deadline(), at(start, 12_500), "an older answer moves nothing back");
        state.renewed(at(start, 12_000), TTL, at(start, 12_500));
        assert!(state.has_expired(at(start, 12_500)), "too late is too late");
        assert_eq!(state.enter(at(start, 12_500)), Admission::Expired);
    }

    #[test]
    fn short_and_long_leases_keep_a_margin_within_bounds() {
        assert_eq!(margin(Duration::from_millis(100)), Duration::from_millis(10));
        assert_eq!(margin(Duration::from_secs(4)), Duration::from_millis(200));
        assert_eq!(margin(Duration::from_secs(3_600)), Duration::from_millis(500));
    }

    #[test]
    fn a_failed_renewal_is_remembered_until_one_is_answered() {
        let (mut state, start) = session();
        state.renewal_failed(Error::new(ErrorKind::Timeout, "test", "late"));
        assert_eq!(state.failure().map(Error::kind), Some(ErrorKind::Timeout));
        state.renewed(start, TTL, at(start, 10));
        assert!(state.failure().is_none());
    }

    #[test]
    fn it_retires_one_ttl_after_the_last_use() {
        let (mut state, start) = session();
        assert_eq!(state.retire(TTL, false, false, start), Retirement::At(at(start, 10_000)));
        assert_eq!(state.enter(at(start, 1_000)), Admission::Granted(()));
        assert_eq!(state.retire(TTL, false, false, at(start, 1_000)), Retirement::Needed);
        let fence = state.begin_write(vec![(1, entry("k", None))], 1, at(start, 1_000));
        assert_eq!(fence, Admission::Granted(Revision::new(5)));
        assert_eq!(
            state.retire(TTL, false, false, at(start, 1_000)),
            Retirement::Needed,
            "an entry hangs on it"
        );
        assert!(state.untrack(1, at(start, 2_000)));
        assert!(!state.untrack(1, at(start, 3_000)), "once");
        assert_eq!(
            state.retire(TTL, true, false, at(start, 20_000)),
            Retirement::Needed,
            "a release is pending"
        );
        assert_eq!(state.retire(TTL, false, false, at(start, 2_000)), Retirement::At(at(start, 12_000)));
        assert_eq!(state.retire(TTL, false, false, at(start, 12_000)), Retirement::Now);
        assert_eq!(state.enter(at(start, 2_000)), Admission::Shut);
    }

    #[test]
    fn without_a_provider_it_retires_at_once_but_not_before_those_have_come_for_whom_it_was_made() {
        let (mut state, start) = session();
        assert_eq!(state.retire(TTL, false, true, start), Retirement::At(at(start, 10_000)));
        assert_eq!(state.enter(start), Admission::Granted(()));
        assert!(state.leave(start));
        assert_eq!(state.retire(TTL, false, true, start), Retirement::Now);
    }

    #[test]
    fn a_lease_that_is_left_to_run_out_takes_nobody_and_still_serves_writes() {
        let (mut state, start) = session();
        state.let_expire();
        assert_eq!(state.enter(start), Admission::Shut);
        assert_eq!(state.begin_write(Vec::new(), 0, start), Admission::Granted(Revision::new(5)));
    }

    #[test]
    fn a_doubt_lasts_until_a_newer_fence_is_seen() {
        let (mut state, _) = session();
        state.doubt(Revision::new(5));
        assert!(state.is_in_doubt());
        state.learn_fence(Revision::new(5));
        assert!(state.is_in_doubt(), "the same fence lets the write through yet");
        state.learn_fence(Revision::new(9));
        assert!(!state.is_in_doubt());
        state.doubt(Revision::new(5));
        assert!(!state.is_in_doubt(), "a write under an old fence cannot be applied any more");
        state.learn_fence(Revision::new(7));
        assert_eq!(state.fence(), Revision::new(9));
    }

    #[test]
    fn only_what_was_known_to_be_there_before_the_look_counts_as_removed() {
        let (mut state, start) = session();
        let entries = vec![(1, entry("a", Some(6))), (2, entry("b", None)), (3, entry("c", Some(7)))];
        let _ = state.begin_write(entries, 0, start);
        let before = state.in_store();
        assert_eq!(before, [1, 3]);
        // Written after the look began: it is not judged by it.
        assert!(state.written(2, entry("b", Some(8))));
        let removed = state.take_removed(&before, &["c".into()], start);
        assert_eq!(removed.iter().map(|entry| entry.key.as_ref()).collect::<Vec<_>>(), [b"a"]);
        assert_eq!(state.in_store(), [2, 3]);
    }

    #[test]
    fn a_look_that_finds_nothing_gone_keeps_no_idle_session_alive() {
        let (mut state, start) = session();
        assert!(state.take_removed(&[], &[], at(start, 9_000)).is_empty());
        assert_eq!(state.retire(TTL, false, false, at(start, 9_000)), Retirement::At(at(start, 10_000)));
    }

    #[test]
    fn whose_an_entry_is_is_clear_only_where_nobody_writes_it() {
        let (mut state, start) = session();
        let key = Bytes::from("k");
        assert_eq!(state.owner_of(&key, Revision::new(6)), Owner::Nobody);
        let _ = state.begin_write(vec![(1, entry("k", None))], 0, start);
        assert_eq!(state.owner_of(&key, Revision::new(6)), Owner::Unclear);
        assert!(state.written(1, entry("k", Some(6))));
        assert_eq!(state.owner_of(&key, Revision::new(6)), Owner::Handle);
        assert_eq!(state.owner_of(&key, Revision::new(7)), Owner::Unclear);
    }

    #[test]
    fn what_ends_hands_out_everything_once_and_takes_nothing_more() {
        let (mut state, start) = session();
        let _ = state.begin_write(vec![(1, entry("a", Some(6))), (2, entry("b", None))], 0, start);
        assert_eq!(state.end().len(), 2);
        assert!(state.end().is_empty());
        assert!(!state.written(2, entry("b", Some(8))));
        assert_eq!(state.begin_write(Vec::new(), 0, start), Admission::Shut);
    }
}
