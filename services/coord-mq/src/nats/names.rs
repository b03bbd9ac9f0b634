//! What topics and groups are called on the server.
//!
//! | here | there |
//! |---|---|
//! | topic `im.messages` of space `main` | stream `mq=main=im=messages` |
//! | its partition 3 | subject `mq.main.im.messages.3` |
//! | partition 3 of group `counters` | durable consumer `counters-3` |
//!
//! How many partitions a topic has is how many subjects its stream has.

/// The stream of a topic. Dots divide what NATS lets be named; `=` is in no name of ours.
pub(super) fn stream(space: &str, topic: &str) -> String {
    format!("mq={space}={}", topic.replace('.', "="))
}

/// The subject of a partition.
pub(super) fn subject(space: &str, topic: &str, partition: u16) -> String {
    format!("mq.{space}.{topic}.{partition}")
}

/// The durable consumer of a partition for a group.
pub(super) fn consumer(group: &str, partition: u16) -> String {
    format!("{group}-{partition}")
}

/// What is known of a delivery by the subject that it is acknowledged at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Delivered {
    /// How often it was delivered.
    pub(super) deliveries: u32,
    /// Its number in the stream.
    pub(super) sequence: u64,
    /// How many messages wait behind it.
    pub(super) pending: u64,
}

/// Reads `$JS.ACK.<stream>.<consumer>.<deliveries>.<sequence>.<sequence>.<time>.<pending>`, or the
/// longer one of newer servers, which has two tokens more in front, and more at the end.
pub(super) fn read_reply(reply: &str) -> Option<Delivered> {
    let tokens: Vec<&str> = reply.strip_prefix("$JS.ACK.")?.split('.').collect();
    let skipped = match tokens.len() {
        7 => 2,
        9.. => 4,
        _ => return None,
    };
    let number = |at: usize| tokens.get(skipped + at).and_then(|token| token.parse::<u64>().ok());
    let deliveries = u32::try_from(number(0)?).unwrap_or(u32::MAX);
    Some(Delivered { deliveries, sequence: number(1)?, pending: number(4)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_topics_share_a_name() {
        assert_eq!(stream("main", "im.messages"), "mq=main=im=messages");
        assert_eq!(subject("main", "im.messages", 3), "mq.main.im.messages.3");
        assert_ne!(stream("main", "a.b"), stream("main", "a-b"));
        assert_ne!(stream("main", "a.b"), stream("main", "a_b"));
        assert_ne!(consumer("a", 12), consumer("a-1", 2));
    }

    #[test]
    fn replies_of_old_and_new_servers_are_read() {
        let old = "$JS.ACK.mq=main=a.g-0.3.7.9.1700000000000000000.12";
        let new = "$JS.ACK.hub.accounthash.mq=main=a.g-0.3.7.9.1700000000000000000.12.random";
        for reply in [old, new] {
            assert_eq!(
                read_reply(reply),
                Some(Delivered { deliveries: 3, sequence: 7, pending: 12 }),
                "{reply}"
            );
        }
        for reply in ["", "_INBOX.a.b", "$JS.ACK.a.b.c", "$JS.ACK.a.b.x.1.1.1.1"] {
            assert_eq!(read_reply(reply), None, "{reply}");
        }
    }
}
