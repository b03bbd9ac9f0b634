//! What a send is, and the parts that it goes through.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use coord::{ErrorKind, Once, OnceError, OnceOptions, Wait};
use coord_cache::Cache;
use coord_db::DbError;
use coord_mq::{Message, Mq};
use coord_service::live::Live;
use coord_service::metrics;
use coord_service::ratelimit::RateLimiter;
use coord_service::uid::UidReload;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::messages::{Messages, Room, Row};
use crate::{TOPIC, may_die};

/// How many messages of a room are shown.
pub const RECENT: i64 = 50;

/// The longest text of a message, in bytes.
pub const MAX_TEXT_BYTES: usize = 16_384;

/// For how long the answer to a key is known.
const RETENTION: Duration = Duration::from_secs(24 * 3_600);

/// How long an instance that died in the midst of a send keeps its key.
const SENDING_TTL: Duration = Duration::from_secs(5);

/// How long a second send waits for the first one.
const WAIT: Duration = Duration::from_secs(15);

/// How old what is shown of a room may be.
const CACHED: Duration = Duration::from_secs(1);

/// What a client sends.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Draft {
    /// By whom it is.
    pub sender: String,
    /// What it says.
    pub text: String,
}

/// What a client is told of a message that was sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// Its id.
    pub id: i64,
    /// Whether it was sent by this request; otherwise an earlier one of its key had sent it.
    pub first: bool,
}

/// Why nothing was sent, as far as is known.
#[derive(Debug)]
pub enum Refusal {
    /// Something is wrong with the request.
    Bad(String),
    /// It is too much, for so long where that is known.
    TooMany(Option<Duration>),
    /// The key was used for something else.
    OtherKey,
    /// Something that is needed is away: trying again may help.
    Away(String),
    /// A fault of the service.
    Fault(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Bad(why) | Refusal::Away(why) | Refusal::Fault(why) => f.write_str(why),
            Refusal::TooMany(_) => f.write_str("too many messages"),
            Refusal::OtherKey => f.write_str("Idempotency-Key: it was used for another message"),
        }
    }
}

impl From<coord::Error> for Refusal {
    fn from(error: coord::Error) -> Self {
        match error.kind() {
            ErrorKind::InvalidArgument => Refusal::Bad(error.to_string()),
            ErrorKind::Internal | ErrorKind::Codec => Refusal::Fault(error.to_string()),
            // Locked by others, lost, at its limit, not answered: later it may be otherwise.
            _ => Refusal::Away(error.to_string()),
        }
    }
}

impl From<DbError> for Refusal {
    fn from(error: DbError) -> Self {
        // A statement of ours that is wrong is no fault of the request.
        match error.kind() {
            ErrorKind::InvalidArgument | ErrorKind::Internal | ErrorKind::Codec => {
                Refusal::Fault(error.to_string())
            }
            _ => Refusal::Away(error.to_string()),
        }
    }
}

/// The service: its parts, each of which follows its configuration.
pub struct Service {
    /// What a sender may send: the rule `send`.
    pub limits: Arc<RateLimiter>,
    /// What was sent before.
    pub once: Once,
    /// Ids.
    pub ids: Arc<Live<UidReload>>,
    /// Rows.
    pub messages: Arc<dyn Messages>,
    /// What rooms look like.
    pub cache: Cache,
    /// Who wants to know of messages.
    pub mq: Mq,
}

impl Service {
    /// Sends a message to a room, once for each key.
    ///
    /// # Errors
    ///
    /// [`Refusal`]. What was refused with [`Away`](Refusal::Away) may have been sent: send it again
    /// by its key.
    pub async fn send(&self, room: &str, key: Option<&str>, draft: Draft) -> Result<Sent, Refusal> {
        check_name("the room", room)?;
        check_name("sender", &draft.sender)?;
        if draft.text.is_empty() || draft.text.len() > MAX_TEXT_BYTES {
            return Err(Refusal::Bad(format!("text: 1 to {MAX_TEXT_BYTES} bytes")));
        }
        let decision = self.limits.allow_exact("send", &draft.sender).await;
        if !decision.is_allowed() {
            return Err(Refusal::TooMany(decision.retry_after()));
        }
        let Some(key) = key else {
            // Nobody can ask for it again, so that any key will do.
            let id = self.store(room, &format!("~{:032x}", fastrand::u128(..)), &draft).await?;
            return Ok(Sent { id, first: true });
        };
        check_name("Idempotency-Key", key)?;
        let options = OnceOptions::default()
            .with_fingerprint(fingerprint(room, &draft))
            .with_retention(RETENTION)
            .with_ttl(SENDING_TTL)
            .with_wait(Wait::For(WAIT));
        let execution = match self.once.begin(&format!("im-send/{key}"), options).await {
            Ok(coord::recipes::Begun::Done(id)) => return sent_before(id.as_bytes()),
            Ok(coord::recipes::Begun::Mine(execution)) => execution,
            Err(OnceError::Coord(error)) if error.kind() == ErrorKind::InvalidArgument => {
                return Err(Refusal::OtherKey);
            }
            Err(OnceError::Coord(error)) => return Err(error.into()),
            Err(error) => return Err(Refusal::Fault(error.to_string())),
        };
        // It may run twice (R57): the row is unique by the key.
        let id = match self.store(room, key, &draft).await {
            Ok(id) => id,
            Err(refusal) => {
                // Dropped it would be free as well; so the client that comes next need not wait.
                let _ = execution.release().await;
                return Err(refusal);
            }
        };
        may_die("marked");
        let recorded = execution.complete(id.to_string()).await;
        may_die("recorded");
        match recorded {
            Ok(_) => Ok(Sent { id, first: true }),
            // The row is there: whoever sends again finds it by the key.
            Err(OnceError::NotRecorded { .. }) => Ok(Sent { id, first: true }),
            Err(error) => Err(Refusal::Fault(error.to_string())),
        }
    }

    /// Stores a message and tells of it. Once the row is there it is sent, whatever else fails.
    async fn store(&self, room: &str, key: &str, draft: &Draft) -> Result<i64, Refusal> {
        let id = self.ids.current()?.next_wait().await?;
        let id = i64::try_from(id).map_err(|_| Refusal::Fault("an id of more than 63 bits".to_owned()))?;
        let row = Row { id, room: room.to_owned(), sender: draft.sender.clone(), text: draft.text.clone() };
        let id = self.messages.insert(&row, key).await?;
        tracing::debug!(id, room, "stored");
        may_die("stored");
        if let Err(error) = self.cache.del(&recent_key(room)).await {
            // It is a second old at most.
            tracing::debug!(%error, "what is cached of a room was not forgotten");
        }
        if let Err(refusal) = self.tell(&Row { id, ..row }).await {
            metrics::inc("im_untold_total", &[]);
            tracing::warn!(id, room, why = %refusal, "the others will hear of it from the leader");
        }
        Ok(id)
    }

    /// Tells the others of a message, by its id, and marks it as told of.
    ///
    /// # Errors
    ///
    /// Where it may not be told of, or is not marked.
    pub async fn tell(&self, row: &Row) -> Result<(), Refusal> {
        let message = Message::json(row)?.with_key(&row.room).with_id(row.id.to_string());
        self.mq.publish(TOPIC, message).await?;
        may_die("published");
        Ok(self.messages.published(row.id).await?)
    }

    /// The newest messages of a room, the newest first; they may be a second old.
    ///
    /// # Errors
    ///
    /// [`Refusal`].
    pub async fn recent(&self, room: &str) -> Result<Vec<Row>, Refusal> {
        check_name("the room", room)?;
        let load = || async {
            let rows = self.messages.recent(room, RECENT).await;
            rows.map_err(coord::Error::from)
        };
        match self.cache.get_or_load(&recent_key(room), CACHED, load).await {
            Ok(rows) => Ok(rows),
            // Without a cache it goes on, more slowly.
            Err(_) => Ok(self.messages.recent(room, RECENT).await?),
        }
    }

    /// What is known of a room.
    ///
    /// # Errors
    ///
    /// [`Refusal`].
    pub async fn room(&self, room: &str) -> Result<Room, Refusal> {
        check_name("the room", room)?;
        Ok(self.messages.room(room).await?)
    }

    /// Makes somebody a member of a room.
    ///
    /// # Errors
    ///
    /// [`Refusal`].
    pub async fn join(&self, room: &str, member: &str) -> Result<(), Refusal> {
        check_name("the room", room)?;
        check_name("the member", member)?;
        Ok(self.messages.join(room, member).await?)
    }
}

fn recent_key(room: &str) -> String {
    format!("recent:{room}")
}

fn sent_before(id: &[u8]) -> Result<Sent, Refusal> {
    let id = std::str::from_utf8(id).ok().and_then(|id| id.parse().ok());
    let id = id.ok_or_else(|| Refusal::Fault("what is recorded of this key is no id".to_owned()))?;
    Ok(Sent { id, first: false })
}

/// A name is a part of keys.
fn check_name(what: &str, name: &str) -> Result<(), Refusal> {
    let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    match (1..=64).contains(&name.len()) && name.bytes().all(is_fine) {
        true => Ok(()),
        false => Err(Refusal::Bad(format!("{what}: 1 to 64 letters, digits, `-` and `_`"))),
    }
}

/// What a key stands for: the same of the same message.
fn fingerprint(room: &str, draft: &Draft) -> Vec<u8> {
    let mut hash = Sha256::new();
    for part in [room, &draft.sender, &draft.text] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().to_vec()
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_tells_where_one_part_ends() {
        let draft = |sender: &str, text: &str| Draft { sender: sender.to_owned(), text: text.to_owned() };
        assert_eq!(fingerprint("a", &draft("b", "c")), fingerprint("a", &draft("b", "c")));
        assert_ne!(fingerprint("a", &draft("b", "cd")), fingerprint("a", &draft("bc", "d")));
    }

    #[test]
    fn names_are_parts_of_keys() {
        assert!(check_name("x", "room-07_a").is_ok());
        for wrong in ["", "a/b", "ä", " ", &"a".repeat(65)] {
            assert!(check_name("x", wrong).is_err(), "{wrong}");
        }
    }
}
