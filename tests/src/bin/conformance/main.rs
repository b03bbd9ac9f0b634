//! The kit on every backend of this workspace, as the matrix that the README links.
//!
//! ```text
//! # brings the servers, once
//! scripts/etcd.sh
//! # all of it
//! cargo run --release -p coord-tests --bin conformance -- --out target/conformance
//! # some backends
//! cargo run -p coord-tests --bin conformance -- --backend memory,sled
//! # some cases on one of them
//! cargo run -p coord-tests --bin conformance -- --backend etcd-3.5-three --case r12::
//! ```
//!
//! Each case has a fresh store of its own, with servers of its own where the store has any.
//! `--help` lists what else it can do.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command")]

mod command;

use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use coord_servers::etcd::{Binary, Series};
use coord_testkit::report::Suite;
use coord_tests::cases::{channel, manager};
use coord_tests::harness::etcd::Etcd;
use coord_tests::harness::{memory, sled, sqlite, third_party};

/// Most of a case on a server is waiting for leases. With many more at once than there are cores,
/// servers are too late for their own clocks, and cases fail.
const THREADS: usize = 4;

/// Runs the conformance kit and writes what it found.
#[derive(Debug, Parser)]
struct Arguments {
    /// Only these backends; by default all of them
    #[arg(long, value_enum, value_delimiter = ',')]
    backend: Vec<Backend>,
    #[command(flatten)]
    options: command::Options,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Backend {
    Memory,
    Sled,
    Sqlite,
    ThirdParty,
    #[value(name = "etcd-3.5-single")]
    Etcd35Single,
    #[value(name = "etcd-3.5-three")]
    Etcd35Three,
    #[value(name = "etcd-3.4-single")]
    Etcd34Single,
}

impl Backend {
    fn suite(self) -> Suite {
        let name = self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
        let replay = format!("cargo run -p coord-tests --bin conformance -- --backend {name} --case");
        let etcd = |series, start: fn(Series) -> Etcd| {
            Suite::new(&name, &replay, move || async move { start(series) })
                .with_server(format!("etcd {}", Binary::find(series).version()))
                .with_threads(THREADS)
        };
        let suite = match self {
            Backend::Memory => Suite::new(&name, &replay, || async { memory::Volatile::start() }),
            Backend::Sled => Suite::new(&name, &replay, || async { sled::Durable::start() }),
            Backend::Sqlite => Suite::new(&name, &replay, || async { sqlite::File::start() }),
            Backend::ThirdParty => Suite::new(&name, &replay, || async { third_party::start() }),
            Backend::Etcd35Single => etcd(Series::V3_5, Etcd::single),
            Backend::Etcd35Three => etcd(Series::V3_5, Etcd::three),
            Backend::Etcd34Single => etcd(Series::V3_4, Etcd::single),
        };
        suite.with_cases(manager::CASES).with_cases(channel::CASES)
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let wanted = |backend: &&Backend| arguments.backend.is_empty() || arguments.backend.contains(backend);
    command::run(
        Backend::value_variants().iter().filter(wanted).map(|backend| backend.suite()).collect(),
        &arguments.options,
    )
}
