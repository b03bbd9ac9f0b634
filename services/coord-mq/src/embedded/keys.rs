//! Where everything of a topic lies in the store: in a directory of its own,
//! `/mq/<space>/<topic>/`.
//!
//! | key below it | what |
//! |---|---|
//! | `topic` | how many partitions there are, and the queue of each group |
//! | `i/<id>` | an id that is remembered, on a lease of the time for that |
//! | `q/<queue>/<partition>/<id>` | a message that waits for a group, in the order of creation |
//! | `d/<queue>/<partition>` | how often the first of them was delivered |
//! | `w/b/<partition>` | written with each message: what those who wait watch |
//! | `w/c/<queue>/<partition>` | who has the partition, on the lease of its session |

use bytes::Bytes;
use coord::store::Span;

/// The directory of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Directory(String);

/// A key that those who wait watch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Watched {
    /// A message was published to this partition.
    Bell(u16),
    /// This partition of this queue was taken, or is free.
    Claim(String, u16),
}

impl Directory {
    pub(super) fn new(space: &str, topic: &str) -> Self {
        Directory(format!("/mq/{space}/{topic}/"))
    }

    fn key(&self, rest: &str) -> Bytes {
        [self.0.as_str(), rest].concat().into()
    }

    /// The record of the topic.
    pub(super) fn topic(&self) -> Bytes {
        self.key("topic")
    }

    /// An id that is remembered.
    pub(super) fn id(&self, id: &str) -> Bytes {
        self.key(&format!("i/{}", escaped(id)))
    }

    /// The messages of a queue.
    pub(super) fn queue(&self, queue: &str) -> Span {
        Span::prefix(self.key(&format!("q/{queue}/")))
    }

    /// The messages of a partition of a queue.
    pub(super) fn messages(&self, queue: &str, partition: u16) -> Span {
        Span::prefix(self.key(&format!("q/{queue}/{partition:04}/")))
    }

    /// A message of a queue.
    pub(super) fn message(&self, queue: &str, partition: u16, id: &str) -> Bytes {
        self.key(&format!("q/{queue}/{partition:04}/{}", escaped(id)))
    }

    /// How often the first message of a partition of a queue was delivered.
    pub(super) fn deliveries(&self, queue: &str, partition: u16) -> Bytes {
        self.key(&format!("d/{queue}/{partition:04}"))
    }

    /// All such counts of a queue.
    pub(super) fn all_deliveries(&self, queue: &str) -> Span {
        Span::prefix(self.key(&format!("d/{queue}/")))
    }

    /// What those who wait watch.
    pub(super) fn watched(&self) -> Span {
        Span::prefix(self.key("w/"))
    }

    /// Written with each message of a partition.
    pub(super) fn bell(&self, partition: u16) -> Bytes {
        self.key(&format!("w/b/{partition:04}"))
    }

    /// Who has a partition of a queue.
    pub(super) fn claim(&self, queue: &str, partition: u16) -> Bytes {
        self.key(&format!("w/c/{queue}/{partition:04}"))
    }

    /// What a key is that those who wait watch.
    pub(super) fn read_watched(&self, key: &[u8]) -> Option<Watched> {
        let rest = std::str::from_utf8(key).ok()?.strip_prefix(&self.0)?.strip_prefix("w/")?;
        if let Some(partition) = rest.strip_prefix("b/") {
            return Some(Watched::Bell(partition.parse().ok()?));
        }
        let (queue, partition) = rest.strip_prefix("c/")?.split_once('/')?;
        Some(Watched::Claim(queue.to_owned(), partition.parse().ok()?))
    }
}

/// A name as one segment.
fn escaped(name: &str) -> String {
    name.replace('%', "%25").replace('/', "%2F")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_watched_is_read_back() {
        let topic = Directory::new("main", "a.b");
        assert_eq!(topic.read_watched(&topic.bell(3)), Some(Watched::Bell(3)));
        let claim = topic.claim("billing-1f", 12);
        assert_eq!(topic.read_watched(&claim), Some(Watched::Claim("billing-1f".to_owned(), 12)));
        assert!(topic.watched().contains(&claim) && topic.watched().contains(&topic.bell(0)));
        for other in [topic.topic(), topic.id("w/b/1"), Directory::new("main", "a").bell(1)] {
            assert_eq!(topic.read_watched(&other), None, "{other:?}");
            assert!(!topic.watched().contains(&other));
        }
    }

    #[test]
    fn no_queue_holds_the_messages_of_another() {
        let topic = Directory::new("main", "a");
        assert!(topic.queue("b").contains(&topic.message("b", 1, "x/../y")));
        assert!(topic.messages("b", 1).contains(&topic.message("b", 1, "x")));
        assert!(!topic.messages("b", 1).contains(&topic.message("b", 10, "x")));
        assert!(!topic.queue("b").contains(&topic.message("b-1", 1, "x")));
        assert_ne!(topic.id("a%2Fb"), topic.id("a/b"));
    }
}
