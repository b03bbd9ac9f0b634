//! What the kit says of itself: every rule has a case, no case is named twice, and a third party
//! needs no more than is promised.

use std::collections::{BTreeMap, BTreeSet};

use coord_testkit::Case;
use coord_testkit::contract::rules;
use coord_tests::cases::all;

/// Rules whose cases are still to come, with the crate that they are about. Empty is the aim.
const AWAITED: &[(&str, &str)] = &[];

/// The rules, as they stand in the contract, for which none of `cases` is there.
fn without<'a>(cases: impl IntoIterator<Item = &'a Case>) -> Vec<String> {
    let proven: BTreeSet<String> = cases.into_iter().map(|case| case.rule.to_uppercase()).collect();
    rules()
        .into_iter()
        .map(|rule| rule.number)
        .filter(|number| !proven.contains(&number.to_uppercase()))
        .collect()
}

#[test]
fn no_rule_is_without_a_case() {
    let awaited: Vec<&str> = AWAITED.iter().map(|(rule, _)| *rule).collect();
    assert_eq!(
        without(all()),
        awaited,
        "left: the rules of the contract that have no case; right: those that may still have none"
    );
}

#[test]
fn no_case_is_without_a_rule() {
    let rules = rules();
    let strays: Vec<&Case> = all().filter(|case| !rules.iter().any(|rule| rule.is(case.rule))).collect();
    assert!(strays.is_empty(), "{strays:#?}");
}

/// The check above can fail: it reads the contract from end to end, and misses what is not there.
#[test]
fn a_rule_without_a_case_is_listed() {
    assert_eq!(without([]).len(), rules().len());
    let (first, last) =
        (rules().first().map(|rule| rule.number.clone()), rules().last().map(|rule| rule.number.clone()));
    assert_eq!((first.as_deref(), last.as_deref()), (Some("R1"), Some("S6")));
    let missing = without(all().filter(|case| case.rule != "r12"));
    assert!(missing.contains(&"R12".to_owned()), "{missing:?}");
}

#[test]
fn no_case_is_named_twice() {
    let mut seen = BTreeMap::new();
    for case in all() {
        *seen.entry((case.rule, case.sentence)).or_insert(0) += 1;
    }
    seen.retain(|_, times| *times > 1);
    assert_eq!(seen, BTreeMap::new());
}

#[test]
fn every_rule_but_durability_has_a_case_that_any_store_can_run() {
    let mut only_persistent = without(all().filter(|case| case.need.is_none()));
    only_persistent.retain(|rule| !AWAITED.iter().any(|(awaited, _)| awaited == rule));
    assert_eq!(only_persistent, ["S6"]);
}

#[test]
fn names_read_as_sentences() {
    for case in all() {
        let words = case.sentence.split('_').count();
        assert!(words >= 3, "{}::{} says too little", case.rule, case.sentence);
    }
}

/// The promise to the author of a backend: twenty lines are all of the test, the guide shows them,
/// and no more than the public crates is needed.
#[test]
fn a_third_party_needs_twenty_lines_and_the_guide() {
    // Whoever writes a store has it in a file beside the test.
    let test = include_str!("third_party.rs").replace("use coord_tests::third_party as store;", "mod store;");
    assert!(test.lines().count() <= 20, "{} lines", test.lines().count());
    let code = test.split_once("\n\n").map_or(test.as_str(), |(_, code)| code);
    assert!(coord_api::guide::TEXT.contains(code), "the guide shows another test than this one:\n{code}");
    let store = include_str!("../src/third_party.rs");
    let guide = coord_api::guide::TEXT.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines = format!("a whole store in memory: {} lines with its comments", store.lines().count());
    assert!(guide.contains(&lines), "the guide does not say: {lines}");
    let mut ours: Vec<&str> = (test.split("coord_").skip(1)).chain(store.split("coord_").skip(1)).collect();
    ours.retain(|rest| {
        !["api", "core", "recipes", "testkit"].iter().any(|allowed| rest.starts_with(allowed))
    });
    assert!(ours.is_empty(), "{ours:?}");
}
