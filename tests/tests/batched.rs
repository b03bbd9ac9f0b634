//! The whole kit through the layer that sends together what comes at once: all holds as without it.

coord_testkit::conformance!(volatile, coord_tests::harness::batched::start());
