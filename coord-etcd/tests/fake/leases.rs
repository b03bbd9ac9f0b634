//! Renewals that do not count, and losses that are none (S5).

use std::time::Duration;

use coord_api::store::Store;
use coord_api::{ErrorKind, LeaseId, Outcome};
use coord_etcd::EtcdStore;
use etcd_client::proto::PbLeaseTimeToLiveResponse;
use tonic::Status;

use crate::server::{Answer, Fake, Step, header, renewed};
use crate::{options, store};

const ID: LeaseId = LeaseId::new(7);
const TTL: Duration = Duration::from_secs(5);

/// A fake whose renewals go like this, one after the other, and a client that was granted a lease.
async fn renewals(
    steps: impl IntoIterator<Item = Vec<Step<etcd_client::proto::PbLeaseKeepAliveResponse>>>,
) -> (Fake, EtcdStore) {
    let fake = Fake::start(10).await;
    fake.script(|script| script.renewals.extend(steps));
    let store = store(&fake);
    assert_eq!(store.grant_lease(TTL).await.unwrap().id, ID);
    (fake, store)
}

#[tokio::test]
async fn a_ttl_of_zero_is_no_loss_until_the_member_has_caught_up() {
    let (fake, store) =
        renewals([vec![Step::Always(renewed(7, 0))], vec![Step::Always(renewed(7, 5))]]).await;
    assert_eq!(store.keep_alive(ID).await.unwrap(), TTL);
    let asked = fake.requests();
    assert_eq!(
        asked,
        ["grant", "renewal", "range", "renewal"],
        "a linearizable read comes before it is believed"
    );
}

#[tokio::test]
async fn a_ttl_of_zero_that_is_confirmed_is_a_loss() {
    let (_fake, store) =
        renewals([vec![Step::Always(renewed(7, 0))], vec![Step::Always(renewed(7, 0))]]).await;
    let error = store.keep_alive(ID).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::LeaseLost, Outcome::NotApplied));
}

#[tokio::test]
async fn a_ttl_of_zero_that_cannot_be_confirmed_is_no_loss() {
    let (fake, store) = renewals([vec![Step::Always(renewed(7, 0))]]).await;
    fake.script(|script| {
        script.ranges.push_back(Answer::Fail(Status::unavailable("etcdserver: leader changed")))
    });
    assert_eq!(store.keep_alive(ID).await.unwrap_err().kind(), ErrorKind::Unavailable);
    // Nor does it matter that the user may not read what is read for it.
    fake.script(|script| {
        script.renewals.extend([vec![Step::Always(renewed(7, 0))], vec![Step::Always(renewed(7, 0))]]);
        script.ranges.push_back(Answer::Fail(Status::permission_denied("etcdserver: permission denied")));
    });
    assert_eq!(store.keep_alive(ID).await.unwrap_err().kind(), ErrorKind::LeaseLost);
}

#[tokio::test]
async fn only_an_answer_about_this_lease_counts() {
    let without_an_answer = vec![Step::Await, Step::End];
    let about_another = vec![Step::Always(renewed(8, 5))];
    let broken = vec![Step::Await, Step::Fail(Status::unavailable("etcdserver: no leader"))];
    let (_fake, store) = renewals([without_an_answer, about_another, broken]).await;
    for what in ["no answer", "another lease", "no leader"] {
        assert_eq!(store.keep_alive(ID).await.unwrap_err().kind(), ErrorKind::Unavailable, "{what}");
    }
    assert_eq!(store.keep_alive(ID).await.unwrap(), TTL);
}

#[tokio::test]
async fn a_renewal_that_is_not_answered_goes_to_the_next_member() {
    let (one, two) = (Fake::start(10).await, Fake::start(10).await);
    let store = EtcdStore::connect_lazy(&options([&one, &two])).unwrap();
    store.grant_lease(TTL).await.unwrap();
    let (silent, other) = if one.asked("grant") == 1 { (&one, &two) } else { (&two, &one) };
    silent.script(|script| script.renewals.push_back(vec![Step::Await, Step::Stall]));
    assert_eq!(store.keep_alive(ID).await.unwrap(), TTL);
    assert_eq!((silent.asked("renewal"), other.asked("renewal")), (1, 1));
}

#[tokio::test]
async fn a_lease_that_is_late_to_be_revoked_is_not_gone() {
    let fake = Fake::start(10).await;
    let look_up = |ttl, granted_ttl| {
        Answer::Give(PbLeaseTimeToLiveResponse {
            header: header(10),
            id: 7,
            ttl,
            granted_ttl,
            keys: vec![b"b".into(), b"a".into()],
        })
    };
    fake.script(|script| script.look_ups.extend([look_up(-1, 5), look_up(-1, 0)]));
    let store = store(&fake);
    let late = store.lease(ID).await.unwrap().expect("it was granted a TTL");
    assert_eq!((late.remaining, late.keys), (Duration::ZERO, vec!["a".into(), "b".into()]));
    assert_eq!(store.lease(ID).await.unwrap(), None);
    assert_eq!(
        fake.requests(),
        ["range", "look_up", "range", "look_up"],
        "each by a linearizable read first"
    );
}

#[tokio::test]
async fn a_strangers_lease_is_renewed_for_its_own_ttl() {
    let fake = Fake::start(10).await;
    let store = store(&fake);
    assert_eq!(store.keep_alive(ID).await.unwrap(), TTL);
    assert_eq!(store.keep_alive(ID).await.unwrap(), TTL);
    assert_eq!(fake.asked("look_up"), 1, "the TTL of a lease never changes");
}
