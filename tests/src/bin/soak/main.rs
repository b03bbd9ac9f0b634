//! Hours of faults on real servers: random histories on clusters of three, cut connections under a
//! watch, holders that stand still beyond their TTL.
//!
//! ```text
//! scripts/soak.sh                                   # all of it, three quarters of an hour
//! scripts/soak.sh histories --count 60 --seed 1     # or one part
//! scripts/soak.sh cuts --count 10000
//! scripts/soak.sh pauses --count 200
//! scripts/soak.sh histories --hosts                 # as root: cables of servers are pulled, too
//! ```
//!
//! Each part shows how far it is, and ends with what it did and what was broken. It fails if
//! anything was.
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
mod histories;
mod pauses;

use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use coord_servers::etcd::{Binary, Series, in_network_of_its_own};

/// Long runs of faults on real servers; without a part, all of them: 60 histories, 10,000 cuts and
/// 200 pauses.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    holder: Option<Hidden>,
    /// Only these parts
    #[arg(value_enum)]
    parts: Vec<Part>,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, clap::Args)]
struct Options {
    /// How many histories, cuts or pauses
    #[arg(long)]
    count: Option<u64>,
    /// The seed of the first history; each further one has the next
    #[arg(long, value_name = "FIRST", default_value_t = 1)]
    seed: u64,
    /// So many histories at a time
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Operations of a history
    #[arg(long, default_value_t = 1_000)]
    operations: usize,
    /// Faults of a history
    #[arg(long, default_value_t = 40)]
    faults: usize,
    /// Each server of a history has a network namespace of its own, and its cable is pulled instead
    /// of the ways to its peers: packets vanish; needs Linux and root
    #[arg(long)]
    hosts: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Histories,
    Cuts,
    Pauses,
}

/// What this program runs of itself, in processes of their own.
#[derive(Debug, Subcommand)]
enum Hidden {
    #[command(name = pauses::HOLDER, hide = true)]
    Holder { key: String, endpoints: Vec<String> },
}

fn main() -> ExitCode {
    let Arguments { holder, parts, options } = Arguments::parse();
    if let Some(Hidden::Holder { key, endpoints }) = holder {
        pauses::hold(&key, endpoints);
    }
    if options.hosts {
        if parts != [Part::Histories] {
            eprintln!("only histories can have hosts");
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
    println!(
        "etcd {}, three servers{}",
        Binary::find(Series::V3_5).version(),
        if options.hosts { " on hosts of their own" } else { "" }
    );
    let mut broken = 0;
    for (part, usual) in [(Part::Histories, 60), (Part::Cuts, 10_000), (Part::Pauses, 200)] {
        if !parts.is_empty() && !parts.contains(&part) {
            continue;
        }
        let count = options.count.unwrap_or(usual);
        println!("\n## {part:?}: {count}");
        broken += match part {
            Part::Histories => histories::run(count, &options),
            Part::Cuts => cuts::run(count),
            Part::Pauses => pauses::run(count),
        };
    }
    if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}
