//! What the tests of this workspace share that need several of its crates: nothing is published,
//! and nothing imports it.
//!
//! - [`harness`]: the stores that the kit runs on, each as a [`coord_testkit::Harness`].
//! - [`cases`]: cases of rules that are about types of the library and not about a backend.
//! - [`third_party`]: a store that somebody wrote from the guide.
//! - [`progress`]: how the programs show how far they are.
//!
//! The tests themselves lie in `tests/`, what needs a server or two crates to be measured in
//! `benches/`, and the programs for developers in `src/bin/`: `conformance`, `histories` and
//! `soak`.
#![allow(missing_debug_implementations, reason = "tests print verdicts, and none of these")]

pub mod cases;
pub mod harness;
pub mod progress;
pub mod third_party;
