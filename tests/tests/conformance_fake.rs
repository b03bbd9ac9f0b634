//! The kit through etcd's store on the fake etcd.

use coord_tests::harness::fake_etcd::Fake;

coord_tests::conformance!(volatile, Fake::start());
