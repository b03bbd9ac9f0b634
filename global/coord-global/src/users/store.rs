//! Users in the coordination store.

use std::fmt;
use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use async_trait::async_trait;
use bytes::Bytes;
use coord_api::store::{
    Compare, Entry, MAX_TXN_OPS, Op, Range, RangeReply, Span, Store, StoreEvent, StoreWatch, Txn,
};
use coord_api::{Error, ErrorKind, Outcome, Revision};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::{Refused, Result, UsersError};
use super::grant::Grant;
use super::identity::Identity;
use super::token::{Secret, Token, TokenId, TokenLabel};
use super::user::{User, UserId, check_name};
use super::{Changed, Changes, Users, audit, keys};
use crate::ledger::Clock;

/// What the calls of this module are called in errors of the store.
const OPERATION: &str = "global.users";

/// The most users of a page.
pub const PAGE_MAX: usize = 500;

/// How often a change is tried where others change the same user.
const TRIES: u32 = 8;

/// How often a new token is sent whose answer is lost.
const TRIES_IN_DOUBT: u32 = 4;

/// How many keys are deleted at once: one operation is for the user.
const DELETED_AT_ONCE: usize = MAX_TXN_OPS - 1;

/// [`Users`] in the coordination store, which all instances share. Clones are the same.
#[derive(Clone)]
pub struct StoreUsers {
    store: Arc<dyn Store>,
    clock: Clock,
}

impl fmt::Debug for StoreUsers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreUsers")
    }
}

/// What stands under a user's key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct UserRecord {
    name: String,
    #[serde(default)]
    disabled: bool,
    /// Its tokens and grants are being removed, and no more are made.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    deleting: bool,
}

impl UserRecord {
    fn user(self, id: UserId) -> User {
        User { id, name: self.name, disabled: self.disabled || self.deleting }
    }
}

/// What stands under a token's key.
#[derive(Debug, Serialize, Deserialize)]
struct TokenRecord {
    user: UserId,
    label: TokenLabel,
    expires_at_ms: Option<u64>,
    created_at_ms: u64,
}

impl TokenRecord {
    fn token(self, id: TokenId) -> Token {
        let Self { user, label, expires_at_ms, created_at_ms } = self;
        Token { id, user, label, expires_at_ms, created_at_ms }
    }
}

/// What stands under a grant's key: all else the key says.
#[derive(Debug, Serialize, Deserialize)]
struct GrantRecord {
    granted_at_ms: u64,
}

/// Why a token is not accepted, and what is known of it.
struct Refusal {
    why: Refused,
    token: Option<Token>,
}

impl StoreUsers {
    /// The users in a store.
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self::with_clock(store, Arc::new(coord_core::time_of_day_ms))
    }

    /// As [`new`](Self::new), by a clock of one's own.
    #[must_use]
    pub fn with_clock(store: Arc<dyn Store>, clock: Clock) -> Self {
        Self { store, clock }
    }

    /// A user's record, and the revision that a change of it compares.
    async fn record(&self, user: &UserId) -> Result<Option<(UserRecord, Revision)>> {
        let found = self.store.range(Range::key(keys::user(user))).await?;
        found.entries.first().map(|entry| Ok((read(entry)?, entry.modified))).transpose()
    }

    /// The record of a user that may be given something.
    async fn living(&self, user: &UserId) -> Result<(UserRecord, Revision)> {
        match self.record(user).await? {
            Some((record, revision)) if !record.deleting => Ok((record, revision)),
            _ => Err(UsersError::NotFound { what: format!("user {user}") }),
        }
    }

    /// Sends what writes `token`; whether that is written. In doubt it is sent again: the token is
    /// there or not, and nobody else makes it.
    async fn issue(&self, txn: Txn, token: &TokenId) -> Result<bool> {
        let txn = txn.otherwise(Op::Range(Range::key(keys::token(token)).with_keys_only()));
        let mut tries = 1;
        loop {
            match self.store.txn(txn.clone()).await {
                Ok(reply) if reply.succeeded => return Ok(true),
                Ok(reply) => return Ok(!reply.try_range(0)?.entries.is_empty()),
                Err(error) if error.outcome() == Outcome::Unknown && tries < TRIES_IN_DOUBT => {
                    // Where it is there already, it was written.
                    tries += 1;
                    let written = Range::key(keys::token(token)).with_keys_only();
                    if !self.store.range(written).await?.entries.is_empty() {
                        return Ok(true);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn new_token(
        &self,
        user: &UserId,
        label: &TokenLabel,
        expires_at_ms: Option<u64>,
    ) -> Result<(Secret, Token, Op)> {
        let secret = Secret::random()?;
        let record = TokenRecord {
            user: user.clone(),
            label: label.clone(),
            expires_at_ms,
            created_at_ms: (self.clock)(),
        };
        let id = secret.id();
        let put = Op::put(keys::token(&id), json(&record)?);
        Ok((secret, record.token(id), put))
    }

    fn put_grant(&self, grant: &Grant) -> Result<Op> {
        Ok(Op::put(keys::grant(grant), json(&GrantRecord { granted_at_ms: (self.clock)() })?))
    }

    /// All entries below `root`, page by page.
    async fn each(
        &self,
        root: &'static str,
        mut take: impl FnMut(&Entry) -> Result<()> + Send,
    ) -> Result<()> {
        let mut after: Option<Bytes> = None;
        loop {
            let mut range = Range::prefix(root).with_limit(PAGE_MAX);
            if let Some(after) = after.take() {
                range = range.with_after_key(after);
            }
            let found = self.store.range(range).await?.entries;
            let Some(last) = found.last() else { return Ok(()) };
            after = Some(last.key.clone());
            found.iter().try_for_each(&mut take)?;
        }
    }

    /// Who has a token now: the token, its user and its grants at one revision.
    async fn look(&self, id: &TokenId) -> Result<std::result::Result<Identity, Refusal>> {
        let found = self.store.range(Range::key(keys::token(id))).await?;
        let Some(entry) = found.entries.first() else {
            return Ok(Err(Refusal { why: Refused::Unknown, token: None }));
        };
        let token = read::<TokenRecord>(entry)?.token(*id);
        let range = |range| Op::Range(range);
        let txn = Txn::new()
            .then(range(Range::key(keys::token(id)).with_keys_only()))
            .then(range(Range::key(keys::user(&token.user))))
            .then(range(Range::prefix(keys::grants_of(&token.user)).with_keys_only()))
            .then(range(Range::key(keys::admin(&token.user)).with_keys_only()));
        let reply = self.store.txn(txn).await?;
        let refused = |why, token| Ok(Err(Refusal { why, token: Some(token) }));
        let user = reply.try_range(1)?.entries.first();
        let (Some(user), false) = (user, reply.try_range(0)?.entries.is_empty()) else {
            return refused(Refused::Unknown, token);
        };
        let user: UserRecord = read(user)?;
        if user.disabled || user.deleting {
            return refused(Refused::Disabled, token);
        }
        let grants = grants(reply.try_range(2)?, reply.try_range(3)?)?;
        let identity = Identity::new(token.clone(), grants);
        if identity.is_expired((self.clock)()) {
            return refused(Refused::Expired, token);
        }
        Ok(Ok(identity))
    }

    /// Removes what a user has, and then the user; until then it is marked.
    async fn remove(&self, user: &UserId, mut record: UserRecord, mut revision: Revision) -> Result<bool> {
        let key = || keys::user(user);
        if !record.deleting {
            (record.disabled, record.deleting) = (true, true);
            let txn =
                Txn::new().when(Compare::Modified(key(), revision)).then(Op::put(key(), json(&record)?));
            let reply = self.store.txn(txn).await?;
            if !reply.succeeded {
                return Ok(false);
            }
            revision = reply.revision;
        }
        // From here on nothing more is made for it.
        let tokens = self.tokens(user).await?.into_iter().map(|token| keys::token(&token.id));
        let grants = self.grants(user).await?.into_iter().map(|grant| keys::grant(&grant));
        let has: Vec<Bytes> = tokens.chain(grants).collect();
        for some in has.chunks(DELETED_AT_ONCE) {
            let txn = Txn::new().when(Compare::Modified(key(), revision));
            let txn = some.iter().cloned().map(Op::delete).fold(txn, Txn::then);
            if !self.store.txn(txn).await?.succeeded {
                return Ok(false);
            }
        }
        let txn = Txn::new().when(Compare::Modified(key(), revision)).then(Op::delete(key()));
        Ok(self.store.txn(txn).await?.succeeded)
    }
}

#[async_trait]
impl Users for StoreUsers {
    async fn create_user(&self, user: &UserId, name: &str) -> Result<User> {
        check_name(name)?;
        let record = UserRecord { name: name.to_owned(), disabled: false, deleting: false };
        let key = || keys::user(user);
        for _ in 0..TRIES {
            let txn = Txn::new()
                .when(Compare::Absent(key()))
                .then(Op::put(key(), json(&record)?))
                .otherwise(Op::Range(Range::key(key())));
            let reply = self.store.txn(txn).await?;
            if reply.succeeded {
                audit::user("user_created", user);
                return Ok(record.user(user.clone()));
            }
            let found = reply.try_range(0)?.entries.first();
            let Some(entry) = found else { continue };
            let found: UserRecord = read(entry)?;
            if found.deleting {
                // Nobody who has that id may have what is left of it.
                self.remove(user, found, entry.modified).await?;
            } else if found.name == record.name {
                return Ok(found.user(user.clone()));
            } else {
                return Err(UsersError::AlreadyExists { what: format!("a user {user}").into() });
            }
        }
        Err(UsersError::Contended { tries: TRIES })
    }

    async fn user(&self, user: &UserId) -> Result<User> {
        let found = self.record(user).await?;
        let (record, _) = found.ok_or_else(|| UsersError::NotFound { what: format!("user {user}") })?;
        Ok(record.user(user.clone()))
    }

    async fn users(&self, after: Option<&UserId>, limit: usize) -> Result<Vec<User>> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let mut range = Range::prefix(keys::USERS).with_limit(limit.min(PAGE_MAX));
        if let Some(after) = after {
            range = range.with_after_key(keys::user(after));
        }
        let found = self.store.range(range).await?.entries;
        let users = found.iter().map(|entry| {
            let id =
                keys::user_in(&entry.key).ok_or_else(|| unreadable(&entry.key, "it is no user's key"))?;
            Ok(read::<UserRecord>(entry)?.user(id))
        });
        users.collect()
    }

    async fn set_disabled(&self, user: &UserId, disabled: bool) -> Result<User> {
        let key = || keys::user(user);
        for _ in 0..TRIES {
            let (mut record, revision) = self.living(user).await?;
            record.disabled = disabled;
            // Also where it is so: what was sent before and is late must not come after this.
            let txn =
                Txn::new().when(Compare::Modified(key(), revision)).then(Op::put(key(), json(&record)?));
            if self.store.txn(txn).await?.succeeded {
                audit::user(if disabled { "user_disabled" } else { "user_enabled" }, user);
                return Ok(record.user(user.clone()));
            }
        }
        Err(UsersError::Contended { tries: TRIES })
    }

    async fn delete_user(&self, user: &UserId) -> Result<()> {
        for _ in 0..TRIES {
            let Some((record, revision)) = self.record(user).await? else { return Ok(()) };
            audit::user("user_deletion_begun", user);
            if self.remove(user, record, revision).await? {
                audit::user("user_deleted", user);
                return Ok(());
            }
        }
        Err(UsersError::Contended { tries: TRIES })
    }

    async fn issue_token(
        &self,
        user: &UserId,
        label: &TokenLabel,
        expires_at_ms: Option<u64>,
    ) -> Result<(Secret, TokenId)> {
        if expires_at_ms.is_some_and(|at| at <= (self.clock)()) {
            return Err(UsersError::InvalidArgument("the token's time is over already".to_owned()));
        }
        let (secret, token, put) = self.new_token(user, label, expires_at_ms)?;
        for _ in 0..TRIES {
            let (_, revision) = self.living(user).await?;
            let txn = Txn::new().when(Compare::Modified(keys::user(user), revision)).then(put.clone());
            if self.issue(txn, &token.id).await? {
                audit::issued(&token);
                return Ok((secret, token.id));
            }
        }
        Err(UsersError::Contended { tries: TRIES })
    }

    async fn tokens(&self, user: &UserId) -> Result<Vec<Token>> {
        let mut tokens = Vec::new();
        let take = |entry: &Entry| {
            let id = keys::token_in(&entry.key);
            let id = id.ok_or_else(|| unreadable(&entry.key, "it is no token's key"))?;
            let token = read::<TokenRecord>(entry)?.token(id);
            if token.user == *user {
                tokens.push(token);
            }
            Ok(())
        };
        self.each(keys::TOKENS, take).await?;
        Ok(tokens)
    }

    async fn revoke_token(&self, token: &TokenId) -> Result<bool> {
        let key = || keys::token(token);
        let txn = Txn::new().then(Op::Range(Range::key(key()))).then(Op::delete(key()));
        let reply = self.store.txn(txn).await?;
        let found = reply.try_range(0)?.entries.first();
        // What cannot be read is gone all the same.
        let known =
            found.and_then(|entry| read::<TokenRecord>(entry).ok()).map(|record| record.token(*token));
        audit::revoked(token, known.as_ref());
        Ok(found.is_some())
    }

    async fn grant(&self, grant: &Grant) -> Result<()> {
        let key = || keys::user(grant.user());
        for _ in 0..TRIES {
            let (record, revision) = self.living(grant.user()).await?;
            let txn = Txn::new()
                .when(Compare::Modified(key(), revision))
                .then(self.put_grant(grant)?)
                .then(Op::put(key(), json(&record)?));
            if self.store.txn(txn).await?.succeeded {
                audit::granted("granted", grant);
                return Ok(());
            }
        }
        Err(UsersError::Contended { tries: TRIES })
    }

    async fn revoke_grant(&self, grant: &Grant) -> Result<bool> {
        let key = || keys::user(grant.user());
        for _ in 0..TRIES {
            let Some((record, revision)) = self.record(grant.user()).await? else { return Ok(false) };
            if record.deleting {
                // It goes with the user.
                return Ok(false);
            }
            // The user's key also where there is no such grant: one that is late must not come
            // after this.
            let txn = Txn::new()
                .when(Compare::Modified(key(), revision))
                .then(Op::delete(keys::grant(grant)))
                .then(Op::put(key(), json(&record)?));
            let reply = self.store.txn(txn).await?;
            if reply.succeeded {
                audit::granted("grant_revoked", grant);
                return Ok(reply.try_existed(0)?);
            }
        }
        Err(UsersError::Contended { tries: TRIES })
    }

    async fn grants(&self, user: &UserId) -> Result<Vec<Grant>> {
        let txn = Txn::new()
            .then(Op::Range(Range::prefix(keys::grants_of(user)).with_keys_only()))
            .then(Op::Range(Range::key(keys::admin(user)).with_keys_only()));
        let reply = self.store.txn(txn).await?;
        grants(reply.try_range(0)?, reply.try_range(1)?)
    }

    async fn first_admin(&self, user: &UserId) -> Result<(Secret, TokenId)> {
        let key = || keys::user(user);
        let (secret, token, put) = self.new_token(user, &TokenLabel::new("first admin")?, None)?;
        let grant = Grant::admin(user.clone());
        for _ in 0..TRIES {
            let (compare, record) = match self.record(user).await? {
                None => {
                    let name = user.as_str().to_owned();
                    (Compare::Absent(key()), UserRecord { name, disabled: false, deleting: false })
                }
                Some((record, revision)) if record.deleting => {
                    self.remove(user, record, revision).await?;
                    continue;
                }
                Some((record, revision)) => {
                    (Compare::Modified(key(), revision), UserRecord { disabled: false, ..record })
                }
            };
            let txn = Txn::new()
                .when(Compare::RangeAbsent(Span::prefix(keys::ADMINS)))
                .when(compare)
                .then(Op::put(key(), json(&record)?))
                .then(self.put_grant(&grant)?)
                .then(put.clone());
            if self.issue(txn, &token.id).await? {
                audit::granted("granted", &grant);
                audit::issued(&token);
                return Ok((secret, token.id));
            }
            let admins = self.store.range(Range::prefix(keys::ADMINS).with_limit(1).with_keys_only()).await?;
            if !admins.entries.is_empty() {
                return Err(UsersError::AlreadyExists { what: "an admin".into() });
            }
        }
        Err(UsersError::Contended { tries: TRIES })
    }

    async fn authenticate(&self, secret: &Secret) -> Result<Identity> {
        let id = secret.id();
        match self.look(&id).await? {
            Ok(identity) => {
                audit::accepted(&identity);
                Ok(identity)
            }
            Err(Refusal { why, token }) => {
                audit::refused(why, Some(&id), token.as_ref().map(|token| (&token.user, &token.label)));
                Err(UsersError::unauthenticated(why))
            }
        }
    }

    async fn identity(&self, token: &TokenId) -> Result<Identity> {
        self.look(token).await?.map_err(|refusal| UsersError::unauthenticated(refusal.why))
    }

    async fn changes(&self) -> Result<Box<dyn Changes>> {
        let mut watches = Vec::new();
        for root in [keys::USERS, keys::TOKENS, keys::GRANTS] {
            watches.push(self.store.watch(Span::prefix(root), None).await?);
        }
        Ok(Box::new(StoreChanges { watches }))
    }
}

/// Watches of all that users are made of.
struct StoreChanges {
    watches: Vec<StoreWatch>,
}

impl StoreChanges {
    /// What comes first of any of them.
    async fn event(&mut self) -> Option<coord_api::Result<StoreEvent>> {
        poll_fn(|cx| {
            for watch in &mut self.watches {
                // It keeps nothing between two polls.
                if let Poll::Ready(event) = pin!(watch.next()).poll(cx) {
                    return Poll::Ready(event);
                }
            }
            Poll::Pending
        })
        .await
    }
}

#[async_trait]
impl Changes for StoreChanges {
    async fn next(&mut self) -> Result<Vec<Changed>> {
        loop {
            match self.event().await {
                Some(Ok(StoreEvent::Batch(batch))) => {
                    return Ok(batch.changes.iter().map(|change| changed(change.key())).collect());
                }
                Some(Ok(StoreEvent::Progress(_))) => {}
                Some(Err(error)) => return Err(error.into()),
                None => {
                    let what = "the watch of the users has ended";
                    return Err(Error::new(ErrorKind::Unavailable, OPERATION, what).into());
                }
            }
        }
    }
}

/// What is changed by a change of that key.
fn changed(key: &[u8]) -> Changed {
    let token = || keys::token_in(key).map(Changed::Token);
    let user = || keys::user_in(key).or_else(|| keys::user_of_grant(key)).map(Changed::User);
    token().or_else(user).unwrap_or(Changed::Anything)
}

/// The grants that were found under their keys.
fn grants(own: &RangeReply, admin: &RangeReply) -> Result<Vec<Grant>> {
    let read = |entry: &Entry| match keys::grant_in(&entry.key) {
        Some(Ok(grant)) => Ok(grant),
        Some(Err(why)) => Err(unreadable(&entry.key, &why.to_string())),
        None => Err(unreadable(&entry.key, "it is no grant's key")),
    };
    own.entries.iter().chain(&admin.entries).map(read).collect()
}

fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    let error = |error| Error::json(OPERATION, "a record of users", &error);
    Ok(serde_json::to_vec(value).map_err(error)?)
}

/// Reads a value. What is said of one that cannot be read does not quote it.
fn read<T: DeserializeOwned>(entry: &Entry) -> Result<T> {
    serde_json::from_slice(&entry.value).map_err(|fault| {
        let why = format!("its JSON is not of that shape (line {}, column {})", fault.line(), fault.column());
        unreadable(&entry.key, &why)
    })
}

fn unreadable(key: &[u8], why: &str) -> UsersError {
    let key = match keys::token_in(key) {
        Some(id) => format!("{}{}..", keys::TOKENS, id.short()),
        None => String::from_utf8_lossy(key).into_owned(),
    };
    UsersError::Unreadable { key, why: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_a_key_is_a_change_of_something() {
        let ada = UserId::new("ada").unwrap();
        let id = Secret::random().unwrap().id();
        let grant = Grant::admin(ada.clone());
        assert_eq!(changed(&keys::token(&id)), Changed::Token(id));
        assert_eq!(changed(&keys::user(&ada)), Changed::User(ada.clone()));
        assert_eq!(changed(&keys::grant(&grant)), Changed::User(ada));
        assert_eq!(changed(b"/global/token/x"), Changed::Anything);
    }

    #[test]
    fn what_cannot_be_read_is_not_quoted() {
        let id = Secret::random().unwrap().id();
        let entry = Entry {
            key: keys::token(&id),
            value: br#"{"user": "NOT/TO/BE/SEEN"}"#.to_vec().into(),
            created: Revision::new(1),
            modified: Revision::new(1),
            lease: None,
        };
        let error = read::<TokenRecord>(&entry).unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(shown.contains(&id.short()), "{shown}");
        assert!(!shown.contains("SEEN") && !shown.contains(&id.to_string()), "{shown}");
    }
}
