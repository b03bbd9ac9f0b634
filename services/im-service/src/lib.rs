//! A messenger's backend, small and whole: people write into rooms, members have unread messages.
//!
//! It is the service that the rest of this repository is tried on. A send goes through everything
//! that a service needs:
//!
//! | step | by | where it fails |
//! |---|---|---|
//! | is it too much? | a rate limit, shared by all instances | 429 with `Retry-After` |
//! | was it sent before? | `once`, by the header `Idempotency-Key` | the first answer again; 503 while the store is away |
//! | an id | `uid` | 503 |
//! | a row | the database, unique by the key, marked as not published | 503 |
//! | forget what was cached | the cache | goes on: what is cached is a second old at most |
//! | tell the others | the message queue, by the id | goes on: the leader publishes it |
//!
//! A consumer counts what members have not read, each message once. The leader of all instances
//! publishes what a crash left unpublished, and removes what is too old.
//!
//! - [`service`]: what a send is, and the parts that it goes through.
//! - [`messages`]: the rows. [`consume`]: the consumer. [`leader`]: the leader's work.
//! - [`run`]: a whole instance, from its start to its end. [`http`]: what it answers.
//! - [`transcript`]: what people wrote, made up. [`replay`]: all of it sent again, and judged.

pub mod consume;
pub mod http;
pub mod leader;
pub mod messages;
pub mod replay;
pub mod run;
pub mod service;
pub mod transcript;

/// The service's name: of its configuration, of its instances, and of its ids.
pub const SERVICE: &str = "im-service";

/// Where a message is told of.
pub const TOPIC: &str = "messages";

/// Those who count what is unread.
pub const GROUP: &str = "unread";

/// Ends the process at once, as `kill -9` does, where a test has asked for it by the variable
/// `FAILPOINTS`, as in `stored=1%return`. It is compiled away without the feature `failpoints`.
pub(crate) fn may_die(_point: &str) {
    #[cfg(feature = "failpoints")]
    fail::fail_point!(_point, |_| std::process::abort());
}
