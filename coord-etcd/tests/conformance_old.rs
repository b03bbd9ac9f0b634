//! The kit on one server of etcd 3.4, the old and hostile one.

mod harness;

coord_testkit::conformance!(persistent, harness::Etcd::single(coord_etcd_fixture::Series::V3_4));
