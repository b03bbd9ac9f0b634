//! The kit on real clusters: adds the columns of etcd to the matrix that the README links.
//!
//! ```text
//! scripts/etcd.sh                                                                           # brings the servers, once
//! cargo run --release -p coord-etcd --example etcd_conformance -- --out target/conformance                    # all of it
//! cargo run -p coord-etcd --example etcd_conformance -- --backend etcd-3.5-three --case r12::    # some cases on one cluster
//! ```
//!
//! Each case has a fresh cluster of its own. `--help` lists what else it can do.

use std::process::ExitCode;

use coord_etcd_fixture::{Binary, Series};
use coord_testkit::report::{Suite, command};

#[path = "../../coord-testkit/tests/channel/mod.rs"]
#[macro_use]
mod channel;
#[path = "../tests/harness/mod.rs"]
mod harness;
#[path = "../../coord-testkit/tests/manager/mod.rs"]
#[macro_use]
mod manager;

use harness::Etcd;

/// Most of a case is waiting for leases. With many more at once than there are cores, servers are too late for their own clocks, and cases fail.
const THREADS: usize = 4;

fn main() -> ExitCode {
    let clusters = [
        ("etcd-3.5-single", Series::V3_5, Etcd::single as fn(Series) -> Etcd),
        ("etcd-3.5-three", Series::V3_5, Etcd::three),
        ("etcd-3.4-single", Series::V3_4, Etcd::single),
    ];
    let suites = clusters.into_iter().map(|(name, series, start)| {
        let replay = format!("cargo run -p coord-etcd --example etcd_conformance -- --backend {name} --case");
        Suite::new(name, replay, move || async move { start(series) })
            .with_cases(manager::CASES)
            .with_cases(channel::CASES)
            .with_server(format!("etcd {}", Binary::find(series).version()))
            .with_threads(THREADS)
    });
    command(suites.collect())
}
