//! The names of topics and groups, and the partition that a message belongs to.

use coord::{Error, Result};

/// What the name of a topic of dead letters ends in.
pub(crate) const DEAD: &str = ".dead";

/// The longest name of a topic, in bytes: so that each can have its `.dead`, twice.
const MAX_TOPIC: usize = 128;

/// The longest name of a group, or of a space, in bytes.
const MAX_GROUP: usize = 64;

fn is_word(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// Whether this is the name of a topic: words of letters, digits, `-` and `_`, with dots between.
///
/// # Errors
///
/// `InvalidArgument`.
pub(crate) fn check_topic(operation: &'static str, topic: &str) -> Result<()> {
    if topic.len() <= MAX_TOPIC && topic.split('.').all(is_word) {
        return Ok(());
    }
    Err(Error::invalid_argument(
        operation,
        "a topic is named by words of A-Z, a-z, 0-9, - and _ with dots between, in at most 128 bytes",
    )
    .about(topic))
}

/// Whether this is the name of a group: a word of letters, digits, `-` and `_`.
///
/// # Errors
///
/// `InvalidArgument`.
pub(crate) fn check_group(operation: &'static str, group: &str) -> Result<()> {
    if is_group(group) {
        return Ok(());
    }
    Err(Error::invalid_argument(
        operation,
        "a group is named by a word of A-Z, a-z, 0-9, - and _, in at most 64 bytes",
    )
    .about(group))
}

pub(crate) fn is_group(name: &str) -> bool {
    name.len() <= MAX_GROUP && is_word(name)
}

/// Whether a topic takes dead letters: it keeps them also where nobody has subscribed yet, and has
/// one partition.
pub(crate) fn is_dead(topic: &str) -> bool {
    topic.ends_with(DEAD)
}

/// The topic of the dead letters of a topic.
pub(crate) fn dead_of(topic: &str) -> String {
    format!("{topic}{DEAD}")
}

/// The partition that belongs to a key, of so many: FNV-1a of its bytes, 64 bits, modulo the
/// number. All who publish to a topic must agree on it, so it never changes.
pub(crate) fn partition_of(key: &str, partitions: u16) -> u16 {
    let hash = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    u16::try_from(hash % u64::from(partitions.max(1))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_words() {
        for topic in ["orders", "im.messages", "im.messages.dead", "A-1_b"] {
            check_topic("t", topic).unwrap();
        }
        let long = "a".repeat(129);
        for topic in ["", ".", "a.", ".a", "a..b", "a b", "a/b", "a*", "ä", &long] {
            assert!(check_topic("t", topic).is_err(), "{topic:?}");
        }
        check_group("t", "counters-1").unwrap();
        for group in ["", "a.b", "a/b", &long] {
            assert!(check_group("t", group).is_err(), "{group:?}");
        }
    }

    #[test]
    fn partitions_are_what_they_were_and_each_is_used() {
        // From other programs that compute FNV-1a.
        assert_eq!(partition_of("", 1000), u16::try_from(0xcbf2_9ce4_8422_2325_u64 % 1000).unwrap());
        assert_eq!(partition_of("a", 1000), u16::try_from(0xaf63_dc4c_8601_ec8c_u64 % 1000).unwrap());
        let mut used = [0_u32; 8];
        for room in 0..8_000 {
            used[usize::from(partition_of(&format!("room-{room}"), 8))] += 1;
        }
        assert!(used.iter().all(|count| (800..1200).contains(count)), "{used:?}");
        assert_eq!(partition_of("x", 1), 0);
    }
}
