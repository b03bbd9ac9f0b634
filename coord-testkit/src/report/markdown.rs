//! A report as a page for people.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::{Backend, Report, RuleResult};
use crate::contract::Rule;
use crate::run::Verdict;

/// How many characters the page shows of what a failed case saw. The JSON has all of it.
const LONGEST: usize = 2_000;

/// The whole page.
pub(super) fn page(report: &Report) -> String {
    let mut page = String::from("# Conformance\n\n");
    // Writing to a string cannot fail.
    let _ = write(&mut page, report);
    page
}

fn write(page: &mut String, report: &Report) -> std::fmt::Result {
    writeln!(
        page,
        "What coord-testkit found, rule by rule. Times are seconds by the clock on the wall, of a run for a backend and of the longest run for the cases of a rule. What did not run is not proven.\n"
    )?;
    matrix(page, report)?;
    failed(page, report)?;
    not_run(page, report)
}

fn matrix(page: &mut String, report: &Report) -> std::fmt::Result {
    let row = |page: &mut String, first: String, cell: &dyn Fn(&Backend) -> String| {
        write!(page, "| {first} |")?;
        report.backends.iter().try_for_each(|backend| write!(page, " {} |", cell(backend)))?;
        writeln!(page)
    };
    row(page, "rule".to_owned(), &|backend| escaped(&backend.name))?;
    row(page, "---".to_owned(), &|_| "---".to_owned())?;
    row(page, "**server**".to_owned(), &|backend| {
        backend.server.as_deref().map_or_else(|| "none".to_owned(), escaped)
    })?;
    row(page, "**kit**".to_owned(), &|backend| format!("{}, {}", backend.kit_version, seeds(backend)))?;
    if report.backends.iter().any(|backend| backend.only.is_some()) {
        row(page, "**cases**".to_owned(), &|backend| {
            backend
                .only
                .as_deref()
                .map_or_else(|| "all".to_owned(), |part| format!("only `{}`", escaped(part)))
        })?;
    }
    row(page, "**all**".to_owned(), &|backend| {
        let counts = backend.counts;
        format!("{} passed, {} failed, {} not run", counts.passed, counts.failed, counts.not_run)
    })?;
    row(page, "**runs**".to_owned(), &|backend| {
        format!(
            "{} failed of {}, {:.1} s each",
            backend.failed_runs,
            backend.runs,
            backend.seconds / f64::from(backend.runs.max(1))
        )
    })?;
    // Kits of different versions may know different rules.
    let mut rules: Vec<&Rule> = Vec::new();
    for result in report.backends.iter().flat_map(|backend| &backend.rules) {
        if !rules.iter().any(|known| known.number == result.rule.number) {
            rules.push(&result.rule);
        }
    }
    for rule in rules {
        row(page, format!("**{}** {}", rule.number, escaped(&rule.title)), &|backend| {
            cell(backend, &rule.number)
        })?;
    }
    Ok(())
}

fn seeds(backend: &Backend) -> String {
    match u64::from(backend.runs) {
        0 | 1 => format!("seed {}", backend.seed),
        runs => format!("seeds {} to {}", backend.seed, backend.seed.saturating_add(runs - 1)),
    }
}

/// A rule on a backend: `✔ 9 (0.2 s)`, `✘ 2 of 9 (0.2 s)`, `– not run`.
fn cell(backend: &Backend, number: &str) -> String {
    let Some(result) = backend
        .rules
        .iter()
        .find(|result| result.rule.number == number)
        .filter(|result| !result.cases.is_empty())
    else {
        return if backend.only.is_some() { "– left out" } else { "– no case" }.to_owned();
    };
    let counts = result.counts;
    let ran = counts.passed + counts.failed;
    if ran == 0 {
        return "– not run".to_owned();
    }
    let mut cell =
        if counts.failed > 0 { format!("✘ {} of {ran}", counts.failed) } else { format!("✔ {ran}") };
    if counts.not_run > 0 {
        cell.push_str(&format!(", {} not run", counts.not_run));
    }
    let seconds: f64 = result.cases.iter().map(|case| case.seconds).sum();
    cell.push_str(&format!(" ({seconds:.2} s)"));
    cell
}

/// What failed: what was seen, and how to see it again.
fn failed(page: &mut String, report: &Report) -> std::fmt::Result {
    writeln!(page, "\n## Failed\n")?;
    if !report.failed() {
        return writeln!(page, "Nothing.");
    }
    for (backend, result, case) in cases(report) {
        let (Verdict::Failed(why), Some(failures)) = (&case.verdict, &case.failures) else { continue };
        let runs = if backend.runs > 1 {
            format!(", {} of {} runs", failures.count, backend.runs)
        } else {
            String::new()
        };
        writeln!(page, "- **{}** on {}: `{}`{runs}", result.rule.number, backend.name, case.case)?;
        let shown: String = why.chars().take(LONGEST).collect();
        let cut = if shown.len() < why.len() { "\n…" } else { "" };
        let fenced = format!(
            "```text\n{shown}{cut}\n```\nAgain: `COORD_TESTKIT_SEED={} {} {}`\n",
            failures.seed, backend.replay, case.case
        );
        fenced.lines().try_for_each(|line| writeln!(page, "  {line}"))?;
    }
    Ok(())
}

/// What was not run, by reason.
fn not_run(page: &mut String, report: &Report) -> std::fmt::Result {
    let mut reasons: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for (backend, _, case) in cases(report) {
        if let Verdict::NotRun(why) = &case.verdict {
            reasons.entry((&backend.name, why)).or_default().push(&case.case);
        }
    }
    writeln!(page, "\n## Not run\n")?;
    if reasons.is_empty() {
        writeln!(page, "Nothing.")?;
    }
    for ((backend, why), cases) in reasons {
        writeln!(
            page,
            "- {backend}: {why}. {}",
            cases.iter().map(|case| format!("`{case}`")).collect::<Vec<_>>().join(", ")
        )?;
    }
    Ok(())
}

/// Every case of every backend.
fn cases(report: &Report) -> impl Iterator<Item = (&Backend, &RuleResult, &super::CaseResult)> {
    report.backends.iter().flat_map(|backend| {
        backend
            .rules
            .iter()
            .flat_map(move |result| result.cases.iter().map(move |case| (backend, result, case)))
    })
}

/// Text that does not end its cell.
fn escaped(text: &str) -> String {
    text.replace('|', "\\|")
}
