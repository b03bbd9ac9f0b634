//! The kit on one server of etcd 3.5.

use coord_servers::etcd::Series;
use coord_tests::harness::etcd::Etcd;

coord_tests::conformance!(persistent, Etcd::single(Series::V3_5));
