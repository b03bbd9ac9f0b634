//! Ranges, of the present and of the past (S2).

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::sync::Arc;

use bytes::Bytes;
use coord_api::store::{Entry, Order, Range, RangeReply};
use coord_api::{Result, Revision, Value};

use super::Engine;
use super::keys::Stored;

impl Engine {
    /// Reads a range, which [`Range::validate`] has accepted.
    pub(crate) fn range(&self, range: &Range) -> Result<RangeReply> {
        let present = self.keys.range(&range.span, range.after_key.as_deref());
        let revision = range.revision(self.revision, self.history.oldest())?;
        let (entries, more) = if revision == self.revision {
            select(range, present)
        } else {
            let past = self.undone(range, revision);
            select(range, Merge { present: present.peekable(), past: past.into_iter().peekable() })
        };
        Ok(RangeReply { revision, entries, more })
    }

    /// The keys of the range that changed after `revision`, as they were then.
    fn undone(&self, range: &Range, revision: Revision) -> BTreeMap<&Bytes, Option<&Arc<Stored>>> {
        let mut past = BTreeMap::new();
        for record in self.history.after(revision) {
            let wanted = range.span.contains(&record.key)
                && range.after_key.as_ref().is_none_or(|after| record.key > after);
            if wanted {
                // The first change after the revision knows what was there before.
                past.entry(&record.key).or_insert(record.before.as_ref());
            }
        }
        past
    }
}

/// The present state with the past laid over it, in byte order.
struct Merge<P: Iterator, Q: Iterator> {
    present: Peekable<P>,
    past: Peekable<Q>,
}

impl<'a, P, Q> Iterator for Merge<P, Q>
where
    P: Iterator<Item = (&'a Bytes, &'a Arc<Stored>)>,
    Q: Iterator<Item = (&'a Bytes, Option<&'a Arc<Stored>>)>,
{
    type Item = (&'a Bytes, &'a Arc<Stored>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let past_first = match (self.present.peek(), self.past.peek()) {
                (_, None) => return self.present.next(),
                (Some((now, _)), Some((then, _))) if now < then => return self.present.next(),
                (Some((now, _)), Some((then, _))) => now == then,
                (None, Some(_)) => false,
            };
            if past_first {
                self.present.next();
            }
            if let Some((key, Some(stored))) = self.past.next() {
                return Some((key, stored));
            }
        }
    }
}

/// Filters, orders and cuts.
fn select<'a>(
    range: &Range,
    found: impl Iterator<Item = (&'a Bytes, &'a Arc<Stored>)>,
) -> (Vec<Entry>, bool) {
    let found = found.filter(|(_, stored)| range.max_created.is_none_or(|newest| stored.created <= newest));
    let limit = range.limit.unwrap_or(usize::MAX);
    let entry = |(key, stored): (&Bytes, &Arc<Stored>)| {
        let value = if range.keys_only { Value::new() } else { stored.value.clone() };
        Entry {
            key: key.clone(),
            value,
            created: stored.created,
            modified: stored.modified,
            lease: stored.lease,
        }
    };
    if range.order == Order::Key {
        let mut found = found;
        let entries = found.by_ref().take(limit).map(entry).collect();
        return (entries, found.next().is_some());
    }
    let mut all: Vec<_> = found.collect();
    let newest_first = range.order == Order::NewestFirst;
    let by_age = |(key, stored): &(&Bytes, &Arc<Stored>), (other_key, other): &(&Bytes, &Arc<Stored>)| {
        let oldest_first = (stored.created, key).cmp(&(other.created, other_key));
        if newest_first { oldest_first.reverse() } else { oldest_first }
    };
    let more = all.len() > limit;
    if more {
        // Sorts only as many as are asked for: of a long queue usually just the first or the last
        // few.
        all.select_nth_unstable_by(limit, by_age);
        all.truncate(limit);
    }
    all.sort_unstable_by(by_age);
    (all.into_iter().map(entry).collect(), more)
}
