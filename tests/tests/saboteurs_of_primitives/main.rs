//! The cases of primitives are tested, as those of the kit are: each primitive that is broken fails
//! the cases of the rule that it breaks.
//!
//! A primitive is a type over a store, so it is broken between the two: what it sends is changed
//! into what a careless one would have sent.

mod heard;
mod periodic;
mod queue;
mod several_locks;
mod while_held;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use coord_api::store::{Compare, Op, Range, Store, Txn, TxnReply};
use coord_api::{LeaseId, Result};
use coord_tests::harness::sabotaged::{Sabotage, prove, without};

/// A primitive that breaks one thing.
struct Saboteur {
    id: &'static str,
    breaks: &'static str,
    rules: &'static [&'static str],
    /// What it sends instead of a transaction.
    sends: fn(Txn) -> Txn,
}

const SABOTEURS: &[Saboteur] = &[
    Saboteur {
        id: "once-claims-what-is-taken",
        breaks: "claims a key without looking whether it is free",
        rules: &["r56", "r57"],
        sends: |txn| if puts(&txn, "/once/", b'R') { without(txn, "/once/") } else { txn },
    },
    Saboteur {
        id: "once-crash-blocks-the-key",
        breaks: "the mark of one that runs hangs on no lease",
        rules: &["r57"],
        sends: |txn| if puts(&txn, "/once/", b'R') { on(txn, "/once/", |_| None) } else { txn },
    },
    Saboteur {
        id: "once-late-owner-overwrites",
        breaks: "records the result whoever has the key",
        rules: &["r58"],
        sends: |txn| if puts(&txn, "/once/", b'D') { without(txn, "/once/") } else { txn },
    },
    Saboteur {
        id: "once-result-ends-with-the-client",
        breaks: "the result hangs on the session",
        rules: &["r60"],
        sends: |txn| if puts(&txn, "/once/", b'D') { on_session(txn, "/once/") } else { txn },
    },
    Saboteur {
        id: "once-result-is-kept-for-ever",
        breaks: "the result hangs on no lease",
        rules: &["r60"],
        sends: |txn| if puts(&txn, "/once/", b'D') { on(txn, "/once/", |_| None) } else { txn },
    },
    Saboteur {
        id: "barrier-released-by-a-ghost",
        breaks: "lets the others through whether its own place is there or not",
        rules: &["r61"],
        sends: |txn| if releases(&txn) { without(without(txn, "/barriers/"), "/sessions/") } else { txn },
    },
    Saboteur {
        id: "barrier-places-outlive-a-crash",
        breaks: "the places hang on no lease",
        rules: &["r61", "r62"],
        sends: |txn| on(txn, "/barriers/", |_| None),
    },
    Saboteur {
        id: "barrier-never-cleared-up",
        breaks: "the last one to leave leaves the record behind",
        rules: &["r62"],
        sends: |mut txn| {
            txn.then.retain(|op| !matches!(op, Op::Delete { key } if key.ends_with(b"/release")));
            txn
        },
    },
    Saboteur {
        id: "barrier-cleared-up-too-early",
        breaks: "removes the record while others are there",
        rules: &["r62"],
        sends: |txn| {
            let release = txn.then.iter().find_map(|op| match op {
                Op::Range(range) => Some(range.start()).filter(|key| key.ends_with(b"/release")),
                _ => None,
            });
            let leaves = txn.then.iter().any(|op| matches!(op, Op::Delete { .. }));
            match release {
                Some(release) if leaves => txn.then(Op::delete(release)),
                _ => txn,
            }
        },
    },
    Saboteur {
        id: "election-each-takes-itself-for-the-leader",
        breaks: "leads whoever else has run before",
        rules: &["r51"],
        sends: |txn| sees_itself_alone(txn, "/elections/"),
    },
    Saboteur {
        id: "election-places-outlive-a-crash",
        breaks: "the places of the candidates hang on no lease",
        rules: &["r51"],
        sends: |txn| on(txn, "/elections/", |_| None),
    },
    Saboteur {
        id: "election-proclaims-whoever-leads",
        breaks: "says something else as leader without looking whether it leads",
        rules: &["r52"],
        sends: |txn| {
            let is_new = txn.compares.iter().any(|compare| matches!(compare, Compare::Absent(_)));
            let proclaims = !is_new && txn.then.iter().any(|op| is_put_of(op, "/elections/"));
            if proclaims { without(without(txn, "/elections/"), "/sessions/") } else { txn }
        },
    },
    Saboteur {
        id: "election-resigns-by-forgetting",
        breaks: "the place of a leader that resigns stays",
        rules: &["r53"],
        sends: |txn| keeps(txn, "/elections/"),
    },
    Saboteur {
        id: "semaphore-sees-no-others",
        breaks: "each client judges the limit by its own permits",
        rules: &["r48", "r49"],
        sends: |txn| sees_itself_alone(txn, "/semaphores/"),
    },
    Saboteur {
        id: "semaphore-permits-outlive-a-crash",
        breaks: "permits hang on no lease",
        rules: &["r50"],
        sends: |txn| on(txn, "/semaphores/", |_| None),
    },
    Saboteur {
        id: "semaphore-permits-never-come-back",
        breaks: "permits that are given back stay",
        rules: &["r49", "r50"],
        sends: |txn| keeps(txn, "/semaphores/"),
    },
    Saboteur {
        id: "counter-adds-to-what-it-has-seen",
        breaks: "writes the sum without comparing what was there",
        rules: &["r78"],
        sends: |txn| without(txn, "/counters/"),
    },
    Saboteur {
        id: "counter-forgets-its-tokens",
        breaks: "records no token",
        rules: &["r78"],
        sends: |mut txn| {
            txn.then.retain(|op| !matches!(op, Op::Put { key, .. } if key.starts_with(b"/counter-tokens/")));
            txn
        },
    },
    Saboteur {
        id: "counter-tokens-for-ever",
        breaks: "the record of a token hangs on no lease",
        rules: &["r78"],
        sends: |txn| on(txn, "/counter-tokens/", |_| None),
    },
    Saboteur {
        id: "counter-token-written-over",
        breaks: "adds again under a token that is there",
        rules: &["r78"],
        sends: |txn| without(txn, "/counter-tokens/"),
    },
];

/// Whether a transaction lets the parties of a barrier through.
fn releases(txn: &Txn) -> bool {
    txn.then.iter().any(|op| matches!(op, Op::Put { key, .. } if key.ends_with(b"/release")))
}

/// Whether a transaction puts a key of this directory, with a value that begins so.
fn puts(txn: &Txn, directory: &str, first: u8) -> bool {
    txn.then.iter().any(|op| {
        matches!(op, Op::Put { key, value, .. }
            if key.starts_with(directory.as_bytes()) && value.first() == Some(&first))
    })
}

fn is_put_of(op: &Op, directory: &str) -> bool {
    matches!(op, Op::Put { key, .. } if key.starts_with(directory.as_bytes()))
}

/// With no look at others where it puts something of a directory.
fn sees_itself_alone(mut txn: Txn, directory: &str) -> Txn {
    let own = txn.then.iter().find_map(|op| match op {
        Op::Put { key, .. } if is_put_of(op, directory) => Some(key.clone()),
        _ => None,
    });
    for op in &mut txn.then {
        if let (Op::Range(range), Some(own)) = (op, &own) {
            *range = Range::key(own.clone());
        }
    }
    txn
}

/// Without what it deletes of a directory.
fn keeps(mut txn: Txn, directory: &str) -> Txn {
    txn.then.retain(|op| !matches!(op, Op::Delete { key } if key.starts_with(directory.as_bytes())));
    txn
}

/// With its puts of a directory on another lease.
fn on(mut txn: Txn, directory: &str, other: impl Fn(Option<LeaseId>) -> Option<LeaseId>) -> Txn {
    for op in &mut txn.then {
        if let Op::Put { key, lease, .. } = op {
            if key.starts_with(directory.as_bytes()) {
                *lease = other(*lease);
            }
        }
    }
    txn
}

/// With its puts of a directory on the session whose key it compares.
fn on_session(txn: Txn, directory: &str) -> Txn {
    let session = txn.compares.iter().find_map(|compare| match compare {
        Compare::Modified(key, _) => {
            let lease = std::str::from_utf8(key.strip_prefix(b"/sessions/")?).ok()?;
            u64::from_str_radix(lease, 16).ok().map(LeaseId::new)
        }
        _ => None,
    });
    on(txn, directory, |lease| session.or(lease))
}

/// A store to which a saboteur speaks.
struct Changed {
    good: Arc<dyn Store>,
    saboteur: &'static Saboteur,
}

impl fmt::Debug for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changed").field("id", &self.saboteur.id).finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for Changed {
    async fn txn(&self, txn: Txn) -> Result<TxnReply> {
        self.good.txn((self.saboteur.sends)(txn)).await
    }

    coord_api::forward_store! {
        self => self.good;
        range, watch, grant_lease, keep_alive, lease, revoke_lease, status, close
    }
}

/// Whose transactions are changed on their way.
fn changed(saboteurs: &'static [Saboteur]) -> impl Iterator<Item = Sabotage> {
    saboteurs.iter().map(|saboteur| {
        let store = move |good| Arc::new(Changed { good, saboteur }) as Arc<dyn Store>;
        Sabotage::of_stores(saboteur.id, saboteur.breaks, saboteur.rules, store)
    })
}

#[test]
fn each_is_failed_at_the_rule_that_it_breaks() {
    let others = [queue::SABOTEURS, periodic::SABOTEURS, several_locks::SABOTEURS];
    let by_what_they_send = [SABOTEURS].into_iter().chain(others).flat_map(changed);
    let others = [periodic::marks_after_the_run(), several_locks::in_another_order()];
    prove(by_what_they_send.chain(heard::misheard()).chain(others));
}
