//! Batches out of what a server sends: fragments put together, revisions parted, repetitions
//! dropped. Pure.

use coord_api::Revision;
use coord_api::store::{Batch, Change};
use etcd_client::proto::{PbEvent, PbWatchResponse};

use crate::error::Fault;
use crate::wire::{entry, revision};

/// Number of the event type of a deletion. Anything else but a put is none that we know.
const DELETE: i32 = 1;
const PUT: i32 = 0;

/// What one response came to.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Assembled {
    /// Whole revisions, in order.
    pub(super) batches: Vec<Batch>,
    /// Everything up to here was delivered.
    pub(super) progress: Option<Revision>,
    /// How far the member has come, where the response was about that.
    pub(super) told: Option<Revision>,
}

/// Puts the responses to one watch together.
#[derive(Debug)]
pub(super) struct Assembler {
    /// Everything up to here was delivered, or was not asked for.
    seen: Revision,
    /// The changes of a revision that may go on in the next fragment.
    open: Option<Batch>,
}

impl Assembler {
    pub(super) fn new(seen: Revision) -> Self {
        Assembler { seen, open: None }
    }

    /// Takes one response.
    ///
    /// # Errors
    ///
    /// What ends the watch: that it was canceled, that history is gone, or that revisions go back
    /// within what belongs together.
    pub(super) fn take(&mut self, response: PbWatchResponse) -> Result<Assembled, Fault> {
        let mut taken = Assembled::default();
        if response.canceled {
            return Err(canceled(&response));
        }
        if response.events.is_empty() && !response.fragment {
            taken.told = response.header.as_ref().map(|header| revision(header.revision));
            taken.progress = taken.told.filter(|progress| *progress > self.seen);
            self.seen = self.seen.max(taken.progress.unwrap_or_default());
        }
        for event in response.events {
            self.add(event, &mut taken.batches)?;
        }
        // Without a fragment to follow, the last revision is whole as well.
        if !response.fragment {
            taken.batches.extend(self.open.take());
        }
        Ok(taken)
    }

    fn add(&mut self, event: PbEvent, whole: &mut Vec<Batch>) -> Result<(), Fault> {
        let Some(key_value) = event.kv else {
            return Err(Fault::unavailable("etcd sent an event without a key"));
        };
        let at = revision(key_value.mod_revision);
        if self.open.as_ref().is_some_and(|open| at < open.revision) {
            return Err(Fault::unavailable("etcd sent events out of order"));
        }
        if self.open.as_ref().is_some_and(|open| at > open.revision) {
            whole.extend(self.open.take());
        }
        let change = match event.r#type {
            PUT => Change::Put(entry(key_value)),
            DELETE => Change::Delete { key: key_value.key.into() },
            _ => return Err(Fault::unavailable("etcd sent an event of an unknown type")),
        };
        match &mut self.open {
            Some(open) => open.changes.push(change),
            // A follower that caught up by a snapshot, and a watch that was resumed, tell again
            // what was seen.
            None if at <= self.seen => {}
            None => {
                self.seen = at;
                self.open = Some(Batch { revision: at, changes: vec![change] });
            }
        }
        Ok(())
    }
}

/// Why a server canceled a watch. A compaction says so by its revision alone, with an empty reason.
pub(super) fn canceled(response: &PbWatchResponse) -> Fault {
    if response.compact_revision > 0 {
        return Fault::compacted(Some(revision(response.compact_revision)));
    }
    Fault::canceled(&response.cancel_reason)
}

#[cfg(test)]
mod tests {
    use coord_api::ErrorKind;
    use etcd_client::proto::{PbKeyValue, PbResponseHeader};

    use super::*;

    fn event(key: &str, at: i64) -> PbEvent {
        let kv =
            PbKeyValue { key: key.into(), mod_revision: at, create_revision: at, ..PbKeyValue::default() };
        PbEvent { r#type: PUT, kv: Some(kv), prev_kv: None }
    }

    fn response(events: impl IntoIterator<Item = PbEvent>) -> PbWatchResponse {
        PbWatchResponse { events: events.into_iter().collect(), ..PbWatchResponse::default() }
    }

    fn fragment(events: impl IntoIterator<Item = PbEvent>) -> PbWatchResponse {
        PbWatchResponse { fragment: true, ..response(events) }
    }

    fn assembler() -> Assembler {
        Assembler::new(Revision::new(10))
    }

    /// The revisions of what came out, each with its keys.
    fn told(taken: Result<Assembled, Fault>) -> Vec<(u64, String)> {
        let keys = |batch: &Batch| {
            batch.changes.iter().map(|change| String::from_utf8_lossy(change.key()).into_owned()).collect()
        };
        taken.unwrap().batches.iter().map(|batch| (batch.revision.get(), keys(batch))).collect()
    }

    #[test]
    fn revisions_are_parted_and_kept_whole() {
        let mut assembler = assembler();
        let taken = assembler.take(response([event("a", 11), event("b", 11), event("c", 12)]));
        assert_eq!(told(taken), [(11, "ab".into()), (12, "c".into())]);
    }

    #[test]
    fn fragments_are_put_together() {
        let mut assembler = assembler();
        assert_eq!(
            told(assembler.take(fragment([event("a", 11), event("b", 12)]))),
            [(11, "a".into())],
            "12 may go on"
        );
        assert_eq!(told(assembler.take(fragment([event("c", 12)]))), []);
        assert_eq!(
            told(assembler.take(response([event("d", 12), event("e", 13)]))),
            [(12, "bcd".into()), (13, "e".into())]
        );
    }

    #[test]
    fn what_was_seen_is_dropped_whole() {
        let mut assembler = assembler();
        assert_eq!(
            told(assembler.take(response([event("a", 9), event("b", 10), event("c", 11)]))),
            [(11, "c".into())]
        );
        assert_eq!(
            told(assembler.take(response([event("b", 10), event("c", 11)]))),
            [],
            "a follower tells it again"
        );
        assert_eq!(told(assembler.take(response([event("d", 12)]))), [(12, "d".into())]);
    }

    #[test]
    fn what_goes_back_within_a_response_ends_the_watch() {
        let fault = assembler().take(response([event("a", 12), event("b", 11)])).unwrap_err();
        assert_eq!(fault.kind, ErrorKind::Unavailable);
    }

    #[test]
    fn progress_is_told() {
        let mut assembler = assembler();
        let header = Some(PbResponseHeader { revision: 20, ..PbResponseHeader::default() });
        let own = PbWatchResponse { header, ..response([]) };
        let taken = assembler.take(own.clone()).unwrap();
        assert_eq!((taken.told, taken.progress), (Some(Revision::new(20)), Some(Revision::new(20))));
        assert_eq!(assembler.take(own).unwrap().progress, None, "it is no news");
    }

    #[test]
    fn a_compaction_is_a_cancellation_without_a_reason() {
        let canceled = PbWatchResponse { canceled: true, compact_revision: 30, ..response([]) };
        let fault = assembler().take(canceled).unwrap_err();
        assert_eq!((fault.kind, fault.oldest), (ErrorKind::Compacted, Some(Revision::new(30))));
    }

    #[test]
    fn a_cancellation_without_any_reason_passes() {
        let canceled = PbWatchResponse { canceled: true, ..response([]) };
        assert_eq!(assembler().take(canceled).unwrap_err().kind, ErrorKind::Unavailable);
    }

    #[test]
    fn nonsense_ends_the_watch_and_panics_nobody() {
        let keyless = PbEvent { kv: None, ..event("a", 11) };
        assert!(assembler().take(response([keyless])).is_err());
        let unknown = PbEvent { r#type: 9, ..event("a", 11) };
        assert!(assembler().take(response([unknown])).is_err());
        let past = event("a", -1);
        assert_eq!(told(assembler().take(response([past]))), []);
    }
}
