//! What can go wrong with users.

use std::borrow::Cow;

use coord_api::ErrorKind;

/// Why a call about users failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UsersError {
    /// The store. A write whose outcome is unknown may be repeated at any time.
    #[error(transparent)]
    Store(#[from] coord_api::Error),
    /// The token opens nothing. A caller is told this and no more; the reason is for the audit.
    #[error("the token is not accepted")]
    Unauthenticated {
        /// The reason, which the text leaves out: it is never sent to a caller.
        why: Refused,
    },
    /// There is no such thing.
    #[error("there is no {what}")]
    NotFound {
        /// What was looked for.
        what: String,
    },
    /// There is one already, and it is another one.
    #[error("there is {what} already")]
    AlreadyExists {
        /// What is there.
        what: Cow<'static, str>,
    },
    /// What was passed is not taken, as the text says.
    #[error("{0}")]
    InvalidArgument(String),
    /// Something in the store is not what is written there.
    #[error("{key} is not what is written of users: {why}")]
    Unreadable {
        /// The key. Of a token's key, the first 8 digits.
        key: String,
        /// What is wrong with it.
        why: String,
    },
    /// The users are out of reach, and have been for too long to go by what was known of them. Try
    /// again later.
    #[error("the users are out of reach: {why}")]
    Unavailable {
        /// What keeps them.
        why: String,
    },
    /// Others changed the same user in between each time. Nothing was written; try again later.
    #[error("others changed the user in between {tries} times; nothing was written")]
    Contended {
        /// How often it was tried.
        tries: u32,
    },
}

impl UsersError {
    /// Whether nobody could be asked, so that what was known before may count for a while.
    #[must_use]
    pub fn is_out_of_reach(&self) -> bool {
        match self {
            Self::Store(error) => matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout),
            Self::Unavailable { .. } => true,
            _ => false,
        }
    }

    pub(super) const fn unauthenticated(why: Refused) -> Self {
        Self::Unauthenticated { why }
    }
}

/// The target of all events of the audit.
pub const AUDIT: &str = "coord_global::audit";

/// Why a token was not accepted: for the audit, never for a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refused {
    /// The text is no token at all.
    Malformed,
    /// Nobody has that token, or it was revoked.
    Unknown,
    /// Its time is over.
    Expired,
    /// Its user is disabled, or is being deleted.
    Disabled,
}

impl Refused {
    /// A text was shown that is no token: nothing more is known of it.
    pub(super) fn tell(self) {
        tracing::warn!(target: AUDIT, decision = "refused", why = self.as_str());
    }

    /// The reason in snake case, for the audit.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
            Self::Expired => "expired",
            Self::Disabled => "disabled",
        }
    }
}

/// What a call about users returns.
pub type Result<T> = std::result::Result<T, UsersError>;
