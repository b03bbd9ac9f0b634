//! Users, their tokens, and what they may do (G19).
//!
//! [`Users`] is what a server asks; [`StoreUsers`] keeps them in the coordination store itself, so
//! that all instances share them; [`Known`] stands in front of either, so that a request costs no
//! request more. There are no passwords: a caller shows a [token](Secret), of which only the hash
//! is kept. It is somebody's [`Identity`], and that decides what this one may do. Whatever is not
//! granted is refused.
//!
//! | key below `/global/` | what |
//! |---|---|
//! | `user/<id>` | JSON: its name, whether it is disabled, whether it is being deleted |
//! | `token/<sha256>` | JSON: whose it is, its label, when it ends, when it was made |
//! | `grant/<user>/<spaces>/<folded prefix>//<role>` | JSON: when it was granted |
//! | `grant/~admin/<user>` | the same, for an admin: all in one place, so that one transaction tells that there is none |
//!
//! Each change of a user's grants compares the user's key and writes it again, so that of a grant
//! whose answer was lost nothing is written after it was taken back.
//!
//! ```
//! use std::sync::Arc;
//!
//! use coord_global::model::{Names, RelPath, SpaceName};
//! use coord_global::users::{
//!     FoldedPath, Grant, Prefix, Role, Spaces, StoreUsers, TokenLabel, UserId, Users,
//! };
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let users = StoreUsers::new(Arc::new(coord_memory::MemoryStore::new()));
//! let ada = UserId::new("ada")?;
//! users.create_user(&ada, "Ada Lovelace").await?;
//! let (main, docs) = (SpaceName::new("main")?, Prefix::new("docs", Names::Folded)?);
//! users.grant(&Grant::new(ada.clone(), Spaces::One(main.clone()), docs, Role::Writer)?).await?;
//! let (secret, id) = users.issue_token(&ada, &TokenLabel::new("laptop")?, None).await?;
//!
//! let caller = users.authenticate(&secret).await?;
//! let path = |text: &str| RelPath::new(text).map(|path| FoldedPath::new(&path, Names::Folded));
//! assert!(caller.may_write(&main, &path("docs/plan.txt")?));
//! assert!(!caller.may_read(&main, &path("docs2/plan.txt")?));
//!
//! users.revoke_token(&id).await?;
//! assert!(users.authenticate(&secret).await.is_err());
//! # Ok(())
//! # }
//! ```

mod audit;
mod error;
mod grant;
mod identity;
mod keys;
mod known;
mod store;
mod token;
mod user;

use std::fmt;

use async_trait::async_trait;

pub use self::error::{AUDIT, Refused, Result, UsersError};
pub use self::grant::{FoldedPath, Grant, Prefix, Role, Spaces};
pub use self::identity::Identity;
pub use self::known::{GRACE, Known, RECHECK};
pub use self::store::{PAGE_MAX, StoreUsers};
pub use self::token::{LABEL_MAX, Secret, Token, TokenId, TokenLabel};
pub use self::user::{USER_NAME_MAX, User, UserId};

/// Users, their tokens and their grants.
///
/// # Contract
///
/// - Of a token nothing is kept but its hash. No text, no JSON and no log has it (G19).
/// - Each call that changes something may be repeated: it is Ok where it was done before. Only
///   [`issue_token`](Self::issue_token) makes another token each time.
/// - What was revoked, disabled, deleted or taken back is not known to any call that begins after
///   that.
/// - Each decision is an event of the [audit](AUDIT).
///
/// # Cancel safety
///
/// Every future may be dropped at any await point: what it was to change is changed or not, and may
/// yet be. [`delete_user`](Self::delete_user) may be half done: the user is disabled then; call it
/// again.
#[async_trait]
pub trait Users: fmt::Debug + Send + Sync + 'static {
    /// Makes a user without tokens and grants. Ok where there is one of that name already.
    ///
    /// # Errors
    ///
    /// [`UsersError::AlreadyExists`] where the id is another's; [`UsersError::InvalidArgument`] for
    /// a name that is not of 1 to 200 bytes, or has control characters.
    async fn create_user(&self, user: &UserId, name: &str) -> Result<User>;

    /// Looks a user up.
    ///
    /// # Errors
    ///
    /// [`UsersError::NotFound`].
    async fn user(&self, user: &UserId) -> Result<User>;

    /// The users after `after`, by id: `limit` of them, and [`PAGE_MAX`] at most. An empty page is
    /// the end.
    ///
    /// # Errors
    ///
    /// Those of the store.
    async fn users(&self, after: Option<&UserId>, limit: usize) -> Result<Vec<User>>;

    /// Disables a user, whose tokens then open nothing, or enables it again.
    ///
    /// # Errors
    ///
    /// [`UsersError::NotFound`], also for a user that is being deleted.
    async fn set_disabled(&self, user: &UserId, disabled: bool) -> Result<User>;

    /// Deletes a user with all its tokens and grants. Ok where there is none. The user is disabled
    /// first, so that nothing of it opens anything while the rest is done; who is made under that
    /// id later has nothing of it.
    ///
    /// # Errors
    ///
    /// Those of the store: call it again.
    async fn delete_user(&self, user: &UserId) -> Result<()>;

    /// Makes a token, which opens nothing from `expires_at_ms` on (milliseconds since 1970). It is
    /// shown this once. Where the answer is lost there may be a token that nobody has: it is listed
    /// by [`tokens`](Self::tokens).
    ///
    /// # Errors
    ///
    /// [`UsersError::NotFound`], also for a user that is being deleted;
    /// [`UsersError::InvalidArgument`] for a time that is over.
    async fn issue_token(
        &self,
        user: &UserId,
        label: &TokenLabel,
        expires_at_ms: Option<u64>,
    ) -> Result<(Secret, TokenId)>;

    /// The tokens of a user, by their hash; none where there is no such user.
    ///
    /// # Errors
    ///
    /// Those of the store.
    async fn tokens(&self, user: &UserId) -> Result<Vec<Token>>;

    /// Revokes a token. Whether there was one.
    ///
    /// # Errors
    ///
    /// Those of the store.
    async fn revoke_token(&self, token: &TokenId) -> Result<bool>;

    /// Grants something to a user.
    ///
    /// # Errors
    ///
    /// [`UsersError::NotFound`], also for a user that is being deleted.
    async fn grant(&self, grant: &Grant) -> Result<()>;

    /// Takes a grant back. Whether there was one.
    ///
    /// # Errors
    ///
    /// Those of the store.
    async fn revoke_grant(&self, grant: &Grant) -> Result<bool>;

    /// The grants of a user; none where there is no such user.
    ///
    /// # Errors
    ///
    /// Those of the store.
    async fn grants(&self, user: &UserId) -> Result<Vec<Grant>>;

    /// Makes a user an admin, with a token, where nobody is an admin; of two at the same time one
    /// does. The user is made, or enabled, where it has to be.
    ///
    /// # Errors
    ///
    /// [`UsersError::AlreadyExists`] where somebody is an admin. Where the store fails all the time
    /// there may be an admin whose token nobody has: whoever has the store takes that back.
    async fn first_admin(&self, user: &UserId) -> Result<(Secret, TokenId)>;

    /// Tells who shows a token.
    ///
    /// # Errors
    ///
    /// [`UsersError::Unauthenticated`] for a token that opens nothing. Its text does not say why.
    async fn authenticate(&self, secret: &Secret) -> Result<Identity>;

    /// Tells anew who it is that was authenticated before by a token of that hash. It is no
    /// decision, and not for what a caller sent: whoever has a hash does not have the token.
    ///
    /// # Errors
    ///
    /// As [`authenticate`](Self::authenticate).
    async fn identity(&self, token: &TokenId) -> Result<Identity>;

    /// Tells of every change from now on.
    ///
    /// # Errors
    ///
    /// Those of the store.
    async fn changes(&self) -> Result<Box<dyn Changes>>;
}

/// A watch of [`Users`].
#[async_trait]
pub trait Changes: Send {
    /// What changed. It ends with its first error: what was missed then is not known, and whoever
    /// goes on looks at everything again.
    ///
    /// # Errors
    ///
    /// [`UsersError`]: it has ended.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: what is not returned comes with the next call.
    async fn next(&mut self) -> Result<Vec<Changed>>;
}

/// What of the users changed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Changed {
    /// A token was made or revoked.
    Token(TokenId),
    /// A user, or its grants.
    User(UserId),
    /// Anything.
    Anything,
}
