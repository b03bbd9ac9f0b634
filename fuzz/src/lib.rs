//! What must hold for every input, in a form that libFuzzer can call: each module has one `check`,
//! which panics where it does not.
//!
//! `scripts/fuzz.sh` looks for an input that breaks one; it needs nothing but stable Rust and a C++
//! compiler. `cargo run -p coord-fuzz --bin keys -- FILE...` shows again what was found, and the
//! tests of this crate check the seeds and some thousand mutations of them, so that every run of
//! the tests does.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a property that does not hold is a panic"
)]

use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;

pub mod keys;
pub mod records;
pub mod urls;
pub mod values;
pub mod watches;

/// The program of a target: libFuzzer's with `--cfg fuzzing`, else one that checks the files that
/// it is given.
#[macro_export]
macro_rules! target {
    ($check:path) => {
        #[cfg(fuzzing)]
        libfuzzer_sys::fuzz_target!(|data: &[u8]| $check(data));

        #[cfg(not(fuzzing))]
        fn main() -> std::process::ExitCode {
            $crate::replay($check)
        }
    };
}

/// Checks each file that the arguments name.
#[must_use]
pub fn replay(check: fn(&[u8])) -> ExitCode {
    for file in std::env::args_os().skip(1).map(PathBuf::from) {
        match std::fs::read(&file) {
            Ok(data) => check(&data),
            Err(_) => return ExitCode::from(2),
        }
    }
    ExitCode::SUCCESS
}

/// Runs a future where time passes by itself as soon as nobody has anything else to do, so that
/// nothing waits for long.
fn run<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O needs nothing")
        .block_on(future)
}
