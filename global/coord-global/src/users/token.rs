//! Tokens: what a caller shows, and what is kept of it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::{Refused, Result, UsersError};
use super::user::UserId;
use crate::model::{Hash, NameError};

/// The longest label of a token, in bytes.
pub const LABEL_MAX: usize = 100;

/// A token: 256 random bits of the operating system, as 64 hexadecimal digits. It is shown once, to
/// whoever it is made for. `Debug` hides it, and it has neither `Display` nor JSON: only
/// [`expose`](Self::expose) gives its text.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// A new one.
    ///
    /// # Errors
    ///
    /// [`UsersError::Unavailable`]: the operating system has no random bits to give.
    pub fn random() -> Result<Self> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|error| UsersError::Unavailable { why: error.to_string() })?;
        Ok(Self(hex::encode(bytes)))
    }

    /// Takes what a caller shows: 64 hexadecimal digits in lower case. All else is refused here, as
    /// the audit tells.
    ///
    /// # Errors
    ///
    /// [`UsersError::Unauthenticated`], which does not repeat the text.
    pub fn new(text: &str) -> Result<Self> {
        if is_token(text) {
            return Ok(Self(text.to_owned()));
        }
        Refused::Malformed.tell();
        Err(UsersError::unauthenticated(Refused::Malformed))
    }

    /// The text, for whoever it is made for.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What is kept of it: the SHA-256 of its text.
    #[must_use]
    pub fn id(&self) -> TokenId {
        TokenId(Hash::of_content(self.0.as_bytes()))
    }
}

/// Whether a text looks like a token.
fn is_token(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What a token is called wherever it is not shown: the SHA-256 of its text. Nobody gets from it to
/// the token.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenId(Hash);

impl TokenId {
    /// Its first 8 digits: enough for people and logs.
    #[must_use]
    pub fn short(&self) -> String {
        hex::encode(self.0.as_bytes().get(..4).unwrap_or_default())
    }
}

impl From<Hash> for TokenId {
    fn from(hash: Hash) -> Self {
        Self(hash)
    }
}

impl FromStr for TokenId {
    type Err = NameError;

    /// Reads 64 hexadecimal digits.
    fn from_str(text: &str) -> std::result::Result<Self, NameError> {
        text.parse().map(Self)
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

/// What people call a token by: 1 to 100 bytes without control characters. Labels of one user may
/// be equal.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenLabel(String);

impl TokenLabel {
    /// Takes a label.
    ///
    /// # Errors
    ///
    /// [`UsersError::InvalidArgument`]; also for a text that is a token by its looks, for labels
    /// stand in logs.
    pub fn new(text: impl Into<String>) -> Result<Self> {
        let text = text.into();
        let why = if text.is_empty() || text.len() > LABEL_MAX {
            "a label has 1 to 100 bytes"
        } else if text.chars().any(char::is_control) {
            "a label has no control characters"
        } else if is_token(&text) {
            "a label is seen by many: it must not be a token"
        } else {
            return Ok(Self(text));
        };
        Err(UsersError::InvalidArgument(why.to_owned()))
    }

    /// The label.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for TokenLabel {
    type Error = UsersError;

    fn try_from(text: String) -> Result<Self> {
        Self::new(text)
    }
}

impl From<TokenLabel> for String {
    fn from(label: TokenLabel) -> Self {
        label.0
    }
}

impl fmt::Display for TokenLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TokenLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// What is known of a token. Its text is not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// The hash of its text.
    pub id: TokenId,
    /// Whose it is.
    pub user: UserId,
    /// What people call it.
    pub label: TokenLabel,
    /// From when on it opens nothing, in milliseconds since 1970; `None` for never.
    pub expires_at_ms: Option<u64>,
    /// When it was made, in milliseconds since 1970.
    pub created_at_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_tokens_are_never_the_same() {
        let (one, other) = (Secret::random().unwrap(), Secret::random().unwrap());
        assert_ne!(one.expose(), other.expose());
        assert_ne!(one.id(), other.id());
        assert_eq!(Secret::new(one.expose()).unwrap().id(), one.id());
    }

    /// What stands in stores for years: `printf %s TOKEN | sha256sum`.
    #[test]
    fn a_token_is_kept_as_the_hash_of_its_text() {
        let secret = Secret::new(&"0".repeat(64)).unwrap();
        let id = "60e05bd1b195af2f94112fa7197a5c88289058840ce7c6df9693756bc6250f55";
        assert_eq!(secret.id().to_string(), id);
        assert_eq!(id.parse::<TokenId>().unwrap(), secret.id());
        assert_eq!(secret.id().short(), "60e05bd1");
    }

    #[test]
    fn what_is_no_token_is_refused_and_not_repeated() {
        for text in ["", "hunter2", &"0".repeat(63), &"0".repeat(65), &"A".repeat(64), &"g".repeat(64)] {
            let refused = Secret::new(text).unwrap_err();
            assert!(matches!(refused, UsersError::Unauthenticated { why: Refused::Malformed }));
            let shown = format!("{refused} {refused:?}");
            assert!(text.is_empty() || !shown.contains(text), "{shown}");
        }
    }

    #[test]
    fn a_label_is_for_people() {
        for text in ["laptop", "CI of example.com", "ä", &"a".repeat(LABEL_MAX)] {
            assert_eq!(TokenLabel::new(text).unwrap().as_str(), text);
        }
        for text in ["", "a\nb", &"a".repeat(LABEL_MAX + 1), &"a".repeat(64)] {
            assert!(matches!(TokenLabel::new(text), Err(UsersError::InvalidArgument(_))), "{text}");
        }
    }
}
