//! How far a watch has come in a history that it reads page by page (S4): pure.

use std::collections::VecDeque;

use coord_api::store::{Batch, Change, Span, StoreEvent};
use coord_api::{Error, ErrorKind, Result, Revision};

const OPERATION: &str = "store.watch";

/// Changes of a page, and so what a watch holds at most for a reader who does not read: with values
/// of 1 MiB each, 32 MiB. Only a revision that has more changes than that is held alone and whole.
const PAGE: usize = 32;

/// As many as there are.
const ALL: usize = isize::MAX.unsigned_abs();

/// Which part of its history a store is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PageRequest {
    /// The keys that are of interest. What lies outside may be left in.
    pub span: Span,
    /// Only changes after this revision,
    pub after: Revision,
    /// and up to this one, inclusive: [`Revision::MAX`] for all.
    pub through: Revision,
    /// At most so many, the first ones: it may be zero, and fits into a signed number.
    pub limit: usize,
}

/// A part of a store's history, and how far it reaches: all of it as of one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Up to this revision, inclusive, history is gone.
    pub compacted: Revision,
    /// The store's present revision.
    pub present: Revision,
    /// The changes with their revisions, the oldest first, and those of one revision in the order
    /// in which they were made. A revision may be cut off by the limit.
    pub changes: Vec<(Revision, Change)>,
}

/// Where a watch stands.
#[derive(Debug)]
pub(super) struct Place {
    span: Span,
    /// Everything up to here was read.
    read: Revision,
    /// Everything up to here was told.
    told: Revision,
    /// What was read and not told, in whole revisions.
    ready: VecDeque<Batch>,
    /// A revision that has more changes than a page.
    long: Option<Revision>,
}

/// What a watch does next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Tell(StoreEvent),
    Read(PageRequest),
    /// There is nothing to read until the present revision is beyond this one.
    WaitFor(Revision),
}

impl Place {
    /// A question that only tells where history begins and ends.
    pub(super) fn bounds(span: &Span) -> PageRequest {
        PageRequest { span: span.clone(), after: Revision::ZERO, through: Revision::ZERO, limit: 0 }
    }

    /// Where a watch after `after`, or from now on, begins, in a history with these bounds.
    pub(super) fn arm(span: Span, after: Option<Revision>, bounds: &Page) -> Result<Self> {
        // A store that is behind what its caller has seen says so by arming at its own revision.
        let armed = after.unwrap_or(bounds.present).min(bounds.present);
        let place = Place { span, read: armed, told: armed, ready: VecDeque::new(), long: None };
        place.check(bounds)?;
        Ok(place)
    }

    pub(super) fn armed(&self) -> Revision {
        self.told
    }

    /// What comes next. `looked` says whether there was nothing more to read a moment ago.
    pub(super) fn next(&mut self, looked: bool) -> Next {
        if let Some(batch) = self.ready.pop_front() {
            self.told = batch.revision;
            return Next::Tell(StoreEvent::Batch(batch));
        }
        if self.told < self.read {
            self.told = self.read;
            return Next::Tell(StoreEvent::Progress(self.read));
        }
        if looked && self.long.is_none() {
            return Next::WaitFor(self.read);
        }
        let (through, limit) = self.long.map_or((Revision::MAX, PAGE), |long| (long, ALL));
        Next::Read(PageRequest { span: self.span.clone(), after: self.read, through, limit })
    }

    /// Takes the page that was asked for. Says whether it was the last one for now.
    pub(super) fn take(&mut self, page: Page) -> Result<bool> {
        self.check(&page)?;
        let full = self.long.is_none() && page.changes.len() >= PAGE;
        let mut batches: VecDeque<Batch> = VecDeque::new();
        for (revision, change) in page.changes {
            let last = batches.back().map_or(self.read, |batch| batch.revision);
            match batches.back_mut() {
                Some(batch) if revision == last => batch.changes.push(change),
                _ if revision > last => batches.push_back(Batch { revision, changes: vec![change] }),
                _ => return Err(Error::new(ErrorKind::Internal, OPERATION, "history is out of order")),
            }
        }
        let through = match (self.long.take(), full) {
            (Some(long), _) => long,
            (None, false) => page.present,
            (None, true) => {
                // The last revision may be cut off.
                let cut = batches.pop_back();
                if batches.is_empty() {
                    self.long = cut.map(|batch| batch.revision);
                }
                batches.back().map_or(self.read, |batch| batch.revision)
            }
        };
        for batch in &mut batches {
            batch.changes.retain(|change| self.span.contains(change.key()));
        }
        batches.retain(|batch| !batch.changes.is_empty());
        self.read = through;
        self.ready = batches;
        Ok(through == page.present)
    }

    /// Whether history still reaches back to here.
    fn check(&self, page: &Page) -> Result<()> {
        if self.read < page.compacted {
            return Err(Error::compacted(OPERATION, Some(page.compacted)));
        }
        if page.present < self.read {
            return Err(Error::new(ErrorKind::Unavailable, OPERATION, "the store's revisions went back"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A history in which revision n makes `changes[n - 1]` changes.
    fn read(changes: &[usize], compacted: u64, wanted: &PageRequest) -> Page {
        let all = changes.iter().zip(1..).flat_map(|(count, revision)| {
            (0..*count)
                .map(move |n| (Revision::new(revision), Change::Delete { key: format!("k/{n}").into() }))
        });
        let wanted_changes = all
            .filter(|(revision, _)| *revision > wanted.after && *revision <= wanted.through)
            .filter(|(_, change)| wanted.span.contains(change.key()))
            .take(wanted.limit);
        Page {
            compacted: Revision::new(compacted),
            present: Revision::new(changes.len() as u64),
            changes: wanted_changes.collect(),
        }
    }

    /// What a watch tells until it has nothing more to read: revisions with numbers of changes, and
    /// progress without.
    fn told(place: &mut Place, changes: &[usize]) -> Vec<(u64, usize)> {
        let (mut told, mut looked) = (Vec::new(), false);
        loop {
            match place.next(looked) {
                Next::Tell(StoreEvent::Batch(batch)) => {
                    told.push((batch.revision.get(), batch.changes.len()));
                }
                Next::Tell(StoreEvent::Progress(revision)) => told.push((revision.get(), 0)),
                Next::Read(request) => {
                    looked = place.take(read(changes, 0, &request)).unwrap();
                    let held: usize = place.ready.iter().map(|batch| batch.changes.len()).sum();
                    assert!(held <= PAGE || place.ready.len() == 1, "{held} changes are held");
                }
                Next::WaitFor(revision) => {
                    assert_eq!(revision.get(), changes.len() as u64);
                    return told;
                }
            }
        }
    }

    fn armed(span: Span, after: Option<u64>, changes: &[usize]) -> Place {
        let bounds = read(changes, 0, &Place::bounds(&span));
        assert_eq!(bounds.changes, []);
        Place::arm(span, after.map(Revision::new), &bounds).unwrap()
    }

    #[test]
    fn no_page_splits_a_revision_however_they_lie() {
        for size in 1..3 * PAGE {
            let changes: Vec<usize> = (0..40).map(|n| if n % 7 == 3 { PAGE - 1 } else { size }).collect();
            let expected: Vec<_> = (1..).zip(changes.iter().copied()).collect();
            let mut place = armed(Span::prefix("k/"), Some(0), &changes);
            assert_eq!(told(&mut place, &changes), expected, "revisions of {size} changes");
        }
    }

    #[test]
    fn progress_is_told_where_nothing_of_the_span_came() {
        let changes = [1, 40, 1, 1];
        let mut place = armed(Span::key("k/7"), None, &changes[..1]);
        assert_eq!(place.armed(), Revision::new(1));
        assert_eq!(told(&mut place, &changes[..1]), [], "nothing new, nothing told");
        assert_eq!(told(&mut place, &changes), [(2, 1), (4, 0)]);
        assert_eq!(told(&mut place, &changes), []);
    }

    #[test]
    fn what_lies_outside_of_the_span_may_be_left_in() {
        let changes = [PAGE * 2, 1, PAGE, 3];
        let mut place = armed(Span::key("k/0"), Some(0), &changes);
        let mut tells = Vec::new();
        let mut looked = false;
        loop {
            match place.next(looked) {
                Next::Tell(event) => tells.push(event),
                Next::Read(request) => {
                    let everything = PageRequest { span: Span::prefix(""), ..request };
                    looked = place.take(read(&changes, 0, &everything)).unwrap();
                }
                Next::WaitFor(_) => break,
            }
        }
        let batches: Vec<_> = tells
            .iter()
            .filter_map(|event| match event {
                StoreEvent::Batch(batch) => Some((batch.revision.get(), batch.changes.len())),
                StoreEvent::Progress(_) => None,
            })
            .collect();
        assert_eq!(batches, [(1, 1), (2, 1), (3, 1), (4, 1)]);
    }

    #[test]
    fn history_that_is_gone_is_compacted_wherever_that_is_noticed() {
        let changes = [1; 9];
        let span = Span::prefix("");
        let bounds = read(&changes, 5, &Place::bounds(&span));
        for after in [0, 4] {
            let error = Place::arm(span.clone(), Some(Revision::new(after)), &bounds).unwrap_err();
            assert_eq!(
                (error.kind(), error.oldest_revision()),
                (ErrorKind::Compacted, Some(Revision::new(5)))
            );
        }
        let mut place = Place::arm(span, Some(Revision::new(5)), &bounds).unwrap();
        let Next::Read(request) = place.next(false) else { panic!("it reads first") };
        let error = place.take(read(&changes, 6, &request)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Compacted);

        // Between the two looks at a long revision.
        let changes = [PAGE + 1, 1];
        let mut place = armed(Span::prefix(""), Some(0), &changes);
        let Next::Read(request) = place.next(false) else { panic!("it reads first") };
        assert!(!place.take(read(&changes, 0, &request)).unwrap());
        let Next::Read(request) = place.next(false) else { panic!("it reads the whole revision") };
        assert_eq!((request.through, request.limit), (Revision::new(1), ALL));
        assert_eq!(place.take(read(&changes, 1, &request)).unwrap_err().kind(), ErrorKind::Compacted);
    }

    #[test]
    fn a_store_that_is_behind_arms_at_its_own_revision() {
        let mut place = armed(Span::prefix(""), Some(9), &[1, 1]);
        assert_eq!(place.armed(), Revision::new(2));
        assert_eq!(told(&mut place, &[1, 1, 1]), [(3, 1)]);
    }

    #[test]
    fn a_history_that_goes_back_or_is_out_of_order_ends_the_watch() {
        let changes = [1, 1, 1];
        let mut place = armed(Span::prefix(""), None, &changes);
        let page = Page { present: Revision::new(2), ..Page::default() };
        assert_eq!(place.take(page).unwrap_err().kind(), ErrorKind::Unavailable);
        for revisions in [[5, 4], [3, 4]] {
            let change = |revision| (Revision::new(revision), Change::Delete { key: "k".into() });
            let page = Page {
                present: Revision::new(5),
                changes: revisions.map(change).into(),
                compacted: Revision::ZERO,
            };
            assert_eq!(place.take(page).unwrap_err().kind(), ErrorKind::Internal, "{revisions:?}");
        }
    }
}
