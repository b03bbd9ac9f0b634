//! R47 Tokens of shared locks.

use coord_api::FencingToken;
use coord_api::prelude::*;

use super::super::leased::queue;
use super::r45::share;
use crate::fixture::Fixture;

pub(super) async fn a_token_is_the_place_of_its_entry(cx: Fixture) {
    let (provider, store) = (cx.provider().await, cx.store().await);
    let guards = [share(&cx, &provider).await, share(&cx, &provider).await];
    let places: Vec<u64> = queue(&*store, "k").await.iter().map(|entry| entry.created.get()).collect();
    let tokens: Vec<u64> = guards.iter().map(|guard| guard.fencing_token().get()).collect();
    assert_eq!(tokens, places);
}

/// A resource that refuses what R47 lets it refuse.
#[derive(Default)]
struct Resource {
    greatest: Option<FencingToken>,
    greatest_exclusive: Option<FencingToken>,
}

impl Resource {
    fn write(&mut self, token: FencingToken) -> bool {
        let accepted = Some(token) >= self.greatest;
        self.greatest = self.greatest.max(Some(token));
        self.greatest_exclusive = self.greatest_exclusive.max(Some(token));
        accepted
    }

    fn read(&mut self, token: FencingToken) -> bool {
        self.greatest = self.greatest.max(Some(token));
        Some(token) >= self.greatest_exclusive
    }
}

pub(super) async fn a_resource_refuses_nobody_who_holds_and_everyone_who_is_late(cx: Fixture) {
    let (one, other) = (cx.provider().await, cx.provider().await);
    let mut resource = Resource::default();
    let mut late = Vec::new();
    for round in 0..4 {
        let writer = one.lock().acquire("k", cx.ttl()).await.unwrap();
        let written = writer.fencing_token();
        assert!(resource.write(written), "round {round}: the writer holds");
        if round % 2 == 0 {
            // What was written may be read by whoever wrote it, and readers beside it.
            writer.downgrade().await.unwrap();
            assert!(resource.read(writer.fencing_token()));
        } else {
            writer.unlock().await.unwrap();
        }
        let readers = [share(&cx, &one).await, share(&cx, &other).await];
        for reader in readers.iter().rev() {
            assert!(resource.read(reader.fencing_token()), "round {round}: the reader holds");
        }
        for token in late.drain(..) {
            assert!(!resource.write(token), "round {round}: a writer that is late");
        }
        late.push(written);
        for guard in readers.into_iter().chain([writer]) {
            let _ = guard.unlock().await;
        }
    }
}
