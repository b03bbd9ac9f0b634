//! What people wrote into rooms: made up, by a generator that makes the same of the same seed.
//!
//! Nobody's chat is in it. Rooms and people are of different weights, as they are everywhere (the
//! n-th has an n-th of the first one's), messages come in bursts, most are short and some are long,
//! and the words are made of syllables.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;
use fastrand::Rng;
use serde::{Deserialize, Serialize};

/// How many messages, rooms and people there are.
pub const MESSAGES: usize = 5_000;
/// See [`MESSAGES`].
pub const ROOMS: usize = 40;
/// See [`MESSAGES`].
pub const PEOPLE: usize = 300;

/// The seed of the transcript in the repository.
pub const SEED: u64 = 20_240_517;

/// A message, and how it is sent a second time: a client that heard nothing in time does so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// When it was written, in milliseconds from the beginning.
    pub at_ms: u64,
    /// Where.
    pub room: String,
    /// By whom.
    pub sender: String,
    /// By what the client knows it again: the header `Idempotency-Key`.
    pub key: String,
    /// What.
    pub text: String,
    /// After how many milliseconds it is sent again; 0 is at once, beside the first one.
    pub again_ms: u64,
}

/// The transcript of a seed.
pub fn generate(seed: u64) -> Vec<Line> {
    let mut rng = Rng::with_seed(seed);
    let words: Vec<String> = (0..900).map(|_| word(&mut rng)).collect();
    // Each room has its members, the first room the most.
    let rooms: Vec<Vec<usize>> = (0..ROOMS)
        .map(|room| {
            let size = (60 / (room + 1)).max(4);
            let mut members: Vec<usize> = (0..PEOPLE).collect();
            rng.shuffle(&mut members);
            members.truncate(size);
            members
        })
        .collect();
    let mut lines = Vec::with_capacity(MESSAGES);
    let (mut at_ms, mut room, mut left) = (0, 0, 0);
    while lines.len() < MESSAGES {
        if left == 0 {
            // A burst: somebody begins, others answer.
            room = zipf(&mut rng, ROOMS);
            left = 1 + zipf(&mut rng, 30);
            at_ms += rng.u64(200..4_000);
        }
        left -= 1;
        at_ms += rng.u64(5..400);
        let sender = rooms.get(room).map_or(0, |members| *pick(&mut rng, members).unwrap_or(&0));
        lines.push(Line {
            at_ms,
            room: format!("room-{room:02}"),
            sender: format!("user-{sender:03}"),
            key: format!("{:016x}", rng.u64(..)),
            text: text(&mut rng, &words),
            again_ms: if rng.u8(0..4) == 0 { 0 } else { rng.u64(1..2_000) },
        });
    }
    lines
}

/// A number below `count`; the n-th has an n-th of the first one's weight.
fn zipf(rng: &mut Rng, count: usize) -> usize {
    let total: f64 = (1..=count).map(|n| 1.0 / n as f64).sum();
    let mut left = rng.f64() * total;
    for n in 1..count {
        left -= 1.0 / n as f64;
        if left < 0.0 {
            return n - 1;
        }
    }
    count.saturating_sub(1)
}

/// One of them, the first ones more often.
fn pick<'a, T>(rng: &mut Rng, of: &'a [T]) -> Option<&'a T> {
    of.get(zipf(rng, of.len()))
}

fn word(rng: &mut Rng) -> String {
    const BEGIN: [&str; 14] = ["b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w"];
    const MIDDLE: [&str; 8] = ["a", "e", "i", "o", "u", "ai", "ou", "é"];
    const END: [&str; 6] = ["", "", "n", "r", "s", "l"];
    let mut word = String::new();
    for _ in 0..=zipf(rng, 4) {
        word += rng.choice(BEGIN).unwrap_or_default();
        word += rng.choice(MIDDLE).unwrap_or_default();
        word += rng.choice(END).unwrap_or_default();
    }
    word
}

fn text(rng: &mut Rng, words: &[String]) -> String {
    // Most are a few words; one in a hundred is a page.
    let count = match rng.u8(0..100) {
        0 => rng.usize(150..600),
        1..10 => rng.usize(20..60),
        _ => 1 + zipf(rng, 18),
    };
    let mut text = String::new();
    for n in 0..count {
        let blank = if n == 0 { "" } else { " " };
        let _ = write!(text, "{blank}{}", pick(rng, words).map_or("", String::as_str));
    }
    text.push_str(match rng.u8(0..10) {
        0 => "?",
        1 => "!",
        2 => " 🙂",
        _ => "",
    });
    text
}

/// Reads a transcript: one JSON object a line.
///
/// # Errors
///
/// The line that is wrong, and what is wrong with it.
pub fn read(path: &Path) -> anyhow::Result<Vec<Line>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let read = |(n, line): (usize, &str)| {
        serde_json::from_str(line).with_context(|| format!("{}:{}", path.display(), n + 1))
    };
    text.lines().enumerate().map(read).collect()
}

/// The transcript as it stands in a file.
pub fn to_text(lines: &[Line]) -> String {
    let mut text = String::new();
    for line in lines {
        // Text and numbers have JSON.
        text += &serde_json::to_string(line).unwrap_or_default();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transcript_in_the_repository_is_what_the_generator_makes() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/transcript.jsonl");
        let lines = read(&path).unwrap();
        assert!(lines == generate(SEED), "make it anew: cargo run -p im-service --bin im-transcript");
    }

    #[test]
    fn rooms_and_people_are_of_different_weights_and_keys_of_one_message() {
        let lines = generate(7);
        let count = |room: &str| lines.iter().filter(|line| line.room == room).count();
        assert_eq!(lines.len(), MESSAGES);
        assert!(count("room-00") > 10 * count("room-39").max(1) && count("room-39") > 0);
        let keys: std::collections::BTreeSet<_> = lines.iter().map(|line| &line.key).collect();
        assert_eq!(keys.len(), MESSAGES);
        let at_once = lines.iter().filter(|line| line.again_ms == 0).count();
        assert!((800..1_700).contains(&at_once), "{at_once}");
        assert!(lines.windows(2).all(|pair| pair[0].at_ms < pair[1].at_ms));
        assert!(lines.iter().all(|line| line.text.len() < 8_192));
    }
}
