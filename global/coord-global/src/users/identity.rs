//! Who calls, and what that one may do.

use std::sync::Arc;

use super::grant::{FoldedPath, Grant, Role};
use super::token::{Token, TokenId, TokenLabel};
use super::user::UserId;
use crate::model::{RegionId, SpaceName};

/// Who calls, as the token says that was shown, with all that this one may do. Pure: it decides by
/// what was read when the token was [authenticated](super::Users::authenticate).
///
/// What somebody may not read is *not there* for that one: a call answers as it does for a file
/// that does not exist, with `NOT_FOUND`, so that nobody learns what there is by asking
/// ([`seen`](Self::seen)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    user: UserId,
    token: TokenId,
    label: TokenLabel,
    expires_at_ms: Option<u64>,
    grants: Arc<[Grant]>,
}

impl Identity {
    /// The one who has that token, with the grants of its user; others are left out.
    #[must_use]
    pub fn new(token: Token, grants: impl IntoIterator<Item = Grant>) -> Self {
        let Token { id, user, label, expires_at_ms, .. } = token;
        let grants = grants.into_iter().filter(|grant| *grant.user() == user).collect();
        Self { user, token: id, label, expires_at_ms, grants }
    }

    /// The user.
    #[must_use]
    pub const fn user(&self) -> &UserId {
        &self.user
    }

    /// The token that was shown.
    #[must_use]
    pub const fn token(&self) -> &TokenId {
        &self.token
    }

    /// What people call the token.
    #[must_use]
    pub const fn label(&self) -> &TokenLabel {
        &self.label
    }

    /// From when on the token opens nothing, in milliseconds since 1970.
    #[must_use]
    pub const fn expires_at_ms(&self) -> Option<u64> {
        self.expires_at_ms
    }

    /// All that the user was granted.
    #[must_use]
    pub fn grants(&self) -> &[Grant] {
        &self.grants
    }

    /// Whether the token's time is over.
    #[must_use]
    pub fn is_expired(&self, now_ms: u64) -> bool {
        self.expires_at_ms.is_some_and(|at| at <= now_ms)
    }

    fn has(&self, space: &SpaceName, fits: impl Fn(&Grant) -> bool) -> bool {
        self.grants.iter().any(|grant| grant.spaces().has(space) && fits(grant))
    }

    /// Whether this one reads what is at a path.
    #[must_use]
    pub fn may_read(&self, space: &SpaceName, path: &FoldedPath) -> bool {
        self.has(space, |grant| grant.role().is_at_least(&Role::Reader) && grant.prefix().covers(path))
    }

    /// What was found at a path, where this one may read it; else nothing, as if it were not there.
    #[must_use]
    pub fn seen<T>(&self, space: &SpaceName, path: &FoldedPath, found: Option<T>) -> Option<T> {
        found.filter(|_| self.may_read(space, path))
    }

    /// Whether this one writes what is at a path.
    #[must_use]
    pub fn may_write(&self, space: &SpaceName, path: &FoldedPath) -> bool {
        self.has(space, |grant| grant.role().is_at_least(&Role::Writer) && grant.prefix().covers(path))
    }

    /// Whether this one moves a file: that takes both sides.
    #[must_use]
    pub fn may_rename(&self, space: &SpaceName, from: &FoldedPath, to: &FoldedPath) -> bool {
        self.may_write(space, from) && self.may_write(space, to)
    }

    /// Whether this one speaks for a region: only who was granted that very region does, no
    /// operator and no admin.
    #[must_use]
    pub fn may_push_as(&self, space: &SpaceName, region: &RegionId) -> bool {
        self.has(space, |grant| {
            grant.prefix().is_whole() && matches!(grant.role(), Role::Region(own) if own == region)
        })
    }

    /// Whether this one reads the log and snapshots of a space: they have all of it, so only who
    /// reads all of it may.
    #[must_use]
    pub fn may_read_log(&self, space: &SpaceName) -> bool {
        self.has(space, |grant| grant.role().is_at_least(&Role::Reader) && grant.prefix().is_whole())
    }

    /// Whether this one keeps a space running.
    #[must_use]
    pub fn is_operator(&self, space: &SpaceName) -> bool {
        self.has(space, |grant| grant.role().is_at_least(&Role::Operator) && grant.prefix().is_whole())
    }

    /// Whether this one makes users, tokens and grants.
    #[must_use]
    pub fn is_admin(&self) -> bool {
        self.grants.iter().any(|grant| *grant.role() == Role::Admin)
    }
}

#[cfg(test)]
mod tests {
    use super::super::grant::{Prefix, Spaces};
    use super::super::token::Secret;
    use super::*;
    use crate::model::{Names, RelPath};

    fn space(name: &str) -> SpaceName {
        SpaceName::new(name).unwrap()
    }

    fn path(text: &str) -> FoldedPath {
        FoldedPath::new(&RelPath::new(text).unwrap(), Names::Folded)
    }

    fn region(name: &str) -> RegionId {
        RegionId::new(name).unwrap()
    }

    /// Somebody with these grants: space, prefix, role.
    fn who(grants: &[(&str, &str, &str)]) -> Identity {
        let user = UserId::new("ada").unwrap();
        let token = Token {
            id: Secret::random().unwrap().id(),
            user: user.clone(),
            label: TokenLabel::new("laptop").unwrap(),
            expires_at_ms: Some(10),
            created_at_ms: 0,
        };
        let grants = grants.iter().map(|(spaces, prefix, role)| {
            let spaces: Spaces = spaces.parse().unwrap();
            let prefix = Prefix::new(prefix, Names::Folded).unwrap();
            Grant::new(user.clone(), spaces, prefix, role.parse().unwrap()).unwrap()
        });
        Identity::new(token, grants)
    }

    #[test]
    fn nobody_may_anything() {
        let nobody = who(&[]);
        let (main, a) = (space("main"), path("a"));
        assert!(!nobody.may_read(&main, &a) && !nobody.may_write(&main, &a));
        assert!(!nobody.may_rename(&main, &a, &a) && !nobody.may_read_log(&main));
        assert!(!nobody.may_push_as(&main, &region("a")));
        assert!(!nobody.is_operator(&main) && !nobody.is_admin());
    }

    #[test]
    fn a_reader_reads_below_its_prefix() {
        let reader = who(&[("main", "docs", "reader")]);
        let main = space("main");
        assert!(reader.may_read(&main, &path("docs/x")) && reader.may_read(&main, &path("Docs/X")));
        assert!(!reader.may_read(&main, &path("docs2/x")) && !reader.may_read(&main, &path("x")));
        assert!(!reader.may_read(&space("other"), &path("docs/x")));
        assert!(!reader.may_write(&main, &path("docs/x")));
        // What it may not read is not there.
        assert_eq!(reader.seen(&main, &path("docs/x"), Some(1)), Some(1));
        assert_eq!(reader.seen(&main, &path("x"), Some(1)), None);
        assert_eq!(reader.seen::<u8>(&main, &path("docs/x"), None), None);
    }

    #[test]
    fn a_rename_needs_both_sides() {
        let writer = who(&[("main", "a", "writer"), ("main", "b", "writer"), ("main", "c", "reader")]);
        let main = space("main");
        assert!(writer.may_read(&main, &path("a/x")));
        assert!(writer.may_rename(&main, &path("a/x"), &path("b/x")));
        assert!(!writer.may_rename(&main, &path("a/x"), &path("c/x")));
        assert!(!writer.may_rename(&main, &path("c/x"), &path("a/x")));
        assert!(!writer.may_rename(&space("other"), &path("a/x"), &path("b/x")));
    }

    #[test]
    fn a_region_speaks_for_itself_alone() {
        let agent = who(&[("main", "", "region:amsterdam")]);
        let main = space("main");
        assert!(agent.may_push_as(&main, &region("amsterdam")));
        assert!(!agent.may_push_as(&main, &region("beijing")));
        assert!(!agent.may_push_as(&space("other"), &region("amsterdam")));
        assert!(agent.may_read_log(&main) && agent.may_read(&main, &path("any/where")));
        assert!(!agent.may_write(&main, &path("x")) && !agent.is_operator(&main) && !agent.is_admin());
        // Nobody else speaks for it.
        let admin = who(&[("*", "", "admin"), ("main", "", "operator")]);
        assert!(!admin.may_push_as(&main, &region("amsterdam")));
    }

    #[test]
    fn the_log_is_for_who_reads_all_of_the_space() {
        let main = space("main");
        for role in ["reader", "writer", "region:a", "operator"] {
            assert!(who(&[("main", "", role)]).may_read_log(&main), "{role}");
            assert!(!who(&[("other", "", role)]).may_read_log(&main), "{role}");
        }
        let parts = who(&[("main", "a", "writer"), ("main", "b", "reader"), ("other", "", "reader")]);
        assert!(!parts.may_read_log(&main));
    }

    #[test]
    fn an_admin_is_an_operator_and_an_operator_is_no_admin() {
        let main = space("main");
        let operator = who(&[("main", "", "operator")]);
        assert!(operator.is_operator(&main) && operator.may_write(&main, &path("x")));
        assert!(!operator.is_operator(&space("other")) && !operator.is_admin());
        let admin = who(&[("*", "", "admin")]);
        assert!(admin.is_admin() && admin.is_operator(&main) && admin.may_write(&main, &path("x")));
        let writer = who(&[("*", "", "writer")]);
        assert!(!writer.is_operator(&main) && !writer.is_admin());
    }

    #[test]
    fn grants_of_others_do_not_count() {
        let token = Token {
            id: Secret::random().unwrap().id(),
            user: UserId::new("ada").unwrap(),
            label: TokenLabel::new("laptop").unwrap(),
            expires_at_ms: None,
            created_at_ms: 0,
        };
        let identity = Identity::new(token, [Grant::admin(UserId::new("eve").unwrap())]);
        assert!(!identity.is_admin() && identity.grants().is_empty());
    }

    #[test]
    fn a_token_ends_at_its_time() {
        let identity = who(&[]);
        assert!(!identity.is_expired(9) && identity.is_expired(10));
    }
}
