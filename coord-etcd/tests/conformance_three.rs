//! The kit on three servers of etcd 3.5.

mod harness;

coord_testkit::conformance!(persistent, harness::Etcd::three(coord_etcd_fixture::Series::V3_5));
