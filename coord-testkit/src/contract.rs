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
