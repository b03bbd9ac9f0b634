//! The pages that `cargo doc` writes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::html;
use crate::target::{Target, decode, is_elsewhere, resolve};

/// Hosts that the documentation may lead to.
const HOSTS: &[&str] = &["doc.rust-lang.org", "docs.rs", "github.com", "grafana.com", "www.w3.org"];

/// Parts of a page that come from other crates, whose links are not ours to repair.
const FOREIGN: &[&str] = &["deref-methods-", "blanket-implementations"];

/// The libraries of the workspace that are documented, by the names of their folders.
pub(crate) fn crates(metadata: &serde_json::Value) -> BTreeSet<String> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    packages
        .flat_map(|package| package["targets"].as_array().into_iter().flatten())
        .filter(|target| target["doc"] == true && target["kind"][0] == "lib")
        .filter_map(|target| Some(target["name"].as_str()?.replace('-', "_")))
        .collect()
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    pub(crate) links: usize,
    pub(crate) broken: Vec<String>,
}

/// Goes from the first pages of these crates to all that they lead to, and looks at these links of
/// other files as well, by file. Pages that nothing leads to are not looked at.
pub(crate) fn walk(folder: &Path, crates: &BTreeSet<String>, others: &[(&str, &str)]) -> Walk {
    let mut walk = Walk::default();
    let mut pages: BTreeMap<String, html::Found> = BTreeMap::new();
    let mut next: Vec<String> = Vec::new();
    for name in crates {
        let first = format!("{name}/index.html");
        if folder.join(&first).is_file() {
            next.push(first);
        } else {
            walk.broken.push(format!("{first} is not there; make the documentation first"));
        }
    }
    // The pages are all read before any is looked at: a link may lead back, or ahead.
    while let Some(page) = next.pop() {
        if pages.contains_key(&page) {
            continue;
        }
        let found = read(&std::fs::read_to_string(folder.join(&page)).unwrap_or_default());
        let ahead = found
            .links
            .iter()
            .chain(&found.redirect)
            .filter(|link| !is_elsewhere(link))
            .filter_map(|link| resolve(&page, link));
        next.extend(
            ahead
                .map(|target| target.file)
                .filter(|file| file.ends_with(".html") && folder.join(file).is_file()),
        );
        pages.insert(page, found);
    }
    let of_pages = pages.iter().flat_map(|(page, found)| found.links.iter().map(|link| (&**page, &**link)));
    for (page, link) in of_pages.chain(others.iter().copied()) {
        walk.links += 1;
        if let Err(why) = look(folder, crates, &pages, page, link) {
            walk.broken.push(format!("{page}: {link}: {why}"));
        }
    }
    walk
}

/// What can be led to on a page, and where it leads itself.
fn read(text: &str) -> html::Found {
    let parts = text.split_inclusive("<h2 id=\"").enumerate();
    // Each part but the first begins with the name of its heading.
    let ours =
        parts.filter(|(number, part)| *number == 0 || !FOREIGN.iter().any(|name| part.starts_with(name)));
    let ours: String = ours.map(|(_, part)| part).collect();
    html::Found { links: html::read(&ours).links, ..html::read(text) }
}

/// What is shown where this page is asked for.
fn shown<'a>(pages: &'a BTreeMap<String, html::Found>, file: &str) -> Option<&'a html::Found> {
    let page = pages.get(file)?;
    match &page.redirect {
        Some(other) => pages.get(&resolve(file, other)?.file),
        None => Some(page),
    }
}

/// Where a link to docs.rs leads that names a crate of ours, once that is published.
pub(crate) fn published(link: &str, crates: &BTreeSet<String>) -> Option<Target> {
    let mut parts = link.strip_prefix("https://docs.rs/")?.splitn(4, '/');
    let (_package, _version, name, page) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    crates.contains(name).then_some(())?;
    let mut target = resolve(&format!("{name}/index.html"), page)?;
    if !target.file.ends_with(".html") {
        target.file.push_str("/index.html");
    }
    Some(target)
}

fn look(
    folder: &Path,
    crates: &BTreeSet<String>,
    pages: &BTreeMap<String, html::Found>,
    from: &str,
    link: &str,
) -> Result<(), &'static str> {
    let published = published(link, crates);
    if published.is_none() && is_elsewhere(link) {
        let host = link.split("//").nth(1).and_then(|rest| rest.split('/').next());
        return match host {
            Some(host) if HOSTS.contains(&host) => Ok(()),
            _ => Err("no host that is known"),
        };
    }
    // An item's path that rustdoc has left as it was. It refuses those of ours that name nothing,
    // so this one stands in the documentation of another crate's method; or it is ours all the
    // same, and the crate that has it had no folder yet.
    if let Some((first, _)) = link.split_once("::") {
        let is_ours = crates.contains(first);
        return if is_ours { Err("a crate without a page when this was written") } else { Ok(()) };
    }
    let target = published.or_else(|| resolve(from, link)).ok_or("this is outside of the documentation")?;
    if !folder.join(&target.file).is_file() {
        return Err("there is no such page");
    }
    match (shown(pages, &target.file), target.anchor) {
        (Some(page), Some(anchor)) if !anchor.is_empty() => {
            let is_code = target.file.starts_with("src/");
            // For readers of the screen, and missing on each page of code.
            if is_code && anchor == "main-content" {
                return Ok(());
            }
            // Lines of code: `#10`, or `#10-20`.
            let places: Vec<&str> = if is_code { anchor.split('-').collect() } else { vec![&anchor] };
            let is_there =
                |place: &str| page.anchors.contains(place) || page.anchors.contains(&decode(place));
            if places.into_iter().all(is_there) { Ok(()) } else { Err("there is no such place on the page") }
        }
        _ => Ok(()),
    }
}

#[test]
fn a_link_that_leads_nowhere_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let write = |file: &str, text: &str| {
        let path = folder.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let right = [
        "b.html#here",
        "moved.html#here",
        "../src/a/lib.rs.html#1-2",
        "https://docs.rs/x",
        "https://docs.rs/a/latest/a/b.html#here",
        "https://docs.rs/a/latest/a/",
        // In what another crate says of a method.
        "super::Other",
        "#method",
    ];
    let wrong = [
        "moved.html#there",
        "a::Own",
        "b.html#there",
        "c.html",
        "https://example.org",
        "https://docs.rs/a/latest/a/c.html",
        "../../x.html",
        "../src/a/lib.rs.html#1-3",
    ];
    let links: String = right.iter().chain(&wrong).map(|link| format!("<a href='{link}'>x</a>")).collect();
    write(
        "a/index.html",
        &format!(
            "<h2 id=\"deref-methods-X\"></h2><a href='foreign.html' id=method></a><h2 id=\"own\"></h2>{links}"
        ),
    );
    write("a/b.html", "<p id=here></p>");
    write("a/moved.html", "<meta content='0;URL=b.html'>");
    write("a/old.html", "<a href='gone.html'></a>");
    write("src/a/lib.rs.html", "<a href=#1 id=1>1</a><a href=#2 id=2>2</a>");
    let crates = BTreeSet::from(["a".to_owned(), "z".to_owned()]);
    let other = ("x.md", "https://docs.rs/a/latest/a/d/");
    let walk = walk(folder.path(), &crates, &[other]);
    let seen: Vec<&str> = walk.broken.iter().map(|line| line.split(": ").nth(1).unwrap_or(line)).collect();
    let missing = "z/index.html is not there; make the documentation first";
    assert_eq!(seen, [&[missing], &wrong[..], &[other.1]].concat());
    // Those, and two of the page of code.
    assert_eq!(walk.links, right.len() + wrong.len() + 1 + 2);
}
