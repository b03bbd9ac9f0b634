//! The kit on three servers of etcd 3.5.

use coord_servers::etcd::Series;
use coord_tests::harness::etcd::Etcd;

coord_tests::conformance!(persistent, Etcd::three(Series::V3_5));
