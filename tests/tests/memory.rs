//! The kit on the volatile store.

#[path = "harness/memory.rs"]
mod harness;
#[macro_use]
mod channel;
#[macro_use]
mod manager;

coord_testkit::conformance!(volatile, harness::Volatile::start());
manager_cases! { [coord_testkit::test_cases] (crate::manager::CASES) volatile }
channel_cases! { [coord_testkit::test_cases] (crate::channel::CASES) volatile }
