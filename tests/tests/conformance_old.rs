//! The kit on one server of etcd 3.4, the old and hostile one.

use coord_servers::etcd::Series;
use coord_tests::harness::etcd::Etcd;

coord_tests::conformance!(persistent, Etcd::single(Series::V3_4));
