//! The kit on the volatile store.

coord_tests::conformance!(volatile, coord_tests::harness::memory::Volatile::start());
