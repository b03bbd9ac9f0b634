//! What the verdict of a case says of a drawn sequence that fails, or that hangs.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use coord_api::store::{Span, Store};
use coord_api::{Provider, Revision};
use coord_testkit::wrap::{Fault, Faults, Faulty, Request};
use coord_testkit::{Client, Harness, Time, Verdict, cases, run_with_seed};
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
}

#[test]
fn what_is_answered_rightly_the_second_time_is_told_whole() {
    let why = failure(|faults| {
        faults.next(
            Fault::Deny,
            |request| matches!(request, Request::Range(range) if matches!(range.span, Span::Key(_))),
        )
    });
    assert!(
        why.starts_with("r10: it failed: ")
            && why.contains("It was answered rightly when it was carried out again."),
        "{why}"
    );
    assert!(why.matches("\n    (").count() > 1, "{why}");
}

#[test]
fn what_is_answered_wrongly_each_time_is_told_at_its_shortest() {
    let why = failure(|faults| (0..10_000).for_each(|_| faults.next(Fault::Deny, |_| true)));
    assert!(why.contains("\nThe shortest sequence found:\n    (0, Get(0))"), "{why}");
    assert_eq!(why.matches("\n    (").count(), 1, "{why}");
}
