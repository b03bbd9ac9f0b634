//! The kit on every backend of this workspace: `cargo run --release -p coord-testkit --example conformance -- --out .` writes the matrix that the
//! README links. `--help` lists what else it can do.

use std::process::ExitCode;

use coord_testkit::report::{Suite, command};

#[path = "../tests/channel/mod.rs"]
#[macro_use]
mod channel;
#[path = "../tests/manager/mod.rs"]
#[macro_use]
mod manager;
#[path = "../tests/harness/memory.rs"]
mod memory;
#[path = "../tests/harness/outsider.rs"]
mod outsider;
#[path = "../tests/harness/sled.rs"]
mod sled;

fn main() -> ExitCode {
    let replay = |backend: &str| format!("cargo run -p coord-testkit --example conformance -- --backend {backend} --case");
    let suites = [
        Suite::new("memory", replay("memory"), || async { memory::Volatile::start() }),
        Suite::new("sled", replay("sled"), || async { sled::Durable::start() }),
        Suite::new("outsider", replay("outsider"), || async { outsider::start() }),
    ];
    command(suites.into_iter().map(|suite| suite.with_cases(manager::CASES).with_cases(channel::CASES)).collect())
}
