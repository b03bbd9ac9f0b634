//! Every rule has a case, and no case is named twice.

use std::collections::{BTreeMap, BTreeSet};

use coord_testkit::{Case, cases};

#[macro_use]
mod manager;

/// The kit's cases, and those of the config manager.
fn all() -> impl Iterator<Item = &'static Case> {
    cases().chain(manager::CASES)
}

/// The rules that this form of the kit proves: the whole contract but R40, which is about a channel that follows a registry.
fn rules() -> BTreeSet<String> {
    let contracts = (1..=44).filter(|rule| *rule != 40).map(|rule| format!("r{rule}"));
    contracts.chain(["r9a".to_owned()]).chain((1..=6).map(|rule| format!("s{rule}"))).collect()
}

#[test]
fn every_rule_has_a_case_and_every_case_a_rule() {
    let proven: BTreeSet<String> = all().map(|case| case.rule.to_owned()).collect();
    assert_eq!(proven, rules());
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
    let any_store: BTreeSet<&str> = all().filter(|case| case.need.is_none()).map(|case| case.rule).collect();
    let only_persistent: Vec<String> = rules().into_iter().filter(|rule| !any_store.contains(rule.as_str())).collect();
    assert_eq!(only_persistent, ["s6"]);
}

#[test]
fn names_read_as_sentences() {
    for case in all() {
        let words = case.sentence.split('_').count();
        assert!(words >= 3, "{}::{} says too little", case.rule, case.sentence);
    }
}
