//! Which store it is (S1): two stores are told apart, also when one stands where the other one
//! stood.

use std::sync::Arc;

use coord_api::prelude::*;
use coord_api::store::{Op, Txn};
use coord_api::{Revision, WatchStart};

use super::{head, put};
use crate::fixture::Fixture;
use crate::layout;
use crate::view::ConfigView;
use crate::wait::within;
use crate::wrap::{Faults, Faulty, Replaceable};

pub(super) async fn of_two_stores(cx: Fixture) {
    let others = [cx.another().await, cx.another().await];
    let mut stores = vec![cx.store().await];
    for other in &others {
        stores.push(other.store().await);
    }
    let mut seen = Vec::new();
    for store in &stores {
        // What they hold is the same.
        put(&**store, "k", "1").await;
        let id = store.status().await.unwrap().store_id;
        assert!(!seen.contains(&id), "two stores that have nothing to do with each other are both {id:?}");
        seen.push(id);
    }
}

pub(super) async fn of_a_replaced_store(cx: Fixture) {
    let other = cx.another().await;
    let (first, second) = (cx.store().await, other.store().await);
    first.txn(Txn::new().then(Op::put(layout::config("d/first"), "1"))).await.unwrap();
    // The other one is further on, so that revisions alone tell nothing.
    let mut last = Revision::ZERO;
    while last <= head(&*first).await {
        let put = Op::put(layout::config("d/second"), "2");
        last = second.txn(Txn::new().then(put)).await.unwrap().revision;
    }
    let (place, faults) = (Replaceable::new(first), Faults::default());
    let provider = cx.assemble(Arc::new(Faulty::new(place.clone(), faults.clone())));
    let mut watch = provider.config().watch_prefix_raw("d", WatchStart::Snapshot).await.unwrap();
    let mut view = ConfigView::after(Revision::ZERO);
    within(cx.soon(), "the state of the first store", async {
        while view.state().is_empty() {
            view.take(watch.next().await.unwrap().unwrap());
        }
    })
    .await;
    faults.cut();
    place.replace(second);
    faults.heal();
    within(cx.soon() * 3, "a watcher is told that another store stands there", async {
        loop {
            view.take(watch.next().await.unwrap().unwrap());
            let keys: Vec<&String> = view.state().keys().collect();
            if keys == ["d/second"] {
                break;
            }
        }
    })
    .await;
}
