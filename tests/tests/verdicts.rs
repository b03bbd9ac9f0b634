//! What the verdict of a case says: what was seen, the rule in the contract's words, what was asked
//! last; and of a case that hangs or whose harness goes down, that.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests")]

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use coord_api::store::{Span, Store};
use coord_api::{Provider, Revision};
use coord_memory::MemoryProvider;
use coord_recipes::layers::Namespace;
use coord_recipes::{ProviderOptions, StoreProvider};
use coord_testkit::wrap::{Fault, Faults, Faulty, Request};
use coord_testkit::{Client, Harness, StoreHarness, Time, Verdict, cases, run_with_seed};
use coord_tests::harness::memory::Volatile;

/// A store that is good but for what is done to its clients' requests.
struct Disturbed {
    good: Volatile,
    faults: Faults,
}

#[async_trait::async_trait]
impl Harness for Disturbed {
    async fn client(&self) -> Client {
        let store: Arc<dyn Store> =
            Arc::new(Faulty::new(self.good.client().await.store, self.faults.clone()));
        Client::new(Arc::clone(&store), self.assemble(store), || async {})
    }

    fn assemble(&self, store: Arc<dyn Store>) -> Arc<dyn Provider> {
        self.good.assemble(store)
    }

    fn namespaced(&self, store: Arc<dyn Store>, namespace: &str) -> Arc<dyn Provider> {
        self.good.namespaced(store, namespace)
    }

    async fn compact(&self, through: Revision) {
        self.good.compact(through).await;
    }

    fn time(&self) -> Time {
        Time::Virtual
    }

    fn lag(&self) -> Duration {
        self.good.lag()
    }
}

/// Why the sequences of config calls fail.
fn failure(disturb: impl FnOnce(&Faults) + Send + 'static) -> String {
    let case =
        cases().find(|case| case.rule == "r10" && case.sentence.starts_with("random_sequences")).unwrap();
    let verdict = run_with_seed(case, 0, async move {
        let faults = Faults::default();
        disturb(&faults);
        Arc::new(Disturbed { good: Volatile::start(), faults }) as Arc<dyn Harness>
    });
    match verdict {
        Verdict::Failed(why) => why,
        other => panic!("it {other}"),
    }
}

#[test]
fn a_sequence_that_hangs_is_at_a_step() {
    let why = failure(|faults| {
        let mut asked = 0;
        faults.next(Fault::LateAnswer(Duration::from_secs(1_000_000)), move |_| {
            asked += 1;
            asked == 30
        });
    });
    assert!(why.starts_with("it was not done after 18000s of its own time, at step "), "{why}");
    assert!(why.contains(": client ") && why.contains(" on model-"), "{why}");
    assert!(why.contains("\n  R10 Linearizable. Histories of "), "{why}");
}

#[test]
fn what_is_answered_rightly_the_second_time_is_told_whole() {
    let why = failure(|faults| {
        faults.next(
            Fault::Deny,
            |request| matches!(request, Request::Range(range) if matches!(&range.span, Span::Key(key) if key.starts_with(b"/config/"))),
        )
    });
    assert!(
        why.starts_with("r10: it failed: ")
            && why.contains("The same was right when it was carried out again: it depends on chance"),
        "{why}"
    );
    assert!(why.matches("\n    (").count() > 1, "{why}");
}

/// Whether a request is the one that the kit makes of each client first.
fn is_first(request: &Request<'_>) -> bool {
    matches!(request, Request::Range(range) if range.span == Span::key("no such key"))
}

#[test]
fn what_is_answered_wrongly_each_time_is_told_at_its_shortest() {
    let why =
        failure(|faults| (0..10_000).for_each(|_| faults.next(Fault::Deny, |request| !is_first(request))));
    assert!(why.contains("\nThe shortest sequence found:\n    (0, "), "{why}");
    assert!(why.contains("\n  at step 0 of sequence "), "{why}");
    assert_eq!(why.matches("\n    (").count(), 1, "{why}");
}

/// What a case says on a harness, which is made of a store in memory and whatever `spoil` does to
/// its parts.
fn said(name: &str, spoil: fn(Parts) -> Parts) -> Verdict {
    let (rule, sentence) = name.split_once("::").unwrap();
    let case = cases().find(|case| case.rule == rule && case.sentence == sentence).unwrap();
    run_with_seed(case, 0, async move { Arc::new(spoil(Parts::default()).harness()) as Arc<dyn Harness> })
}

fn failed(name: &str, spoil: fn(Parts) -> Parts) -> String {
    match said(name, spoil) {
        Verdict::Failed(why) => why,
        other => panic!("{name} {other}"),
    }
}

type Good = Arc<dyn Store>;

/// The parts of a harness of closures that tests replace.
#[derive(Clone, Copy)]
struct Parts {
    client: fn(usize),
    compact: fn(),
    provider: fn(),
    namespace: fn(),
    store: fn(Good) -> Good,
}

impl Default for Parts {
    fn default() -> Self {
        Parts { client: |_| {}, compact: || {}, provider: || {}, namespace: || {}, store: |good| good }
    }
}

impl Parts {
    fn harness(self) -> StoreHarness<(Arc<MemoryProvider>, AtomicUsize)> {
        StoreHarness::new(
            (MemoryProvider::new(), AtomicUsize::new(0)),
            move |server: Arc<(Arc<MemoryProvider>, AtomicUsize)>| async move {
                (self.client)(server.1.fetch_add(1, Ordering::SeqCst));
                (self.store)(Arc::new(server.0.client().store().clone()))
            },
            move |server, through| async move {
                (self.compact)();
                server.0.compact(through).await.unwrap();
            },
            move |store| {
                (self.provider)();
                StoreProvider::new(store, ProviderOptions::default())
            },
            move |store, name: &str| {
                (self.namespace)();
                Namespace::new(store, name)
            },
        )
    }
}

/// A closure of the author's that panics is told for what it is, with its own words, wherever the
/// kit calls it: in the case, in a task of the case's, in a history while a fault lasts.
#[test]
fn a_panic_of_the_harness_is_told_with_its_message() {
    type Spoil = fn(Parts) -> Parts;
    let all: [(&str, &str, Spoil); 8] = [
        ("client", "s1::a_write_gets_a_new_greater_revision", |parts| Parts {
            client: |_| panic!("boom 7"),
            ..parts
        }),
        ("client", "r25::in_random_histories_grants_never_overlap_and_tokens_rise", |parts| Parts {
            client: |n| assert!(n < 6, "boom 7"),
            ..parts
        }),
        ("compact", "s4::history_that_is_gone_is_compacted", |parts| Parts {
            compact: || panic!("boom 7"),
            ..parts
        }),
        ("compact", "r10::random_histories_under_faults_are_linearizable", |parts| Parts {
            compact: || panic!("boom 7"),
            ..parts
        }),
        ("compact", "r25::in_random_histories_grants_never_overlap_and_tokens_rise", |parts| Parts {
            compact: || panic!("boom 7"),
            ..parts
        }),
        ("compact", "r36::after_random_histories_no_crashed_owner_is_registered", |parts| Parts {
            compact: || panic!("boom 7"),
            ..parts
        }),
        ("client", "r12::increments_add_up", |parts| Parts { provider: || panic!("boom 7"), ..parts }),
        ("namespace", "r5::two_namespaces_share_nothing", |parts| Parts {
            namespace: || panic!("boom 7"),
            ..parts
        }),
    ];
    for (part, name, spoil) in all {
        let why = failed(name, spoil);
        let begins = format!(
            "the harness panicked in `{part}`, and nothing is said of the store: boom 7 (at tests/tests/verdicts.rs:"
        );
        assert!(why.starts_with(&begins), "{name}: {why}");
    }
}

/// A store in which the next request goes wrong that `is_it` finds, or whatever else `is_it` does.
fn faulty(good: Good, is_it: fn(&Request<'_>) -> bool) -> Good {
    let faults = Faults::default();
    faults.next(Fault::Deny, is_it);
    Arc::new(Faulty::new(good, faults))
}

#[test]
fn a_worker_that_goes_down_fails_its_history_with_its_message() {
    let why = failed("r10::random_histories_under_faults_are_linearizable", |parts| Parts {
        store: |good| {
            faulty(good, |request| match request {
                Request::Txn(txn) if txn.then.len() == 2 => panic!("two at once are too many for me"),
                _ => false,
            })
        },
        ..parts
    });
    assert!(why.starts_with("r1: a worker went down: two at once are too many for me"), "{why}");
    assert!(why.contains("\n  R1 Kinds. Every failure is one "), "{why}");
}

#[test]
fn a_failure_tells_the_rule_what_was_asked_and_what_was_answered() {
    let why = failed("r12::it_succeeds_iff_the_version_is_the_expected_one", |parts| Parts {
        store: |good| faulty(good, |request| matches!(request, Request::Txn(_))),
        ..parts
    });
    assert!(why.starts_with("expected to succeed, and it failed: Error { kind: PermissionDenied"), "{why}");
    for part in [
        "(at coord-testkit/src/cases/config/r12.rs:",
        "\nThe rule, in the contract's words:\n  R12 Compare-and-set. Succeeds iff the current version",
        "\nWhat was asked last, and answered:\n  client 0: config.set(\"k\", \"1\")\n    -> Error { kind: PermissionDenied",
    ] {
        assert!(why.contains(part), "{part}: {why}");
    }
}

/// Runs the ignored test of that name in a process of its own, with a short limit; what it printed.
fn in_its_own_process(test: &str) -> String {
    let start = Instant::now();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env("COORD_TESTKIT_LIMIT", "2")
        .output()
        .unwrap();
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
#[ignore = "NOT RUN: for a_store_that_spins_costs_no_more_than_the_limit alone"]
fn a_task_that_spins() {
    let why = failed("s5::what_is_not_renewed_is_gone_by_ttl_and_lag", |parts| Parts {
        client: |_| {
            tokio::spawn(async {
                loop {
                    tokio::task::yield_now().await;
                }
            });
        },
        ..parts
    });
    println!("{why}");
}

#[test]
#[ignore = "NOT RUN: for a_store_that_spins_costs_no_more_than_the_limit alone"]
fn a_request_that_never_yields() {
    let why = failed("s1::a_write_gets_a_new_greater_revision", |parts| Parts {
        store: |good| {
            faulty(good, |request| {
                while !is_first(request) {
                    std::hint::spin_loop();
                }
                false
            })
        },
        ..parts
    });
    println!("{why}");
}

#[test]
fn a_store_that_spins_costs_no_more_than_the_limit() {
    let why = in_its_own_process("a_task_that_spins");
    assert!(why.contains("it stood still for 2s: something spins"), "{why}");
    assert!(!why.contains("Its thread could not be stopped"), "{why}");
    assert!(why.contains("What was asked last, and answered:"), "{why}");
    let why = in_its_own_process("a_request_that_never_yields");
    assert!(why.contains("it stood still for 2s: something spins"), "{why}");
    assert!(why.contains("\n    -> no answer, by then"), "{why}");
    assert!(why.contains("Its thread could not be stopped. If it spins, it takes a core"), "{why}");
}

/// How long an author waits whose store is all wrong: the first failure is there at once, and no
/// case takes longer than it takes to shorten what it found.
#[test]
#[ignore = "NOT RUN: it takes minutes; `cargo test -p coord-tests --test verdicts -- --ignored how_long`"]
fn how_long_an_author_waits_whose_store_is_wrong() {
    type Spoil = fn(Parts) -> Parts;
    let wrong: [(&str, Spoil); 2] = [
        ("refuses everything", |parts| Parts {
            store: |good| {
                let faults = Faults::default();
                (0..100_000).for_each(|_| faults.next(Fault::Deny, |_| true));
                Arc::new(Faulty::new(good, faults))
            },
            ..parts
        }),
        ("refuses every seventh write", |parts| Parts {
            store: |good| {
                let faults = Faults::default();
                for _ in 0..10_000 {
                    let mut writes = 0;
                    faults.next(Fault::Deny, move |request| {
                        writes += usize::from(request.is_write());
                        writes == 7
                    });
                }
                Arc::new(Faulty::new(good, faults))
            },
            ..parts
        }),
    ];
    for (what, spoil) in wrong {
        let (start, mut first, mut longest, mut failed) = (Instant::now(), None, Duration::ZERO, 0);
        for case in cases().filter(|case| case.need.is_none()) {
            let begin = Instant::now();
            let verdict = said(&format!("{}::{}", case.rule, case.sentence), spoil);
            longest = longest.max(begin.elapsed());
            if let Verdict::Failed(_) = verdict {
                first = first.or(Some(start.elapsed()));
                failed += 1;
            }
        }
        println!(
            "{what}: {failed} failed in {:?}, the first after {first:?}, the longest {longest:?}",
            start.elapsed()
        );
        assert!(failed > 0 && longest < Duration::from_secs(60));
    }
}
