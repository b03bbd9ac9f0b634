//! Where users stand in the store.

use bytes::Bytes;

use super::error::Result;
use super::grant::{Grant, Prefix, Role};
use super::token::TokenId;
use super::user::UserId;

pub(super) const USERS: &str = "/global/user/";
pub(super) const TOKENS: &str = "/global/token/";
pub(super) const GRANTS: &str = "/global/grant/";

/// All admins are in one place, so that a transaction can compare that there is none. No user has a
/// name with `~`.
pub(super) const ADMINS: &str = "/global/grant/~admin/";

pub(super) fn user(id: &UserId) -> Bytes {
    format!("{USERS}{id}").into()
}

pub(super) fn user_in(key: &[u8]) -> Option<UserId> {
    UserId::new(std::str::from_utf8(key).ok()?.strip_prefix(USERS)?).ok()
}

pub(super) fn token(id: &TokenId) -> Bytes {
    format!("{TOKENS}{id}").into()
}

pub(super) fn token_in(key: &[u8]) -> Option<TokenId> {
    std::str::from_utf8(key).ok()?.strip_prefix(TOKENS)?.parse().ok()
}

/// All grants of a user but that of an admin.
pub(super) fn grants_of(user: &UserId) -> Bytes {
    format!("{GRANTS}{user}/").into()
}

/// The grant that makes a user an admin.
pub(super) fn admin(user: &UserId) -> Bytes {
    format!("{ADMINS}{user}").into()
}

/// No prefix has two slashes in a row.
pub(super) fn grant(grant: &Grant) -> Bytes {
    match grant.role() {
        Role::Admin => admin(grant.user()),
        role => {
            let (user, spaces, prefix) = (grant.user(), grant.spaces(), grant.prefix().as_str());
            format!("{GRANTS}{user}/{spaces}/{prefix}//{role}").into()
        }
    }
}

/// Whose grant is under that key, whatever it is.
pub(super) fn user_of_grant(key: &[u8]) -> Option<UserId> {
    let key = std::str::from_utf8(key).ok()?;
    let user = match key.strip_prefix(ADMINS) {
        Some(user) => user,
        None => key.strip_prefix(GRANTS)?.split_once('/')?.0,
    };
    UserId::new(user).ok()
}

/// The grant under that key; `None` for what is no key of a grant.
pub(super) fn grant_in(key: &[u8]) -> Option<Result<Grant>> {
    let text = std::str::from_utf8(key).ok()?;
    if let Some(user) = text.strip_prefix(ADMINS) {
        return UserId::new(user).ok().map(|user| Ok(Grant::admin(user)));
    }
    let (rest, role) = text.strip_prefix(GRANTS)?.rsplit_once("//")?;
    let (user, rest) = rest.split_once('/')?;
    let (spaces, prefix) = rest.split_once('/')?;
    let user = UserId::new(user).ok()?;
    let read = || Grant::new(user, spaces.parse()?, Prefix::folded(prefix)?, role.parse()?);
    Some(read())
}

#[cfg(test)]
mod tests {
    use super::super::token::Secret;
    use super::*;
    use crate::model::Names;

    #[test]
    fn a_key_tells_what_it_is_of() {
        let ada = UserId::new("ada").unwrap();
        let id = Secret::random().unwrap().id();
        assert_eq!(user_in(&user(&ada)), Some(ada.clone()));
        assert_eq!(token_in(&token(&id)), Some(id));
        for (spaces, prefix, role) in [
            ("main", "", "reader"),
            ("main", "a/b c/ä", "writer"),
            ("*", "", "region:amsterdam"),
            ("*", "", "admin"),
        ] {
            let prefix = Prefix::new(prefix, Names::Folded).unwrap();
            let one =
                Grant::new(ada.clone(), spaces.parse().unwrap(), prefix, role.parse().unwrap()).unwrap();
            let key = grant(&one);
            assert_eq!(user_of_grant(&key), Some(ada.clone()));
            assert_eq!(grant_in(&key).unwrap().unwrap(), one);
            assert_eq!(key.starts_with(&grants_of(&ada)), role != "admin");
        }
    }

    #[test]
    fn nobody_s_grants_lie_among_another_s() {
        let (ada, longer) = (UserId::new("ada").unwrap(), UserId::new("ada-1").unwrap());
        assert!(!grants_of(&longer).starts_with(&grants_of(&ada)));
        assert!(!admin(&ada).starts_with(&grants_of(&ada)));
        assert!(grant_in(b"/global/grant/ada/main/docs").is_none());
        assert!(grant_in(b"/global/grant/ada/main///root").unwrap().is_err());
    }
}
