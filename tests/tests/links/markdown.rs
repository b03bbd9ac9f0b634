//! The Markdown files of the repository, as GitHub shows them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use pulldown_cmark::{BrokenLink, CowStr, Event, LinkType, Options, Parser, Tag, TagEnd};

use crate::html;
use crate::target::{is_elsewhere, resolve};

/// Where GitHub shows what lies in the repository.
const REPOSITORY: [&str; 2] =
    ["https://github.com/coord-rs/coord/blob/main/", "https://github.com/coord-rs/coord/tree/main/"];

/// A link, and the line that it stands in.
#[derive(Debug, PartialEq, Eq)]
struct Link {
    line: usize,
    to: String,
}

/// One file.
#[derive(Debug, Default)]
struct Page {
    links: Vec<Link>,
    /// Named in brackets, and defined nowhere.
    undefined: Vec<Link>,
    anchors: BTreeSet<String>,
}

impl Page {
    fn read(text: &str) -> Self {
        let line = |at: usize| 1 + text[..at].matches('\n').count();
        let mut page = Page::default();
        let mut undefined = Vec::new();
        let mut note = |broken: BrokenLink<'_>| -> Option<(CowStr<'_>, CowStr<'_>)> {
            // `[x]` alone is text where nothing defines it.
            if broken.link_type != LinkType::Shortcut {
                undefined.push(Link { line: line(broken.span.start), to: broken.reference.into_string() });
            }
            None
        };
        let options = Options::ENABLE_TABLES | Options::ENABLE_FOOTNOTES | Options::ENABLE_STRIKETHROUGH;
        let events = Parser::new_with_broken_link_callback(text, options, Some(&mut note)).into_offset_iter();
        let mut heading: Option<String> = None;
        let mut times: BTreeMap<String, usize> = BTreeMap::new();
        for (event, place) in events {
            match event {
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => {
                    let name = anchor(&heading.take().unwrap_or_default());
                    let before = times.entry(name.clone()).or_default();
                    page.anchors.insert(if *before == 0 { name } else { format!("{name}-{before}") });
                    *before += 1;
                }
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    page.links.push(Link { line: line(place.start), to: dest_url.into_string() });
                }
                Event::Text(text) | Event::Code(text) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&text);
                    }
                }
                Event::Html(code) | Event::InlineHtml(code) => {
                    let found = html::read(&code);
                    page.anchors.extend(found.anchors);
                    let at = line(place.start);
                    page.links.extend(found.links.into_iter().map(|to| Link { line: at, to }));
                }
                _ => {}
            }
        }
        page.undefined = undefined;
        page
    }
}

/// The name that GitHub gives a heading, when it is the first of this text.
fn anchor(heading: &str) -> String {
    heading
        .trim()
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

/// All files of the repository, and what stands in those that are Markdown.
#[derive(Debug)]
pub(crate) struct Pages {
    files: BTreeSet<String>,
    pages: BTreeMap<String, Page>,
    /// Those that rustdoc shows as documentation.
    mounted: BTreeSet<String>,
}

impl Pages {
    pub(crate) fn read(root: &Path, files: Vec<String>) -> Self {
        let read = |file: &String| std::fs::read_to_string(root.join(file)).unwrap();
        let of_kind = |ending: &'static str| files.iter().filter(move |file| file.ends_with(ending));
        let pages = of_kind(".md").map(|file| (file.clone(), Page::read(&read(file)))).collect();
        let mounted = of_kind(".rs").flat_map(|file| mounts(file, &read(file))).collect();
        Pages { pages, mounted, files: files.into_iter().collect() }
    }

    /// Every link, and the file that it stands in.
    pub(crate) fn links(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pages.iter().flat_map(|(file, page)| page.links.iter().map(|link| (&**file, &*link.to)))
    }

    /// The links that lead nowhere.
    pub(crate) fn broken(&self) -> Vec<String> {
        let mut broken = Vec::new();
        for (file, page) in &self.pages {
            let mounted = self.mounted.contains(file);
            let mut complain = |link: &Link, why: &str| {
                broken.push(format!("{file}:{}: {}: {why}", link.line, link.to));
            };
            for link in &page.links {
                // Of what is named so, rustdoc says whether it is there.
                if mounted && is_item(&link.to) {
                    continue;
                }
                if let Err(why) = self.look(file, &link.to) {
                    complain(link, why);
                }
            }
            for link in page.undefined.iter().filter(|_| !mounted) {
                complain(link, "nothing defines this reference");
            }
        }
        broken
    }

    fn look(&self, from: &str, link: &str) -> Result<(), &'static str> {
        let ours = REPOSITORY.iter().find_map(|place| link.strip_prefix(place));
        let target = match ours {
            Some(path) => resolve("", path),
            None if is_elsewhere(link) => return Ok(()),
            None => resolve(from, link),
        };
        let target = target.ok_or("this is outside of the repository")?;
        let folder = format!("{}/", target.file);
        let is_folder = target.file.is_empty() || self.files.iter().any(|file| file.starts_with(&folder));
        if !is_folder && !self.files.contains(&target.file) {
            return Err("there is no such file");
        }
        let Some(anchor) = target.anchor else { return Ok(()) };
        let shown = if is_folder { format!("{folder}README.md") } else { target.file };
        match self.pages.get(shown.trim_start_matches('/')) {
            Some(page) if page.anchors.contains(&anchor) => Ok(()),
            Some(_) => Err("there is no such heading"),
            None => Err("a place in a file that has no headings"),
        }
    }
}

/// Whether a link of a page that rustdoc shows names an item, as in `crate::open` or `Channel`.
fn is_item(link: &str) -> bool {
    let path = link.split('#').next().unwrap_or_default();
    !path.is_empty()
        && path.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | ':' | '@' | '!' | '(' | ')'))
}

/// The pages that a file of Rust shows as documentation; not those that it only compiles.
fn mounts(file: &str, code: &str) -> Vec<String> {
    let lines: Vec<&str> = code.lines().map(str::trim).collect();
    let after_all = std::iter::once("").chain(lines.iter().copied());
    let mounted = after_all.zip(&lines).filter_map(|(before, line)| {
        let (start, rest) = line.split_once("doc = include_str!(\"")?;
        (start.starts_with('#') && before != "#[cfg(doctest)]").then_some(())?;
        Some(resolve(file, rest.split('"').next()?)?.file)
    });
    mounted.collect()
}

#[test]
fn headings_are_named_as_github_does() {
    let page = Page::read("# A `b::c`, d!\n\n## Zwölf – x_y\n\n## Twice\n\n## Twice\n\n<a id=\"own\"></a>\n");
    let named: Vec<&str> = page.anchors.iter().map(String::as_str).collect();
    assert_eq!(named, ["a-bc-d", "own", "twice", "twice-1", "zwölf--x_y"]);
}

#[test]
fn a_link_that_leads_nowhere_is_seen() {
    let text = "# Top\n\n[1](b/c.md) [2](b/c.md#in-c) [3](b) [4](#top) [5][ref] [`Item`] [6](crate::x)\n\
                <https://docs.rs/nothing>\n\n[ref]: b/#in-readme\n\n```\n[no link](x.md)\n```\n\n\
                [bad 1](b/d.md) [bad 2](b/c.md#out-of-c) [bad 3](#bottom) [bad 4][nobody] [bad 5](../a.md)\n\
                [bad 6](https://github.com/coord-rs/coord/blob/main/b/d.md) [bad 7](crate::y)";
    let page = |text| Page::read(text);
    let pages = BTreeMap::from([
        ("a.md".to_owned(), page(text)),
        ("b/c.md".to_owned(), page("# In c")),
        ("b/README.md".to_owned(), page("# In README")),
    ]);
    let files = pages.keys().cloned().collect();
    let mut pages = Pages { files, pages, mounted: BTreeSet::new() };
    let lines = |broken: &[String]| -> Vec<String> {
        broken.iter().map(|line| line.split(": ").nth(1).unwrap().to_owned()).collect()
    };
    let wrong = ["b/d.md", "b/c.md#out-of-c", "#bottom", "../a.md"];
    let whole = "https://github.com/coord-rs/coord/blob/main/b/d.md";
    assert_eq!(lines(&pages.broken()), [&["crate::x"], &wrong[..], &[whole, "crate::y", "nobody"]].concat());
    // What rustdoc shows has links that it looks at itself.
    pages.mounted.insert("a.md".to_owned());
    assert_eq!(lines(&pages.broken()), [&wrong[..], &[whole]].concat());
}

#[test]
fn what_is_only_compiled_is_not_mounted() {
    let code = "#![doc = include_str!(\"../A.md\")]\n\n#[cfg(doctest)]\n#[doc = include_str!(\"../B.md\")]\nstruct B;";
    assert_eq!(mounts("x/src/lib.rs", code), ["x/A.md"]);
}
