//! The kit on the durable store.

coord_tests::conformance!(persistent, coord_tests::harness::sled::Durable::start());
