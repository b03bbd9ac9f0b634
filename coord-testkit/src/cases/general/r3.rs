//! R3 Connect.

use std::time::Duration;

use coord_api::Value;
use coord_api::prelude::*;

use crate::fixture::Fixture;
use crate::wait::{eventually, within};
use crate::wrap::{Faults, Faulty};

pub(super) async fn a_further_client_sees_what_the_others_see(cx: Fixture) {
    let first = cx.provider().await;
    let version = first.config().set_raw("k", Value::from("v")).await.unwrap();
    for _ in 0..10 {
        let further = within(cx.soon(), "a client connects", cx.provider()).await;
        let found = further.config().get_raw("k").await.unwrap().unwrap();
        assert_eq!(found.version, version);
    }
}

/// A provider whose store is out of reach when it is made fails, and works once the store is there.
async fn keeps_trying(cx: &Fixture, away: impl Fn(&Faults)) {
    let faults = Faults::default();
    away(&faults);
    let store = cx.store().await;
    let provider = cx.assemble(std::sync::Arc::new(Faulty::new(store, faults.clone())));
    let early =
        tokio::time::timeout(Duration::from_secs(5), provider.config().set_raw("k", Value::from("early")))
            .await;
    // A store that gives no answer leaves the call pending; it is dropped then.
    if let Ok(answered) = early {
        assert!(answered.unwrap_err().is_transient());
    }
    faults.heal();
    let version = eventually(cx.soon(), "it works once the store is there", async || {
        provider.config().set_raw("k", Value::from("v")).await.ok()
    })
    .await;
    let found = cx.provider().await.config().get_raw("k").await.unwrap().unwrap();
    assert_eq!((found.value, found.version), (Value::from("v"), version));
    let guard = provider.lock().acquire("l", cx.ttl()).await.unwrap();
    assert!(guard.is_held());
}

pub(super) async fn a_provider_out_of_reach_keeps_trying(cx: Fixture) {
    keeps_trying(&cx, Faults::cut).await;
}

pub(super) async fn a_provider_that_hangs_at_first_keeps_trying(cx: Fixture) {
    keeps_trying(&cx, Faults::hang).await;
}
