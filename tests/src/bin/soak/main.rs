//! Hours of faults on real servers: random histories on clusters of three, cut connections under a watch, holders that stand still beyond their TTL.
//!
//! ```text
//! scripts/soak.sh                                   # all of it, three quarters of an hour
//! scripts/soak.sh histories --count 60 --seed 1     # or one part
//! scripts/soak.sh cuts --count 10000
//! scripts/soak.sh pauses --count 200
//! scripts/soak.sh histories --hosts                 # as root: cables of servers are pulled, too
//! ```
//!
//! Each part shows how far it is, and ends with what it did and what was broken. It fails if anything was.
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command for developers, which fails loudly"
)]

mod cuts;
#[path = "../../tests/harness/mod.rs"]
mod harness;
mod histories;
mod pauses;

use std::process::ExitCode;

use coord_etcd_fixture::{Binary, Series, in_network_of_its_own};
use indicatif::{ProgressBar, ProgressStyle};
use lexopt::prelude::*;

const USAGE: &str = "usage: soak [histories|cuts|pauses] [--count N] [--seed FIRST] [--threads N] [--operations N] [--faults N] [--hosts]

Without a part, all three with 60 histories, 10,000 cuts and 200 pauses.
With --hosts each server of a history has a network namespace of its own, and its cable is pulled instead of the ways to its peers: packets vanish. Needs Linux and root.";

/// What is asked for.
struct Options {
    count: Option<u64>,
    seed: u64,
    threads: usize,
    operations: usize,
    faults: usize,
    hosts: bool,
}

fn main() -> ExitCode {
    let mut options = Options { count: None, seed: 1, threads: 2, operations: 1_000, faults: 40, hosts: false };
    let mut parts = Vec::new();
    let mut arguments = lexopt::Parser::from_env();
    let parsed =
        (|| -> Result<(), lexopt::Error> {
            while let Some(argument) = arguments.next()? {
                match argument {
                    Value(part) if part == pauses::HOLDER => std::process::exit(pauses::hold(&mut arguments)),
                    Value(part) => parts.push(part.parse_with(|part| {
                        ["histories", "cuts", "pauses"].into_iter().find(|known| *known == part).ok_or("no such part")
                    })?),
                    Long("count") => options.count = Some(arguments.value()?.parse()?),
                    Long("seed") => options.seed = arguments.value()?.parse()?,
                    Long("threads") => options.threads = arguments.value()?.parse()?,
                    Long("operations") => options.operations = arguments.value()?.parse()?,
                    Long("faults") => options.faults = arguments.value()?.parse()?,
                    Long("hosts") => options.hosts = true,
                    Long("help") => {
                        println!("{USAGE}");
                        std::process::exit(0);
                    }
                    other => return Err(other.unexpected()),
                }
            }
            Ok(())
        })();
    if let Err(error) = parsed {
        eprintln!("{error}\n{USAGE}");
        return ExitCode::from(2);
    }
    if options.hosts {
        if parts != ["histories"] {
            eprintln!("only histories can have hosts\n{USAGE}");
            return ExitCode::from(2);
        }
        match in_network_of_its_own() {
            Ok(None) => {}
            Ok(Some(true)) => return ExitCode::SUCCESS,
            Ok(Some(false)) => return ExitCode::FAILURE,
            Err(why) => {
                eprintln!("{why}");
                return ExitCode::FAILURE;
            }
        }
    }
    println!("etcd {}, three servers{}", Binary::find(Series::V3_5).version(), if options.hosts { " on hosts of their own" } else { "" });
    let mut broken = 0;
    for (part, usual) in [("histories", 60), ("cuts", 10_000), ("pauses", 200)] {
        if !parts.is_empty() && !parts.contains(&part) {
            continue;
        }
        let count = options.count.unwrap_or(usual);
        println!("\n## {part}: {count}");
        broken += match part {
            "histories" => histories::run(count, &options),
            "cuts" => cuts::run(count),
            _ => pauses::run(count),
        };
    }
    if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn bar(count: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} eta {eta} {msg}");
    ProgressBar::new(count).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}
