//! Writes the transcript that the example replays: `im-transcript [SEED] > data/transcript.jsonl`.
#![allow(clippy::print_stdout, reason = "that is what it is for")]

use im_service::transcript::{SEED, generate, to_text};

fn main() -> Result<(), std::num::ParseIntError> {
    let seed = std::env::args().nth(1).map_or(Ok(SEED), |seed| seed.parse())?;
    print!("{}", to_text(&generate(seed)));
    Ok(())
}
