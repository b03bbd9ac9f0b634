//! What the contract allows: backends that are odd and not broken, and must pass everything.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use coord_api::store::StoreEvent;
use coord_api::{Error, ErrorKind};
use numbers::{Gaps, GreatLeases, LongName};
use streams::{
    ArmsInThePast, BreaksOften, Bursts, Pages, Reconnects, RefusesTheCut, Resyncs, ShortHistory,
    TellsProgress, deletions_backwards, ties_backwards,
};
use times::{
    ClosesSlowly, DoubtsAtClose, FirstIsSlow, Late, OpensSlowly, RoundsUp, SlowRenewals, WholeSeconds,
};

use super::store::Edited;
use super::{Sabotage, Saboteur, Shared};
use crate::wrap::Delayed;

mod numbers;
mod streams;
mod times;

/// How late an expiry is noticed.
const LATE: Duration = Duration::from_secs(1);

/// How late, where an election is among the causes.
const VERY_LATE: Duration = Duration::from_secs(7);

/// Not far below the greatest revision.
const GREAT: u64 = i64::MAX.unsigned_abs() - (1 << 32);

pub(super) const HARMLESS: &[Saboteur] = &[
    Saboteur::new("latency", "50 ms of random latency", &[], || {
        let seeds = AtomicU64::new(0);
        Sabotage::wrapping(move |good| {
            Arc::new(Delayed::new(good, Duration::from_millis(25), seeds.fetch_add(1, Ordering::SeqCst)))
        })
    }),
    Saboteur::new("resync-at-times", "a Resync now and then", &[], || Sabotage::client(|| Resyncs)),
    Saboteur::new("batches", "batches", &[], || Sabotage::store(|| Bursts)),
    Saboteur::new("gaps", "revisions with gaps", &[], || {
        Sabotage::store(|| Gaps::<3, 0>).and_compacts(Gaps::<3, 0>::within)
    }),
    Saboteur::new("expires-with-lag", "expiry up to the lag late", &[], || {
        Sabotage::store(|| Late(Shared::default(), LATE)).and_lag(LATE)
    }),
    Saboteur::new("ttl-rounded-up", "TTLs rounded up", &[], || Sabotage::store(|| RoundsUp)),
    Saboteur::new("reconnects", "a reconnect every 200 ms that resumes rightly", &[], || {
        Sabotage::store(|| Reconnects)
    }),
    Saboteur::new("progress-often", "progress after every batch", &[], || {
        Sabotage::store(|| Edited {
            told: Some(|event| match event {
                StoreEvent::Batch(batch) => {
                    let progress = StoreEvent::Progress(batch.revision);
                    vec![StoreEvent::Batch(batch), progress.clone(), progress]
                }
                event => vec![event],
            }),
            ..Edited::default()
        })
    }),
    Saboteur::new(
        "arms-in-the-past",
        "a watch from now on that tells what was just written, too",
        &[],
        || Sabotage::store(|| ArmsInThePast(3)),
    ),
    Saboteur::new("refuses-the-cut", "what is read at the cut itself is Compacted", &[], || {
        Sabotage::store(|| RefusesTheCut)
    }),
    Saboteur::new("oldest-untold", "lost history does not tell the oldest that is left", &[], || {
        Sabotage::store(|| Edited {
            error: Some(|error| match error.kind() {
                ErrorKind::Compacted => Error::compacted("store", None),
                _ => error,
            }),
            ..Edited::default()
        })
    }),
    Saboteur::new("closes-slowly", "a store that takes two seconds to close", &[], || {
        Sabotage::store(|| ClosesSlowly)
    }),
    Saboteur::new("revisions-jump", "every write's revision is a thousand further on", &[], || {
        Sabotage::store(|| Gaps::<1_000, 0>).and_compacts(Gaps::<1_000, 0>::within)
    }),
    Saboteur::new("great-revisions", "revisions near the greatest", &[], || {
        Sabotage::store(|| Gaps::<1, GREAT>).and_compacts(Gaps::<1, GREAT>::within)
    }),
    Saboteur::new("great-leases", "leases with numbers near the greatest", &[], || {
        Sabotage::store(|| GreatLeases)
    }),
    Saboteur::new("long-identity", "an identity of a thousand characters", &[], || {
        Sabotage::store(|| LongName)
    }),
    Saboteur::new("expires-with-long-lag", "expiry seven seconds late, which it says", &[], || {
        Sabotage::store(|| Late(Shared::default(), VERY_LATE)).and_lag(VERY_LATE)
    }),
    Saboteur::new("first-request-slow", "a client whose first request takes 300 ms", &[], || {
        Sabotage::store(FirstIsSlow::default)
    }),
    Saboteur::new("connects-slowly", "a client that takes two seconds to be made", &[], || Sabotage {
        connects: Duration::from_secs(2),
        ..Sabotage::default()
    }),
    Saboteur::new("renewals-slow", "renewals that are answered after 100 ms", &[], || {
        Sabotage::store(|| SlowRenewals)
    }),
    Saboteur::new("opens-slowly", "watches, and looks at the status, that take 300 ms", &[], || {
        Sabotage::store(|| OpensSlowly)
    }),
    Saboteur::new("remaining-in-seconds", "a look-up that tells the time left in whole seconds", &[], || {
        Sabotage::store(|| WholeSeconds)
    }),
    Saboteur::new("closed-unknown", "a closed client that says Unknown of writes", &[], || {
        Sabotage::store(|| DoubtsAtClose)
    }),
    Saboteur::new("pages-of-one", "ranges read one entry at a time underneath", &[], || {
        Sabotage::store(|| Pages)
    }),
    Saboteur::new("short-history", "a history of a thousand revisions", &[], || {
        Sabotage::store(|| ShortHistory)
    }),
    Saboteur::new("breaks-often", "a watch that breaks after ten things told", &[], || {
        Sabotage::store(|| BreaksOften)
    }),
    Saboteur::new("progress-when-idle", "progress every 100 ms, also when nothing happens", &[], || {
        Sabotage::store(|| TellsProgress)
    }),
    Saboteur::new("progress-never", "no progress at all", &[], || {
        Sabotage::store(|| Edited {
            told: Some(|event| match event {
                StoreEvent::Progress(_) => Vec::new(),
                event => vec![event],
            }),
            ..Edited::default()
        })
    }),
    Saboteur::new("ties-backwards", "keys of one create revision that come backwards", &[], || {
        Sabotage::store(|| Edited { found: Some(ties_backwards), ..Edited::default() })
    }),
    Saboteur::new("deletions-backwards", "the keys of a lease that go in another order", &[], || {
        Sabotage::store(|| Edited { told: Some(deletions_backwards), ..Edited::default() })
    }),
    Saboteur::new(
        "arms-far-in-the-past",
        "a watch from now on that is armed 300 revisions back",
        &[],
        || Sabotage::store(|| ArmsInThePast(300)),
    ),
];
