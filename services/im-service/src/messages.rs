//! The rows: messages, members of rooms with what they have not read, and what was counted.
//!
//! The statements are the same for SQLite and PostgreSQL, which both know `$1` and `ON CONFLICT`.

use async_trait::async_trait;
use coord_db::sqlx::{self, Postgres, Sqlite};
use coord_db::{Db, DbError};
use serde::{Deserialize, Serialize};

/// A message as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Its id, which rises.
    pub id: i64,
    /// Where it was written.
    pub room: String,
    /// By whom.
    pub sender: String,
    /// What.
    pub text: String,
}

type Columns = (i64, String, String, String);

impl From<Columns> for Row {
    fn from((id, room, sender, text): Columns) -> Self {
        Row { id, room, sender, text }
    }
}

fn rows(found: Vec<Columns>) -> Vec<Row> {
    found.into_iter().map(Row::from).collect()
}

/// What is known of a room.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// How many messages it has.
    pub messages: i64,
    /// How many messages each member has not read.
    pub unread: std::collections::BTreeMap<String, i64>,
}

const TABLES: [&str; 5] = [
    "CREATE TABLE IF NOT EXISTS messages (id BIGINT PRIMARY KEY, idempotency_key TEXT NOT NULL UNIQUE,
     room TEXT NOT NULL, sender TEXT NOT NULL, text TEXT NOT NULL, published BIGINT NOT NULL DEFAULT 0)",
    "CREATE INDEX IF NOT EXISTS messages_by_room ON messages (room, id)",
    "CREATE INDEX IF NOT EXISTS messages_unpublished ON messages (id) WHERE published = 0",
    "CREATE TABLE IF NOT EXISTS members (room TEXT NOT NULL, member TEXT NOT NULL,
     unread BIGINT NOT NULL DEFAULT 0, PRIMARY KEY (room, member))",
    "CREATE TABLE IF NOT EXISTS counted (id BIGINT PRIMARY KEY)",
];

const INSERT: &str = "INSERT INTO messages (id, idempotency_key, room, sender, text)
    VALUES ($1, $2, $3, $4, $5) ON CONFLICT (idempotency_key) DO NOTHING";
const ID_OF: &str = "SELECT id FROM messages WHERE idempotency_key = $1";
const PUBLISHED: &str = "UPDATE messages SET published = 1 WHERE id = $1";
const UNPUBLISHED: &str =
    "SELECT id, room, sender, text FROM messages WHERE published = 0 ORDER BY id LIMIT $1";
const RECENT: &str = "SELECT id, room, sender, text FROM messages WHERE room = $1 ORDER BY id DESC LIMIT $2";
const COUNT: &str = "SELECT COUNT(*) FROM messages WHERE room = $1";
const UNREAD: &str = "SELECT member, unread FROM members WHERE room = $1";
const JOIN: &str = "INSERT INTO members (room, member) VALUES ($1, $2) ON CONFLICT (room, member) DO NOTHING";
const COUNTED: &str = "INSERT INTO counted (id) VALUES ($1) ON CONFLICT (id) DO NOTHING";
const ONE_MORE: &str = "UPDATE members SET unread = unread + 1 WHERE room = $1 AND member <> $2";
/// The id from which on a room's messages are kept; those before it are too many.
const OLDEST_KEPT: &str = "SELECT id FROM messages WHERE room = $1 ORDER BY id DESC LIMIT 1 OFFSET $2";
const ROOMS: &str = "SELECT DISTINCT room FROM messages";
const TRIM: &str = "DELETE FROM messages WHERE room = $1 AND id < $2 AND published = 1";

/// The rows, in one database or another.
#[async_trait]
pub trait Messages: Send + Sync + 'static {
    /// Makes the tables, where they are not there.
    async fn prepare(&self) -> Result<(), DbError>;

    /// Stores a message, unless there is one of its key, and gives the id under which it is there.
    async fn insert(&self, row: &Row, key: &str) -> Result<i64, DbError>;

    /// The message was told of.
    async fn published(&self, id: i64) -> Result<(), DbError>;

    /// The oldest messages that were not told of.
    async fn unpublished(&self, limit: i64) -> Result<Vec<Row>, DbError>;

    /// The newest messages of a room, the newest first.
    async fn recent(&self, room: &str, limit: i64) -> Result<Vec<Row>, DbError>;

    /// What is known of a room.
    async fn room(&self, room: &str) -> Result<Room, DbError>;

    /// Makes somebody a member of a room.
    async fn join(&self, room: &str, member: &str) -> Result<(), DbError>;

    /// Counts a message for the members that did not write it; `false` where it was counted before.
    async fn count(&self, id: i64, room: &str, sender: &str) -> Result<bool, DbError>;

    /// Removes all but so many messages of each room, and says how many it removed.
    async fn trim(&self, keep: i64) -> Result<u64, DbError>;
}

/// sqlx's types differ by the database and its traits do not bridge that, so the code is written
/// once here, and compiled for each.
macro_rules! messages_in {
    ($database:ty) => {
        #[async_trait]
        impl Messages for Db<$database> {
            async fn prepare(&self) -> Result<(), DbError> {
                self.call(|mut connection| async move {
                    for table in TABLES {
                        sqlx::query(table).execute(&mut *connection).await?;
                    }
                    Ok(())
                })
                .await
            }

            async fn insert(&self, row: &Row, key: &str) -> Result<i64, DbError> {
                self.call(|mut connection| async move {
                    let insert = sqlx::query(INSERT).bind(row.id).bind(key).bind(&row.room);
                    let insert = insert.bind(&row.sender).bind(&row.text);
                    if insert.execute(&mut *connection).await?.rows_affected() == 1 {
                        return Ok(row.id);
                    }
                    Ok(sqlx::query_scalar(ID_OF).bind(key).fetch_one(&mut *connection).await?)
                })
                .await
            }

            async fn published(&self, id: i64) -> Result<(), DbError> {
                self.call(|mut connection| async move {
                    sqlx::query(PUBLISHED).bind(id).execute(&mut *connection).await?;
                    Ok(())
                })
                .await
            }

            async fn unpublished(&self, limit: i64) -> Result<Vec<Row>, DbError> {
                self.call(|mut connection| async move {
                    Ok(rows(sqlx::query_as(UNPUBLISHED).bind(limit).fetch_all(&mut *connection).await?))
                })
                .await
            }

            async fn recent(&self, room: &str, limit: i64) -> Result<Vec<Row>, DbError> {
                self.call(|mut connection| async move {
                    Ok(rows(sqlx::query_as(RECENT).bind(room).bind(limit).fetch_all(&mut *connection).await?))
                })
                .await
            }

            async fn room(&self, room: &str) -> Result<Room, DbError> {
                self.call(|mut connection| async move {
                    let messages = sqlx::query_scalar(COUNT).bind(room).fetch_one(&mut *connection).await?;
                    let unread: Vec<(String, i64)> =
                        sqlx::query_as(UNREAD).bind(room).fetch_all(&mut *connection).await?;
                    Ok(Room { messages, unread: unread.into_iter().collect() })
                })
                .await
            }

            async fn join(&self, room: &str, member: &str) -> Result<(), DbError> {
                self.call(|mut connection| async move {
                    sqlx::query(JOIN).bind(room).bind(member).execute(&mut *connection).await?;
                    Ok(())
                })
                .await
            }

            async fn count(&self, id: i64, room: &str, sender: &str) -> Result<bool, DbError> {
                self.transaction_retrying(|mut tx| async move {
                    let first = sqlx::query(COUNTED).bind(id).execute(&mut *tx).await?.rows_affected() == 1;
                    if first {
                        sqlx::query(ONE_MORE).bind(room).bind(sender).execute(&mut *tx).await?;
                    }
                    Ok::<_, DbError>(first)
                })
                .await
            }

            async fn trim(&self, keep: i64) -> Result<u64, DbError> {
                let rooms: Vec<String> = self
                    .call(|mut connection| async move {
                        Ok::<_, DbError>(sqlx::query_scalar(ROOMS).fetch_all(&mut *connection).await?)
                    })
                    .await?;
                let mut removed = 0;
                for room in &rooms {
                    removed += self
                        .call(|mut connection| async move {
                            let oldest: Option<i64> = sqlx::query_scalar(OLDEST_KEPT)
                                .bind(room)
                                .bind(keep - 1)
                                .fetch_optional(&mut *connection)
                                .await?;
                            let Some(oldest) = oldest else { return Ok::<_, DbError>(0) };
                            let trim = sqlx::query(TRIM).bind(room).bind(oldest);
                            Ok(trim.execute(&mut *connection).await?.rows_affected())
                        })
                        .await?;
                }
                Ok(removed)
            }
        }
    };
}

messages_in!(Sqlite);
messages_in!(Postgres);
