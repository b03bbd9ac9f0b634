//! Grants: who may do what, where.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::{Result, UsersError};
use super::user::UserId;
use crate::model::{Names, RegionId, RelPath, SpaceName};

/// A path in the form that all paths have that are one in its space.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FoldedPath(String);

impl FoldedPath {
    /// The path, in a space with these names.
    #[must_use]
    pub fn new(path: &RelPath, names: Names) -> Self {
        Self(names.fold(path.as_str()))
    }

    /// The path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A directory in the folded form of its space, or the whole space.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix(String);

impl Prefix {
    /// The whole space.
    pub const WHOLE: Self = Self(String::new());

    /// A directory of a space with these names; the empty text is the whole space.
    ///
    /// # Errors
    ///
    /// [`UsersError::InvalidArgument`] for what is no path.
    pub fn new(directory: &str, names: Names) -> Result<Self> {
        if directory.is_empty() {
            return Ok(Self::WHOLE);
        }
        let path = RelPath::new(directory).map_err(|why| UsersError::InvalidArgument(why.to_string()))?;
        Ok(Self(names.fold(path.as_str())))
    }

    /// What was written before, and is folded.
    pub(super) fn folded(text: &str) -> Result<Self> {
        // What is folded may be longer than a path may be; its names are what counts.
        let fits = !text.contains('\0') && text.split('/').all(|name| !matches!(name, "" | "." | ".."));
        if text.is_empty() || fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(UsersError::InvalidArgument("that is no directory".to_owned()))
        }
    }

    /// The directory; empty for the whole space.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is the whole space.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `path` is in the directory, or is the directory's own path.
    #[must_use]
    pub fn covers(&self, path: &FoldedPath) -> bool {
        match path.0.strip_prefix(&self.0) {
            Some(rest) => self.is_whole() || rest.is_empty() || rest.starts_with('/'),
            None => false,
        }
    }
}

impl TryFrom<String> for Prefix {
    type Error = UsersError;

    fn try_from(text: String) -> Result<Self> {
        Self::folded(&text)
    }
}

impl From<Prefix> for String {
    fn from(prefix: Prefix) -> Self {
        prefix.0
    }
}

/// Which spaces a grant is for. In text, `*` is all of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Spaces {
    /// One.
    One(SpaceName),
    /// All that there are, and all to come.
    All,
}

impl Spaces {
    /// Whether that space is among them.
    #[must_use]
    pub fn has(&self, space: &SpaceName) -> bool {
        match self {
            Self::One(one) => one == space,
            Self::All => true,
        }
    }
}

impl fmt::Display for Spaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(space) => fmt::Display::fmt(space, f),
            Self::All => f.write_str("*"),
        }
    }
}

impl FromStr for Spaces {
    type Err = UsersError;

    fn from_str(text: &str) -> Result<Self> {
        if text == "*" {
            return Ok(Self::All);
        }
        SpaceName::new(text).map(Self::One).map_err(|why| UsersError::InvalidArgument(why.to_string()))
    }
}

impl TryFrom<String> for Spaces {
    type Error = UsersError;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Spaces> for String {
    fn from(spaces: Spaces) -> Self {
        spaces.to_string()
    }
}

/// What a user may do. A writer is a reader too, an operator a writer, an admin an operator. A
/// region is none of these but a reader of its space.
///
/// In text: `reader`, `writer`, `region:<its name>`, `operator`, `admin`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[non_exhaustive]
pub enum Role {
    /// Reads what is below the prefix.
    Reader,
    /// Writes what is below the prefix.
    Writer,
    /// Speaks for this region, and for no other: pushes as it. Holds the whole space.
    Region(RegionId),
    /// Keeps a space running: regions, conflicts, history. Holds the whole space.
    Operator,
    /// Makes users, tokens and grants. Holds all spaces.
    Admin,
}

impl Role {
    /// How far up it is among those of which each has what the ones before have.
    const fn rank(&self) -> u8 {
        match self {
            Self::Reader | Self::Region(_) => 0,
            Self::Writer => 1,
            Self::Operator => 2,
            Self::Admin => 3,
        }
    }

    /// Whether it has all that `other` has.
    pub(super) const fn is_at_least(&self, other: &Self) -> bool {
        self.rank() >= other.rank()
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reader => f.write_str("reader"),
            Self::Writer => f.write_str("writer"),
            Self::Region(region) => write!(f, "region:{region}"),
            Self::Operator => f.write_str("operator"),
            Self::Admin => f.write_str("admin"),
        }
    }
}

impl FromStr for Role {
    type Err = UsersError;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "reader" => Self::Reader,
            "writer" => Self::Writer,
            "operator" => Self::Operator,
            "admin" => Self::Admin,
            _ => {
                let region = text.strip_prefix("region:").and_then(|region| RegionId::new(region).ok());
                Self::Region(region.ok_or_else(|| {
                    UsersError::InvalidArgument(
                        "a role is reader, writer, region:<name>, operator or admin".to_owned(),
                    )
                })?)
            }
        })
    }
}

impl TryFrom<String> for Role {
    type Error = UsersError;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Role> for String {
    fn from(role: Role) -> Self {
        role.to_string()
    }
}

/// A user may do something somewhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Grant {
    user: UserId,
    spaces: Spaces,
    prefix: Prefix,
    role: Role,
}

#[derive(Deserialize)]
struct Unchecked {
    user: UserId,
    spaces: Spaces,
    #[serde(default)]
    prefix: Prefix,
    role: Role,
}

impl TryFrom<Unchecked> for Grant {
    type Error = UsersError;

    fn try_from(grant: Unchecked) -> Result<Self> {
        Self::new(grant.user, grant.spaces, grant.prefix, grant.role)
    }
}

impl Grant {
    /// Takes a grant.
    ///
    /// # Errors
    ///
    /// [`UsersError::InvalidArgument`]: a region and an operator hold whole spaces, an admin all of
    /// them; and all spaces have no directory in common, for each has names of its own.
    pub fn new(user: UserId, spaces: Spaces, prefix: Prefix, role: Role) -> Result<Self> {
        let why = match (&role, &spaces) {
            (Role::Admin, Spaces::One(_)) => "an admin holds all spaces",
            (Role::Admin | Role::Operator | Role::Region(_), _) if !prefix.is_whole() => {
                "a region, an operator and an admin hold whole spaces"
            }
            (_, Spaces::All) if !prefix.is_whole() => "all spaces have no directory in common",
            _ => return Ok(Self { user, spaces, prefix, role }),
        };
        Err(UsersError::InvalidArgument(why.to_owned()))
    }

    /// The grant that makes an admin.
    #[must_use]
    pub const fn admin(user: UserId) -> Self {
        Self { user, spaces: Spaces::All, prefix: Prefix::WHOLE, role: Role::Admin }
    }

    /// Who may.
    #[must_use]
    pub const fn user(&self) -> &UserId {
        &self.user
    }

    /// In which spaces.
    #[must_use]
    pub const fn spaces(&self) -> &Spaces {
        &self.spaces
    }

    /// Below which directory.
    #[must_use]
    pub const fn prefix(&self) -> &Prefix {
        &self.prefix
    }

    /// What.
    #[must_use]
    pub const fn role(&self) -> &Role {
        &self.role
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> FoldedPath {
        FoldedPath::new(&RelPath::new(text).unwrap(), Names::Folded)
    }

    #[test]
    fn a_prefix_is_a_directory() {
        let docs = Prefix::new("Docs", Names::Folded).unwrap();
        for inside in ["docs", "docs/x", "DOCS/x/y", "docs/docs2"] {
            assert!(docs.covers(&path(inside)), "{inside}");
        }
        for outside in ["docs2", "docs2/x", "doc", "x/docs", "docs-old/x", "docs.txt"] {
            assert!(!docs.covers(&path(outside)), "{outside}");
        }
        for anything in ["docs", "x", "x/y"] {
            assert!(Prefix::WHOLE.covers(&path(anything)));
        }
        let exact = Prefix::new("Docs", Names::Exact).unwrap();
        assert!(!exact.covers(&path("docs/x")));
        assert!(exact.covers(&FoldedPath::new(&RelPath::new("Docs/x").unwrap(), Names::Exact)));
    }

    #[test]
    fn what_is_no_directory_is_no_prefix() {
        for text in ["/", "/docs", "docs/", "a//b", "..", "a/../b", "a\0"] {
            assert!(
                matches!(Prefix::new(text, Names::Folded), Err(UsersError::InvalidArgument(_))),
                "{text}"
            );
            assert!(Prefix::folded(text).is_err(), "{text}");
        }
    }

    #[test]
    fn roles_and_spaces_have_one_spelling() {
        for text in ["reader", "writer", "region:amsterdam", "operator", "admin"] {
            assert_eq!(text.parse::<Role>().unwrap().to_string(), text);
        }
        for text in ["", "Reader", "region", "region:", "region:A", "root"] {
            assert!(text.parse::<Role>().is_err(), "{text}");
        }
        for text in ["*", "main"] {
            assert_eq!(text.parse::<Spaces>().unwrap().to_string(), text);
        }
        assert!("**".parse::<Spaces>().is_err());
    }

    #[test]
    fn who_holds_the_whole_is_granted_no_part() {
        let user = || UserId::new("ada").unwrap();
        let one = || Spaces::One(SpaceName::new("main").unwrap());
        let docs = || Prefix::new("docs", Names::Folded).unwrap();
        let region = || Role::Region(RegionId::new("a").unwrap());
        for role in [Role::Reader, Role::Writer] {
            assert!(Grant::new(user(), one(), docs(), role.clone()).is_ok());
            assert!(Grant::new(user(), Spaces::All, Prefix::WHOLE, role.clone()).is_ok());
            assert!(Grant::new(user(), Spaces::All, docs(), role).is_err());
        }
        for role in [region(), Role::Operator] {
            assert!(Grant::new(user(), one(), Prefix::WHOLE, role.clone()).is_ok());
            assert!(Grant::new(user(), one(), docs(), role).is_err());
        }
        assert!(Grant::new(user(), one(), Prefix::WHOLE, Role::Admin).is_err());
        assert!(Grant::new(user(), Spaces::All, Prefix::WHOLE, Role::Admin).is_ok());
        // JSON does not get around it.
        let text = r#"{"user":"ada","spaces":"main","prefix":"docs","role":"operator"}"#;
        assert!(serde_json::from_str::<Grant>(text).is_err());
        let text = r#"{"user":"ada","spaces":"main","prefix":"docs","role":"writer"}"#;
        let grant: Grant = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&grant).unwrap(), text);
    }
}
