//! R84 Losses.

use coord_api::prelude::*;
use coord_api::{LockOptions, Loss};
use coord_recipes::CampaignOptions;
use coord_recipes::inspect::Inspect;
use coord_testkit::Fixture;
use coord_testkit::wait::{eventually, within};
use coord_testkit::wrap::Fault;

use super::primitives::{Primitives, delete, entries};

const EVENTS: &str = "/events/";

/// Waits until something was written down.
async fn losses(cx: &Fixture, inspect: &Inspect) -> Vec<coord_core::LossRecord> {
    eventually(cx.soon(), "what was lost is written down", || async {
        Some(inspect.losses().await.unwrap()).filter(|losses| !losses.is_empty())
    })
    .await
}

pub(super) async fn what_was_lost_is_written_down_with_its_reason(cx: Fixture) {
    let (mine, store) = (Primitives::of(&cx.client().await), cx.store().await);
    let options = CampaignOptions::default().with_ttl(cx.ttl());
    let leadership = mine.election("jobs/a").campaign("me", options).await.unwrap();
    let looking = Primitives::of(&cx.client().await);
    let inspect = Inspect::new(&looking.client);
    assert_eq!(inspect.losses().await.unwrap(), []);
    delete(&*store, entries(&*store, "/elections/").await[0].key.clone()).await;
    assert_eq!(within(cx.gone_by(cx.ttl()), "the loss", leadership.lost()).await, Loss::Removed);

    let losses = losses(&cx, &inspect).await;
    assert_eq!(losses.len(), 1, "{losses:?}");
    let loss = &losses[0];
    assert_eq!((loss.contract.as_str(), loss.key.as_str()), ("election", "jobs/a"));
    assert_eq!((loss.reason.as_str(), loss.provider.as_str()), ("removed", "kit"));
    assert_eq!(loss.token, Some(leadership.fencing_token().get()));
    let sessions = inspect.sessions().await.unwrap();
    assert!(sessions.iter().any(|session| session.session == loss.session), "{sessions:?}");
    assert!(loss.at_ms > 1_600_000_000_000);
    mine.client.close().await.unwrap();
    assert_eq!(inspect.losses().await.unwrap(), losses, "it outlives who wrote it");
}

pub(super) async fn what_is_lost_in_an_outage_is_written_down_when_the_store_is_back(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let mine = Primitives::of(&client);
    let options = CampaignOptions::default().with_ttl(cx.ttl());
    let one = mine.election("one").campaign("me", options).await.unwrap();
    let two = mine.election("two").campaign("me", options).await.unwrap();
    faults.cut();
    for leadership in [&one, &two] {
        let lost = within(cx.gone_by(cx.ttl()), "the loss", leadership.lost()).await;
        assert_eq!(lost, Loss::Expired);
    }
    let inspect = Inspect::new(&Primitives::of(&cx.client().await).client);
    assert_eq!(inspect.losses().await.unwrap(), [], "the store is away");
    faults.heal();
    let losses = losses(&cx, &inspect).await;
    let mut told: Vec<_> = losses.iter().map(|loss| (loss.key.as_str(), loss.reason.as_str())).collect();
    told.sort_unstable();
    assert_eq!(told, [("one", "expired"), ("two", "expired")]);
    for loss in &losses {
        assert!(loss.renewed_ago_ms > 0 && loss.last_error.is_some(), "{loss:?}");
    }
    assert_eq!(entries(&*cx.store().await, EVENTS).await.len(), 1, "in one write");
}

pub(super) async fn a_write_whose_answer_is_lost_tells_it_once(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let (mine, store) = (Primitives::of(&client), cx.store().await);
    let options = CampaignOptions::default().with_ttl(cx.ttl());
    let leadership = mine.election("jobs").campaign("me", options).await.unwrap();
    faults.next_put(Fault::LoseAnswer, EVENTS);
    delete(&*store, entries(&*store, "/elections/").await[0].key.clone()).await;
    within(cx.gone_by(cx.ttl()), "the loss", leadership.lost()).await;
    let inspect = Inspect::new(&mine.client);
    assert_eq!(losses(&cx, &inspect).await.len(), 1);
    // Another loss is written after the first one, which was repeated until then.
    let options = CampaignOptions::default().with_ttl(cx.ttl());
    let leadership = mine.election("more").campaign("me", options).await.unwrap();
    delete(&*store, entries(&*store, "/elections/").await[0].key.clone()).await;
    within(cx.gone_by(cx.ttl()), "the loss", leadership.lost()).await;
    let keys = eventually(cx.soon(), "the other one", || async {
        let losses = inspect.losses().await.unwrap();
        let keys: Vec<_> = losses.into_iter().map(|loss| loss.key).collect();
        keys.contains(&"more".to_owned()).then_some(keys)
    })
    .await;
    assert_eq!(keys, ["jobs", "more"]);
}

pub(super) async fn what_was_given_back_is_no_loss(cx: Fixture) {
    let client = cx.client().await;
    let options = LockOptions::default().with_ttl(cx.ttl());
    let guard = client.provider.lock().acquire_with("a", options).await.unwrap();
    guard.unlock().await.unwrap();
    let guard = client.provider.lock().acquire_with("b", options).await.unwrap();
    client.provider.close().await.unwrap();
    assert_eq!(within(cx.soon(), "the end", guard.lost()).await, Loss::Closed);
    assert_eq!(entries(&*cx.store().await, EVENTS).await, []);
}

pub(super) async fn by_option_nothing_is_written(cx: Fixture) {
    let (silent, telling) = (Primitives::of(&cx.client().await), Primitives::of(&cx.client().await));
    silent.client.write_losses(false);
    let store = cx.store().await;
    let mut held = Vec::new();
    for (over, name) in [(&silent, "silent"), (&telling, "telling")] {
        let options = CampaignOptions::default().with_ttl(cx.ttl());
        held.push(over.election(name).campaign("me", options).await.unwrap());
    }
    for entry in entries(&*store, "/elections/").await {
        delete(&*store, entry.key).await;
    }
    for leadership in &held {
        within(cx.gone_by(cx.ttl()), "the loss", leadership.lost()).await;
    }
    let losses = losses(&cx, &Inspect::new(&telling.client)).await;
    assert_eq!(losses.iter().map(|loss| loss.key.as_str()).collect::<Vec<_>>(), ["telling"]);
}
