//! Where a link leads.

use std::path::{Component, Path};

/// The file that a link leads to, and the place in it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// By its path from the root; empty for the root itself.
    pub(crate) file: String,
    pub(crate) anchor: Option<String>,
}

/// Whether a link names a host, or a program such as that for mail.
pub(crate) fn is_elsewhere(link: &str) -> bool {
    let scheme = link.split([':', '/', '#', '?']).next().unwrap_or_default();
    link[scheme.len()..].starts_with(':') && !link[scheme.len()..].starts_with("::") || link.starts_with("//")
}

/// Where a link of a file leads that stays with us; `None` where that is above the root.
pub(crate) fn resolve(from: &str, link: &str) -> Option<Target> {
    let (path, anchor) = match link.split_once('#') {
        Some((path, anchor)) => (path, Some(anchor.to_owned())),
        None => (link, None),
    };
    let path = decode(path.split('?').next().unwrap_or_default());
    if path.is_empty() {
        return Some(Target { file: from.to_owned(), anchor });
    }
    let mut parts: Vec<&str> = Vec::new();
    let folder = Path::new(from).parent().unwrap_or(Path::new(""));
    for part in folder.components().chain(Path::new(&path).components()) {
        match part {
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::ParentDir => drop(parts.pop()?),
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(Target { file: parts.join("/"), anchor })
}

/// With the characters that `%20` and the like stand for.
pub(crate) fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, others @ ..] = rest {
        let code = others.get(..2).and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()).filter(|_| *first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &others[2..];
            }
            None => {
                bytes.push(*first);
                rest = others;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn a_link_is_resolved_from_its_file() {
    let found = |from, link| resolve(from, link).map(|target| (target.file, target.anchor));
    let target = |file: &str, anchor: Option<&str>| Some((file.to_owned(), anchor.map(str::to_owned)));
    assert_eq!(found("a/b.md", "c.md"), target("a/c.md", None));
    assert_eq!(found("a/b.md", "../c%20d.md#e"), target("c d.md", Some("e")));
    assert_eq!(found("a/b.md", "#e"), target("a/b.md", Some("e")));
    assert_eq!(found("b.md", "a/./c/"), target("a/c", None));
    assert_eq!(found("b.md", "../c.md"), None);
    assert_eq!(found("b.md", "/c.md"), None);
}

#[test]
fn what_has_a_scheme_is_elsewhere() {
    for link in ["https://docs.rs", "mailto:a@b", "//docs.rs"] {
        assert!(is_elsewhere(link), "{link}");
    }
    for link in ["a.md", "a/b:c", "#a:b", "crate::a", "./a"] {
        assert!(!is_elsewhere(link), "{link}");
    }
}
