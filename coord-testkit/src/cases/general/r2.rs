//! R2 Unknown outcome, for what is not leased.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use coord_api::prelude::*;
use coord_api::{Error, ErrorKind, Outcome, Value, Version, Versioned};

// The other half of the rule's cases.
pub(super) use super::r2_leased::*;
use crate::cancel::{Polled, poll_times};
use crate::fixture::Fixture;
use crate::layout;
use crate::wrap::{Fault, Faults, Request};

/// The writes of the config centre.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Write {
    Set,
    Create,
    CompareAndSet,
    Delete,
    CompareAndDelete,
}

const WRITES: [Write; 5] =
    [Write::Set, Write::Create, Write::CompareAndSet, Write::Delete, Write::CompareAndDelete];

impl Write {
    /// Prepares a key for it: what it then holds, and with which version.
    async fn prepare(self, provider: &Arc<dyn Provider>, key: &str) -> Version {
        match self {
            Write::Create => Version::ZERO,
            _ => provider.config().set_raw(key, Value::from("before")).await.unwrap(),
        }
    }

    async fn run(self, provider: &Arc<dyn Provider>, key: &str, version: Version) -> Result<(), Error> {
        let (config, value) = (provider.config(), Value::from("after"));
        match self {
            Write::Set => config.set_raw(key, value).await.map(drop),
            Write::Create => config.compare_and_set_raw(key, value, Version::ZERO).await.map(drop),
            Write::CompareAndSet => config.compare_and_set_raw(key, value, version).await.map(drop),
            Write::Delete => config.delete(key).await.map(drop),
            Write::CompareAndDelete => config.compare_and_delete(key, version).await.map(drop),
        }
    }

    /// Whether the key is as the write would have left it.
    async fn is_applied(self, provider: &Arc<dyn Provider>, key: &str) -> bool {
        self.left(provider.config().get_raw(key).await.unwrap().as_ref())
    }

    /// Whether what was found is what the write would have left.
    fn left(self, found: Option<&Versioned>) -> bool {
        match self {
            Write::Set | Write::Create | Write::CompareAndSet => {
                found.is_some_and(|found| found.value == Value::from("after"))
            }
            Write::Delete | Write::CompareAndDelete => found.is_none(),
        }
    }

    fn hit_by(self, faults: &Faults, fault: Fault, key: &str) {
        let key = layout::config(key);
        match self {
            Write::Delete | Write::CompareAndDelete => faults.next_delete(fault, key),
            _ => faults.next_put(fault, key),
        }
    }
}

/// Strikes every kind of write once with `fault`, and hands over what came of it: the write's
/// answer, and whether it is applied then.
async fn struck(cx: &Fixture, fault: Fault, judge: impl Fn(Write, Result<(), Error>, bool)) {
    let (client, faults) = cx.faulty().await;
    let stranger = cx.provider().await;
    for (n, write) in WRITES.into_iter().enumerate() {
        let key = format!("w/{n}");
        let version = write.prepare(&stranger, &key).await;
        write.hit_by(&faults, fault, &key);
        let answer = write.run(&client.provider, &key, version).await;
        assert_eq!(faults.unused(), 0, "{write:?} was struck");
        if let Err(error) = &answer {
            assert!(error.is_transient(), "{write:?}: {error:?}");
        }
        judge(write, answer, write.is_applied(&stranger, &key).await);
    }
}

fn in_doubt(error: &Error) -> bool {
    error.outcome() == Outcome::Unknown
}

pub(super) async fn a_refused_write_is_not_applied(cx: Fixture) {
    struck(&cx, Fault::Refuse, |write, answer, applied| match answer {
        // It may be sent again: it was proven not to be applied.
        Ok(()) => assert!(applied, "{write:?}"),
        Err(error) => assert!(!applied && !in_doubt(&error), "{write:?}: {error:?}"),
    })
    .await;
}

pub(super) async fn a_write_whose_answer_was_lost_is_unknown_or_settled(cx: Fixture) {
    struck(&cx, Fault::LoseAnswer, |write, answer, applied| {
        assert!(applied, "{write:?}");
        match answer {
            // Only a compare-and-set can be settled: its version tells whether the write was one's
            // own.
            Ok(()) => assert_eq!(write, Write::CompareAndSet, "a doubt about this one cannot be settled"),
            Err(error) => assert!(in_doubt(&error), "{write:?}: {error:?}"),
        }
    })
    .await;
}

pub(super) async fn a_write_that_was_lost_is_unknown_or_settled(cx: Fixture) {
    struck(&cx, Fault::LoseRequest, |write, answer, applied| {
        assert!(!applied, "{write:?}");
        // Nothing that can be read shows that it will not arrive yet.
        assert!(answer.is_err_and(|error| in_doubt(&error)), "{write:?}");
    })
    .await;
}

pub(super) async fn a_write_that_comes_late_is_unknown_or_settled(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let stranger = cx.provider().await;
    for (n, write) in WRITES.into_iter().enumerate() {
        let key = format!("w/{n}");
        let version = write.prepare(&stranger, &key).await;
        write.hit_by(&faults, Fault::Hold, &key);
        let error = write.run(&client.provider, &key, version).await.unwrap_err();
        assert!(error.is_transient() && in_doubt(&error), "{write:?}: {error:?}");
        assert!(!write.is_applied(&stranger, &key).await, "{write:?}");
        for held in faults.take_held() {
            assert!(held.apply().await.unwrap());
        }
        assert!(
            write.is_applied(&stranger, &key).await,
            "{write:?}: a proposal that timed out can commit later"
        );
    }
}

pub(super) async fn not_applied_is_told_only_where_it_is_true(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let stranger = cx.provider().await;
    let all = [Fault::Refuse, Fault::LoseRequest, Fault::LoseAnswer, Fault::Hold, Fault::Deny];
    for (m, fault) in all.into_iter().enumerate() {
        for (n, write) in WRITES.into_iter().enumerate() {
            let key = format!("w/{m}/{n}");
            let version = write.prepare(&stranger, &key).await;
            write.hit_by(&faults, fault, &key);
            let answer = write.run(&client.provider, &key, version).await;
            for held in faults.take_held() {
                let _ = held.apply().await;
            }
            let applied = write.is_applied(&stranger, &key).await;
            match answer {
                Ok(()) => assert!(applied, "{write:?} {fault:?}"),
                Err(error) => assert!(!applied || in_doubt(&error), "{write:?} {fault:?}: {error:?}"),
            }
        }
    }
}

/// Counts the transactions that a write sends when its first is struck by a fault that leaves it in
/// doubt.
async fn sent_once(cx: &Fixture, writes: &[Write]) {
    for fault in [Fault::LoseRequest, Fault::LoseAnswer, Fault::Hold] {
        for (n, write) in writes.iter().enumerate() {
            let (client, faults) = cx.faulty().await;
            let stranger = cx.provider().await;
            let key = format!("w/{fault:?}/{n}");
            let version = write.prepare(&stranger, &key).await;
            write.hit_by(&faults, fault, &key);
            // A second one that is sent would be refused here, and counted.
            let seen = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&seen);
            let prefix = layout::config(&key);
            faults.next(Fault::Refuse, move |request: &Request<'_>| {
                let again = request.puts(&prefix) || request.deletes(&prefix);
                counted.fetch_add(usize::from(again), Ordering::SeqCst);
                again
            });
            let _ = write.run(&client.provider, &key, version).await;
            tokio::time::sleep(cx.ttl()).await;
            assert_eq!(seen.load(Ordering::SeqCst), 0, "{write:?} was sent again after {fault:?}");
        }
    }
}

pub(super) async fn no_plain_write_is_sent_again_after_unknown(cx: Fixture) {
    sent_once(&cx, &[Write::Set, Write::Delete]).await;
}

pub(super) async fn no_compare_and_set_is_sent_again_after_unknown(cx: Fixture) {
    sent_once(&cx, &[Write::Create, Write::CompareAndSet, Write::CompareAndDelete]).await;
}

pub(super) async fn no_doubt_shows_as_a_conflict(cx: Fixture) {
    for fault in [Fault::Refuse, Fault::LoseRequest, Fault::LoseAnswer, Fault::Hold] {
        for (n, write) in WRITES.into_iter().enumerate() {
            let (client, faults) = cx.faulty().await;
            let stranger = cx.provider().await;
            let key = format!("w/{fault:?}/{n}");
            let version = write.prepare(&stranger, &key).await;
            write.hit_by(&faults, fault, &key);
            if let Err(error) = write.run(&client.provider, &key, version).await {
                assert_ne!(error.kind(), ErrorKind::Conflict, "{write:?} {fault:?}: nobody else wrote");
            }
        }
    }
}

pub(super) async fn a_dropped_write_is_whole_or_not_at_all(cx: Fixture) {
    let client = cx.delayed(5).await;
    let stranger = cx.provider().await;
    for (n, write) in WRITES.into_iter().enumerate() {
        for polls in 0..100 {
            let key = format!("w/{n}/{polls}");
            let version = write.prepare(&stranger, &key).await;
            let polled = poll_times(polls, cx.soon(), write.run(&client.provider, &key, version)).await;
            // One look for both: the dropped write may yet be applied between two.
            let found = stranger.config().get_raw(&key).await.unwrap();
            let applied = write.left(found.as_ref());
            let before = found.map_or(Version::ZERO, |found| found.version) == version;
            assert!(applied || before, "{write:?} dropped after {polls} polls");
            if let Polled::Done(answer) = polled {
                answer.unwrap();
                assert!(applied, "{write:?}");
                break;
            }
        }
    }
}
