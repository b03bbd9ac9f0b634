//! Many ids at once.

use std::iter::FusedIterator;

use super::layout::Tick;

/// Ids that were taken by one call, in rising order, one after the other: none of the worker's lies
/// between two of them. They are made when they are asked for, and take no memory.
///
/// What is left when it is dropped is never given out again.
#[derive(Clone, Debug)]
pub struct UidBatch {
    next: Tick,
    left: u32,
    worker: u32,
}

impl UidBatch {
    pub(super) fn new(first: Tick, count: u32, worker: u32) -> Self {
        UidBatch { next: first, left: count, worker }
    }
}

impl Iterator for UidBatch {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        self.left = self.left.checked_sub(1)?;
        let id = self.next.id(self.worker);
        self.next = self.next.plus(1);
        Some(id)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        (left, Some(left))
    }
}

impl ExactSizeIterator for UidBatch {}

impl FusedIterator for UidBatch {}

#[cfg(test)]
mod tests {
    use super::super::layout::{IDS_PER_MS, UidParts};
    use super::*;

    #[test]
    fn it_rises_over_the_end_of_a_millisecond_and_ends_for_good() {
        let mut batch = UidBatch::new(Tick::first_of(7).plus(IDS_PER_MS - 1), 2, 5);
        assert_eq!(batch.len(), 2);
        let (one, two) = (batch.next().unwrap(), batch.next().unwrap());
        assert!(one < two);
        let (one, two) = (UidParts::of(one), UidParts::of(two));
        assert_eq!((one.worker, one.sequence, two.worker, two.sequence), (5, IDS_PER_MS - 1, 5, 0));
        assert_eq!((one.unix_ms + 1, batch.next(), batch.next(), batch.len()), (two.unix_ms, None, None, 0));
    }
}
