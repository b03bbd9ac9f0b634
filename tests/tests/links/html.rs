//! What is needed of HTML: where it leads, and what it can be led to.

use std::collections::BTreeSet;

/// The links of a text, and the names that its elements have.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) links: Vec<String>,
    pub(crate) anchors: BTreeSet<String>,
    /// The page that is shown instead, at the same place in it.
    pub(crate) redirect: Option<String>,
}

/// Reads a text. What is no HTML in it is passed over.
pub(crate) fn read(text: &str) -> Found {
    let mut found = Found::default();
    let mut rest = text;
    while let Some((_, tag)) = rest.split_once('<') {
        rest = tag;
        let name_ends = tag.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(tag.len());
        let (name, mut attributes) = tag.split_at(name_ends);
        if name.is_empty() {
            continue;
        }
        while let Some((attribute, value, after)) = attribute(attributes) {
            match attribute {
                "href" if name == "a" => found.links.push(unescape(value)),
                "src" if name == "img" => found.links.push(unescape(value)),
                "id" => drop(found.anchors.insert(unescape(value))),
                // `<meta http-equiv="refresh" content="0;URL=other.html">`
                "content" if name == "meta" => {
                    let redirect = value.split_once(";URL=").map(|(_, page)| unescape(page));
                    found.redirect = found.redirect.or(redirect);
                }
                "name" if name == "a" => drop(found.anchors.insert(unescape(value))),
                _ => {}
            }
            attributes = after;
        }
        rest = attributes;
        if matches!(name, "script" | "style") {
            let closing = format!("</{name}");
            rest = rest.find(&closing).map_or("", |at| &rest[at..]);
        }
    }
    found
}

/// The next attribute of a tag with its value, and what follows it; `None` at the tag's end.
fn attribute(text: &str) -> Option<(&str, &str, &str)> {
    let text = text.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '/');
    let name_ends = text.find(|c: char| c.is_ascii_whitespace() || matches!(c, '=' | '>' | '/' | '<'))?;
    let (name, after) = text.split_at(name_ends);
    if name.is_empty() {
        return None;
    }
    let Some(value) = after.strip_prefix('=') else { return Some((name, "", after)) };
    for quote in ['"', '\''] {
        if let Some(value) = value.strip_prefix(quote) {
            let (value, after) = value.split_once(quote)?;
            return Some((name, value, after));
        }
    }
    let value_ends = value.find(|c: char| c.is_ascii_whitespace() || c == '>')?;
    let (value, after) = value.split_at(value_ends);
    Some((name, value, after))
}

fn unescape(text: &str) -> String {
    text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&#39;", "'")
        .replace("&#x27;", "'")
        .replace("&amp;", "&")
}

#[test]
fn links_and_names_are_read_and_nothing_else() {
    let found = read(
        "<p id=\"a\">1 < 2 <a class='x' href=\"b.html#c&amp;d\">text</a><a href=#5 id=5 data-x>5</a>\
         <script src='never'>\"<a href='never'>\"</script><link href='never'><img src='e.svg'/><a name=\"f\"></a></p><meta content=\"0;URL=g.html\">",
    );
    assert_eq!(found.links, ["b.html#c&d", "#5", "e.svg"]);
    assert_eq!(found.redirect.as_deref(), Some("g.html"));
    assert_eq!(found.anchors.iter().map(String::as_str).collect::<Vec<_>>(), ["5", "a", "f"]);
}
