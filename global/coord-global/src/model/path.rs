//! Paths: what one may be called, which are one and the same, and what a conflict copy is called.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization as _;

use super::Refusal;
use super::id::Dot;

/// The longest path, in bytes.
pub const PATH_MAX: usize = 1_024;

/// The longest name in a path, in bytes.
pub const SEGMENT_MAX: usize = 255;

/// A file's path below the root of its space: UTF-8, names of 1 to 255 bytes with `/` between
/// them, 1,024 bytes at most. No name is `.` or `..`, and none has a NUL.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RelPath(Arc<str>);

impl RelPath {
    /// Takes a path.
    ///
    /// # Errors
    ///
    /// [`Refusal::Path`] says what is wrong with it.
    pub fn new(path: impl AsRef<str>) -> Result<Self, Refusal> {
        let path = path.as_ref();
        let refused =
            |why: &'static str| Err(Refusal::Path { why: why.into(), path: path.chars().take(80).collect() });
        if path.is_empty() {
            return refused("it is empty");
        }
        if path.len() > PATH_MAX {
            return refused("it is longer than 1,024 bytes");
        }
        if path.contains('\0') {
            return refused("it has a NUL");
        }
        for segment in path.split('/') {
            match segment {
                "" => return refused("it begins or ends with a slash, or has two in a row"),
                "." | ".." => return refused("it has a name that is `.` or `..`"),
                long if long.len() > SEGMENT_MAX => {
                    return refused("it has a name that is longer than 255 bytes");
                }
                _ => {}
            }
        }
        Ok(Self(path.into()))
    }

    /// The path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its directories, the outermost first: `a` and `a/b` of `a/b/c`.
    pub fn directories(&self) -> impl Iterator<Item = &str> {
        directories(&self.0)
    }
}

/// The directories of `path`, the outermost first.
pub(crate) fn directories(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').filter_map(|(at, _)| path.get(..at))
}

impl TryFrom<String> for RelPath {
    type Error = Refusal;

    fn try_from(path: String) -> Result<Self, Refusal> {
        Self::new(path)
    }
}

impl From<RelPath> for String {
    fn from(path: RelPath) -> Self {
        path.0.as_ref().to_owned()
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Which paths of a space are one. It stands in the space's head and never changes, so that two
/// builds or two configurations cannot see two trees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Names {
    /// Paths that differ in case or in the way in which an accent is written are one: so a tree
    /// fits onto any disk. By Unicode's full case folding and normal forms, as they were when this
    /// value was made.
    #[default]
    Folded,
    /// Each sequence of bytes is a path of its own.
    Exact,
}

impl Names {
    /// The form that all paths have that are one.
    #[must_use]
    pub fn fold(self, path: &str) -> String {
        match self {
            Self::Exact => path.to_owned(),
            Self::Folded if path.is_ascii() => path.to_ascii_lowercase(),
            Self::Folded => {
                let decomposed: String = path.nfd().collect();
                unicase::UniCase::unicode(decomposed).to_folded_case().nfc().collect()
            }
        }
    }
}

/// What a file is called that must give way at `name`: `name.conflict-<who>-<seq>.ext`, after the
/// edit that it shows. `more` comes where that is taken too. It is never longer than a name may be.
#[must_use]
pub fn conflict_name(name: &str, dot: &Dot, more: Option<&str>) -> String {
    let (stem, extension) = match name.rfind('.') {
        Some(at) if at > 0 && name.len() - at <= 32 => name.split_at(at),
        _ => (name, ""),
    };
    let mut tail = format!(".conflict-{}-{}", dot.actor.label(), dot.seq);
    if let Some(more) = more {
        tail.push('-');
        tail.push_str(more);
    }
    tail.push_str(extension);
    let mut room = SEGMENT_MAX.saturating_sub(tail.len()).min(stem.len());
    while !stem.is_char_boundary(room) {
        room -= 1;
    }
    format!("{}{tail}", stem.get(..room).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sha2::{Digest, Sha256};

    use super::super::id::{Actor, RegionId};
    use super::*;

    fn dot(seq: u64) -> Dot {
        Dot::new(Actor::region(RegionId::new("beijing").unwrap(), 1), seq)
    }

    #[test]
    fn what_is_no_path() {
        let name = "n".repeat(SEGMENT_MAX);
        let long = format!("{name}/{name}/{name}/{name}");
        for path in [
            "a",
            "a/b",
            "...",
            ".hidden",
            "a b",
            "ä/ö",
            "-",
            "~",
            "a\nb",
            &name,
            long.get(..PATH_MAX - 1).unwrap(),
        ] {
            assert!(RelPath::new(path).is_ok(), "{path}");
        }
        let name = "n".repeat(SEGMENT_MAX + 1);
        let long = format!("{}/a", long.get(..PATH_MAX - 1).unwrap());
        for path in ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", "a\0b", &name, &long] {
            assert!(matches!(RelPath::new(path), Err(Refusal::Path { .. })), "{path}");
        }
    }

    #[test]
    fn case_and_normal_form_are_no_difference() {
        let same = [
            ("README.md", "readme.MD"),
            ("caf\u{e9}", "CAFE\u{301}"),
            ("stra\u{df}e", "STRASSE"),
            ("\u{1e9e}", "ss"),
            ("\u{3c3}", "\u{3c2}"),
            ("\u{fb01}", "FI"),
            ("\u{212b}ngstr\u{f6}m", "\u{e5}ngstr\u{f6}m"),
        ];
        for (one, other) in same {
            assert_eq!(Names::Folded.fold(one), Names::Folded.fold(other), "{one} {other}");
            assert_ne!(Names::Exact.fold(one), Names::Exact.fold(other), "{one} {other}");
        }
        assert_ne!(Names::Folded.fold("a"), Names::Folded.fold("\u{e4}"));
    }

    /// What any character is folded to, as one hash. A space lives for years, and its regions run
    /// builds of different ages: an answer that changes would give them two trees. A library that
    /// knows more characters is taken as another value of [`Names`], never as this one.
    #[test]
    fn the_tables_are_frozen() {
        let mut hasher = Sha256::new();
        for character in (1..=0x0010_FFFF_u32).filter_map(char::from_u32) {
            // With a mark behind it, so that composition is in it too.
            for text in [character.to_string(), format!("{character}\u{301}")] {
                hasher.update(Names::Folded.fold(&text));
                hasher.update([0]);
            }
        }
        let tables = hex::encode(hasher.finalize());
        assert_eq!(tables, "d6da12f912036c882d0b9e885c113c659225437a78a2099a0418fbff8874a6a6");
    }

    #[test]
    fn what_a_conflict_copy_is_called() {
        assert_eq!(conflict_name("a.txt", &dot(7), None), "a.conflict-beijing-7.txt");
        assert_eq!(conflict_name("a", &dot(7), Some("x")), "a.conflict-beijing-7-x");
        assert_eq!(conflict_name(".profile", &dot(7), None), ".profile.conflict-beijing-7");
        assert_eq!(conflict_name("a.tar.gz", &dot(7), None), "a.tar.conflict-beijing-7.gz");
    }

    proptest! {
        #[test]
        fn folding_is_done_once(path in any::<String>()) {
            let folded = Names::Folded.fold(&path);
            prop_assert_eq!(Names::Folded.fold(&folded), folded);
        }

        #[test]
        fn a_conflict_copy_has_a_name_that_fits(stem in "[^/\0]{0,300}", extension in "(\\.[a-z]{0,40})?", seq in any::<u64>()) {
            let name = format!("{stem}{extension}");
            let actor = Actor::region(RegionId::new("r".repeat(63)).unwrap(), 1);
            let copy = conflict_name(&name, &Dot::new(actor, seq), Some(&"0".repeat(32)));
            prop_assert!(copy.len() <= SEGMENT_MAX);
            prop_assert!(RelPath::new(copy).is_ok());
        }
    }
}
