//! The kit on one server of etcd 3.5.

#[path = "../../coord-testkit/tests/channel/mod.rs"]
#[macro_use]
mod channel;
mod harness;
#[path = "../../coord-testkit/tests/manager/mod.rs"]
#[macro_use]
mod manager;

coord_testkit::conformance!(persistent, harness::Etcd::single(coord_etcd_fixture::Series::V3_5));
manager_cases! { [coord_testkit::test_cases] (crate::manager::CASES) persistent }
channel_cases! { [coord_testkit::test_cases] (crate::channel::CASES) persistent }
