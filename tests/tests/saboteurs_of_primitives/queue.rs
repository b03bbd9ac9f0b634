//! Queues of work that are broken: R79 to R81.

use bytes::Bytes;
use coord_api::store::{Op, Txn};
use coord_tests::harness::sabotaged::without;

use super::{Saboteur, on, on_session};

pub(super) const SABOTEURS: &[Saboteur] = &[
    Saboteur {
        id: "queue-claims-what-is-taken",
        breaks: "claims an item without looking whether it is free, or as it was seen",
        rules: &["r80"],
        sends: |txn| if puts_more(&txn, "/q/c/") { without(txn, "/queues/") } else { txn },
    },
    Saboteur {
        id: "queue-claims-outlive-a-crash",
        breaks: "the claims hang on no lease",
        rules: &["r80"],
        sends: |txn| if puts_more(&txn, "/q/c/") { on(txn, "/queues/", |_| None) } else { txn },
    },
    Saboteur {
        id: "queue-forgets-deliveries",
        breaks: "a claim does not count the delivery",
        rules: &["r80", "r81"],
        sends: |mut txn| {
            txn.then.retain(|op| {
                !matches!(op, Op::Put { key, value, .. } if is_of(key, "/q/i/") && value.as_ref() != b"0")
            });
            txn
        },
    },
    Saboteur {
        id: "queue-pushes-without-a-receipt",
        breaks: "what was pushed and taken since looks as if it had never been pushed",
        rules: &["r79"],
        sends: |mut txn| {
            txn.then.retain(|op| !matches!(op, Op::Put { key, .. } if is_of(key, "/p/")));
            txn
        },
    },
    Saboteur {
        id: "queue-acknowledges-for-another",
        breaks: "removes an item whoever has claimed it",
        rules: &["r81"],
        sends: |txn| match txn.then.iter().any(|op| matches!(op, Op::Delete { key } if is_of(key, "/q/i/"))) {
            true => without(without(txn, "/queues/"), "/sessions/"),
            false => txn,
        },
    },
    Saboteur {
        id: "queue-retries-never",
        breaks: "what is to come again later is delayed for ever",
        rules: &["r81"],
        sends: |txn| if delays(&txn) { on(txn, "/queues/", |_| None) } else { txn },
    },
    Saboteur {
        id: "queue-delays-end-with-the-client",
        breaks: "a delay hangs on the session",
        rules: &["r81"],
        sends: |txn| if delays(&txn) { on_session(txn, "/queues/") } else { txn },
    },
];

/// Whether a key of a queue is of this part of it.
fn is_of(key: &Bytes, part: &str) -> bool {
    let queue = key.strip_prefix(b"/queues/").map(|rest| rest.iter().position(|byte| *byte == b'/'));
    let rest = queue.flatten().and_then(|end| key.get(b"/queues/".len() + end..));
    rest.is_some_and(|rest| rest.starts_with(part.as_bytes()))
}

/// Whether a transaction puts something that is not empty under this part of a queue.
fn puts_more(txn: &Txn, part: &str) -> bool {
    txn.then
        .iter()
        .any(|op| matches!(op, Op::Put { key, value, .. } if is_of(key, part) && !value.is_empty()))
}

/// Whether a transaction delays an item: that is a claim of nobody.
fn delays(txn: &Txn) -> bool {
    txn.then
        .iter()
        .any(|op| matches!(op, Op::Put { key, value, .. } if is_of(key, "/q/c/") && value.is_empty()))
}
