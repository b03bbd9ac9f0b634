//! Periodic jobs that are broken: R77.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use coord_api::Result;
use coord_api::store::{Compare, Op, Store, Txn, TxnReply};
use coord_tests::harness::sabotaged::Sabotage;

use super::{Saboteur, on, on_session, sees_itself_alone};

pub(super) const SABOTEURS: &[Saboteur] = &[
    Saboteur {
        id: "periodic-late-marker",
        breaks: "writes a marker whether it still leads or not",
        rules: &["r77"],
        sends: |mut txn| {
            if puts_marker(&txn) {
                txn.compares.retain(|compare| matches!(compare, Compare::Absent(_)));
            }
            txn
        },
    },
    Saboteur {
        id: "periodic-makes-up-for",
        breaks: "whoever leads no more takes the marker away, so that the next one runs at once",
        rules: &["r77"],
        sends: |txn| {
            let left = txn.then.iter().find_map(|op| match op {
                Op::Delete { key } if key.starts_with(b"/periodic/") => {
                    let queue = key.windows(3).position(|part| part == b"/q/")?;
                    Some([key.get(..queue)?, b"/marker"].concat())
                }
                _ => None,
            });
            match left {
                Some(marker) => txn.then(Op::delete(marker)),
                None => txn,
            }
        },
    },
    Saboteur {
        id: "periodic-each-takes-itself-for-the-leader",
        breaks: "does the job whoever else has run for leader before",
        rules: &["r77"],
        sends: |txn| sees_itself_alone(txn, "/periodic/"),
    },
    Saboteur {
        id: "periodic-marker-for-ever",
        breaks: "the marker hangs on no lease",
        rules: &["r77"],
        sends: |txn| if puts_marker(&txn) { on(txn, "/periodic/", |_| None) } else { txn },
    },
    Saboteur {
        id: "periodic-marker-on-the-session",
        breaks: "the marker hangs on the session, which is renewed",
        rules: &["r77"],
        sends: |txn| if puts_marker(&txn) { on_session(txn, "/periodic/") } else { txn },
    },
];

/// Whether a transaction puts the marker of a periodic job.
fn puts_marker(txn: &Txn) -> bool {
    txn.then.iter().any(|op| matches!(op, Op::Put { key, .. } if is_marker(key)))
}

fn is_marker(key: &Bytes) -> bool {
    key.starts_with(b"/periodic/") && key.ends_with(b"/marker")
}

/// Answers before it has written the marker.
pub(super) fn marks_after_the_run() -> Sabotage {
    Sabotage::of_stores(
        "periodic-marks-after-the-run",
        "the marker comes a while after the run has begun",
        &["r77"],
        |good| Arc::new(MarksLate(good)),
    )
}

struct MarksLate(Arc<dyn Store>);

impl fmt::Debug for MarksLate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MarksLate").finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for MarksLate {
    async fn txn(&self, txn: Txn) -> Result<TxnReply> {
        if !puts_marker(&txn) {
            return self.0.txn(txn).await;
        }
        let good = Arc::clone(&self.0);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(500)).await;
            good.txn(txn).await
        });
        // An answer that has a revision, as that of a write.
        self.0.txn(Txn::new().then(Op::put("/nobody/reads/this", ""))).await
    }

    coord_api::forward_store! {
        self => self.0;
        range, watch, grant_lease, keep_alive, lease, revoke_lease, status, close
    }
}
