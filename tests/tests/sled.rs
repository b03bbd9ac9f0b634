//! The kit on the durable store.

#[path = "harness/sled.rs"]
mod harness;
#[macro_use]
mod channel;
#[macro_use]
mod manager;

coord_testkit::conformance!(persistent, harness::Durable::start());
manager_cases! { [coord_testkit::test_cases] (crate::manager::CASES) persistent }
channel_cases! { [coord_testkit::test_cases] (crate::channel::CASES) persistent }
