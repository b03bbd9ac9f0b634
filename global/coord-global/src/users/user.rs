//! Users.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::error::{Result, UsersError};
use crate::model::{NameError, RegionId};

/// The longest name of a user, in bytes.
pub const USER_NAME_MAX: usize = 200;

/// A user's id: 1 to 63 bytes of `a` to `z`, `0` to `9` and `-`, a letter or a digit first.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UserId(Arc<str>);

impl UserId {
    /// Takes an id.
    ///
    /// # Errors
    ///
    /// [`NameError`].
    pub fn new(id: impl AsRef<str>) -> std::result::Result<Self, NameError> {
        // The rule is that of regions.
        RegionId::new(id.as_ref()).map_err(|error| NameError { what: "user".into(), ..error })?;
        Ok(Self(id.as_ref().into()))
    }

    /// The id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for UserId {
    type Error = NameError;

    fn try_from(id: String) -> std::result::Result<Self, NameError> {
        Self::new(id)
    }
}

impl FromStr for UserId {
    type Err = NameError;

    fn from_str(id: &str) -> std::result::Result<Self, NameError> {
        Self::new(id)
    }
}

impl From<UserId> for String {
    fn from(id: UserId) -> Self {
        id.0.as_ref().to_owned()
    }
}

impl Borrow<str> for UserId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A user: a person, a program, or the agent of a region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// What it is called in keys and grants.
    pub id: UserId,
    /// What people call it.
    pub name: String,
    /// Whether its tokens open nothing. A user whose deletion was cut short is disabled too.
    pub disabled: bool,
}

/// A user's name: 1 to 200 bytes without control characters.
pub(super) fn check_name(name: &str) -> Result<()> {
    let fits = (1..=USER_NAME_MAX).contains(&name.len()) && !name.chars().any(char::is_control);
    if fits {
        Ok(())
    } else {
        Err(UsersError::InvalidArgument("a name has 1 to 200 bytes and no control characters".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_as_a_region_is() {
        for id in ["a", "0", "ada-lovelace"] {
            assert_eq!(UserId::new(id).unwrap().as_str(), id);
        }
        for id in ["", "-a", "A", "a/b", "~admin", "a b", &"a".repeat(64)] {
            let refused = UserId::new(id).unwrap_err();
            assert_eq!(refused.what, "user", "{id}");
        }
    }

    #[test]
    fn a_name_is_for_people() {
        assert!(check_name("Ada Lovelace").is_ok());
        for name in ["", "a\tb", &"a".repeat(USER_NAME_MAX + 1)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
