//! R44 Release.

use coord_api::{ErrorKind, InstanceId};
use tokio::time::sleep;

use super::super::leased::{delete, entry};
use super::{acquire, await_one, numbers};
use crate::fixture::Fixture;
use crate::layout;
use crate::wait::within;

pub(super) async fn a_released_id_is_free_at_once(cx: Fixture) {
    let (one, other, store) = (cx.provider().await, cx.provider().await, cx.store().await);
    for (releases, acquires) in [(&one, &other), (&other, &one), (&one, &one)] {
        let id = acquire(&cx, &**releases, 1).await.unwrap();
        id.release().await.unwrap();
        assert_eq!(entry(&*store, layout::id("s", 1)).await, None);
        let next = acquire(&cx, &**acquires, 1).await.unwrap();
        assert!(next.is_held() && !id.is_held());
        next.release().await.unwrap();
    }
}

pub(super) async fn a_released_id_returns_every_time(cx: Fixture) {
    let provider = cx.provider().await;
    let kept = acquire(&cx, &*provider, 3).await.unwrap();
    for _ in 0..20 {
        let id = acquire(&cx, &*provider, 3).await.unwrap();
        assert_eq!(id.id(), 2);
        id.release().await.unwrap();
    }
    assert!(kept.is_held());
}

pub(super) async fn a_late_release_never_frees_a_successor(cx: Fixture) {
    let (client, faults) = cx.faulty().await;
    let (other, store) = (cx.provider().await, cx.store().await);
    let ids = [
        acquire(&cx, &*client.provider, 2).await.unwrap(),
        acquire(&cx, &*client.provider, 2).await.unwrap(),
    ];
    faults.cut();
    let limit = cx.gone_by(cx.ttl()) + cx.soon();
    let next = [
        within(limit, "the ids pass on", await_one(&cx, &*other, 2)).await.unwrap(),
        within(limit, "the ids pass on", await_one(&cx, &*other, 2)).await.unwrap(),
    ];
    let entries = [entry(&*store, layout::id("s", 1)).await, entry(&*store, layout::id("s", 2)).await];
    faults.heal();
    let [first, second] = ids;
    assert_eq!(first.release().await.unwrap_err().kind(), ErrorKind::LeaseLost);
    drop(second);
    sleep(cx.ttl() * 2).await;
    assert!(next.iter().all(InstanceId::is_held));
    assert_eq!([entry(&*store, layout::id("s", 1)).await, entry(&*store, layout::id("s", 2)).await], entries);
    // Within one provider, too.
    delete(&*store, layout::id("s", 1)).await;
    let last = acquire(&cx, &*other, 2).await.unwrap();
    let error = next.iter().find(|id| id.id() == 1).unwrap().release().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LeaseLost);
    assert!(last.is_held());
    assert!(entry(&*store, layout::id("s", 1)).await.is_some());
}

pub(super) async fn one_provider_holds_several_ids(cx: Fixture) {
    let provider = cx.provider().await;
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(acquire(&cx, &*provider, 5).await.unwrap());
    }
    assert_eq!(numbers(&held), [1, 2, 3, 4, 5]);
    held[1].release().await.unwrap();
    sleep(cx.ttl() * 2).await;
    for (n, id) in held.iter().enumerate() {
        assert_eq!(id.is_held(), n != 1);
    }
}
