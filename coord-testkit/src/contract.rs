//! The rules themselves, as the contract lists them.

use serde::{Deserialize, Serialize};

/// A rule of the contract.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Its number: `R12`, `S4`.
    pub number: String,
    /// What it is about, in a few words: `Compare-and-set`.
    pub title: String,
}

impl Rule {
    /// Whether `rule`, as the cases write it (`r12`), is this one.
    pub fn is(&self, rule: &str) -> bool {
        self.number.eq_ignore_ascii_case(rule)
    }
}

/// Every rule, in the contract's order. It is read from the text of the contract
/// ([`coord_api::rules`]), so that a new rule is known at once.
pub fn rules() -> Vec<Rule> {
    coord_api::rules::TEXT.lines().filter_map(rule).collect()
}

/// The text of a rule, as the cases write its number (`r12`): all that the contract says of it.
pub fn text(rule: &str) -> Option<String> {
    let mut lines =
        coord_api::rules::TEXT.lines().skip_while(|line| !self::rule(line).is_some_and(|own| own.is(rule)));
    let first = lines.next()?.strip_prefix("- ")?;
    let rest = lines.take_while(|line| line.starts_with("  "));
    Some(std::iter::once(first).chain(rest.map(str::trim_start)).collect::<Vec<_>>().join("\n"))
}

/// The rule that begins on a line, such as `- R12 Compare-and-set. Succeeds iff …`.
fn rule(line: &str) -> Option<Rule> {
    let (number, text) = line.strip_prefix("- ")?.split_once(' ')?;
    let digits = number.strip_prefix(['R', 'S'])?;
    if !digits.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    // What it is about ends where it begins to say what is so.
    let title = text.split(['.', ':', ';']).next()?;
    Some(Rule { number: number.to_owned(), title: title.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_has_its_whole_text() {
        let text = text("r13").unwrap_or_default();
        assert!(text.starts_with("R13 Delete. Says whether the key existed."), "{text}");
        assert!(text.ends_with("obeys R12."), "{text}");
        let long = super::text("s4").unwrap_or_default();
        assert!(long.contains("\n") && !long.contains("S5 Lease"), "{long}");
        assert_eq!(super::text("r99"), None);
    }

    #[test]
    fn a_rule_begins_a_line() {
        let found = |line| rule(line).map(|rule| (rule.number, rule.title));
        let expected = |number: &str, title: &str| Some((number.to_owned(), title.to_owned()));
        assert_eq!(found("- R9a Sessions. One lease per TTL."), expected("R9a", "Sessions"));
        assert_eq!(found("- S4 Watch. Says at which revision"), expected("S4", "Watch"));
        assert_eq!(
            found("- R23 `current()` never blocks: the default"),
            expected("R23", "`current()` never blocks")
        );
        for other in
            ["  R12 names an earlier rule. So.", "## Stores", "- Renewal. Every third", "- R Title. Text"]
        {
            assert_eq!(found(other), None, "{other}");
        }
    }
}
