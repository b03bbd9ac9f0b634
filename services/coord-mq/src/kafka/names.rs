//! What topics and groups are called on the brokers.
//!
//! | here | there |
//! |---|---|
//! | topic `im.messages` of space `main` | topic `main.im.messages` |
//! | group `counters` of that topic | group `main.im.messages.counters` |

/// The topic. No space and no group has a dot, so that no two have one name; the longest has fewer
/// than the 249 bytes that Kafka allows.
pub(super) fn topic(space: &str, topic: &str) -> String {
    format!("{space}.{topic}")
}

/// The group. On the brokers a group may read many topics; here each topic has groups of its own.
pub(super) fn group(space: &str, topic: &str, group: &str) -> String {
    format!("{space}.{topic}.{group}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_they_were() {
        assert_eq!(topic("main", "im.messages"), "main.im.messages");
        assert_eq!(group("main", "im.messages", "counters"), "main.im.messages.counters");
        let longest = topic(&"s".repeat(64), &"t".repeat(128));
        assert!(longest.len() + ".dead.dead".len() <= 249);
    }
}
