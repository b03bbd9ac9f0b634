//! The rules of the config centre, of its watches and of what follows it, for an instance that gray
//! releases may be for: all holds as without.

use std::sync::Arc;

use coord_testkit::{Case, Harness, Need, Verdict, run};
use coord_tests::cases::all;
use coord_tests::harness::gray;

/// The rules that it may break.
const RULES: [&str; 22] = [
    "r1", "r2", "r4", "r5", "r6", "r8", "r10", "r11", "r12", "r13", "r14", "r15", "r16", "r17", "r18", "r19",
    "r20", "r21", "r22", "r23", "r24", "r67",
];

/// Cases that count the watches of a plain config centre: an instance has two.
const COUNTED: &[&str] = &["a_thousand_documents_are_one_watch_and_reads_are_none"];

#[test]
fn the_config_centre_of_an_instance_keeps_its_rules() {
    let is_meant = |case: &&'static Case| {
        RULES.contains(&case.rule) && case.need != Some(Need::persistent) && !COUNTED.contains(&case.sentence)
    };
    let mut ran = 0;
    let mut failed = Vec::new();
    for case in all().filter(is_meant) {
        match run(case, async { Arc::new(gray::start()) as Arc<dyn Harness> }) {
            Verdict::Passed => ran += 1,
            Verdict::NotRun(_) => {}
            Verdict::Failed(why) => failed.push(format!("{}::{}: {why}", case.rule, case.sentence)),
        }
    }
    assert!(failed.is_empty(), "{} passed; failed: {failed:#?}", ran);
    assert!(ran > 100, "only {ran} cases ran");
}
