//! The board for Grafana shows something in each of its panels: promtool evaluates every expression
//! on what was scraped, in virtual time, from a provider that worked, lost something and resynced.
#![cfg(all(feature = "memory", feature = "grpc"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod scrapes;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use coord::grpc::{ChannelOptions, RegistryChannelExt as _};
use coord::memory::MemoryProvider;
use coord::prelude::*;
use coord::recipes::Home;
use coord::store::{Op, Range, Store, Txn};
use coord::{ConfigEvent, ConfigManager, ServiceInstance, WatchStart};
use serde_json::Value;

use scrapes::{Expected, INTERVAL, Scrapes, check_rules};

const TTL: Duration = Duration::from_secs(30);

/// What Grafana puts in the place of its variables.
const VARIABLES: [(&str, &str); 3] = [("$__rate_interval", "5m"), ("$job", "api"), ("$instance", "api-1")];

fn board() -> Value {
    serde_json::from_str(include_str!("../dashboards/coord.json")).expect("the board is no JSON")
}

/// The panels that show something.
fn panels(board: &Value) -> Vec<&Value> {
    let all = board["panels"].as_array().unwrap();
    all.iter().filter(|panel| panel["type"] != "row").collect()
}

/// A text of the board, which must not be empty.
fn text<'a>(of: &'a Value, at: &str) -> &'a str {
    let text = of.pointer(at).and_then(Value::as_str).unwrap_or_default();
    assert!(!text.is_empty(), "no {at} in {of:#}");
    text
}

/// The texts that stand between these two.
fn between<'a>(text: &'a str, open: &str, close: &str) -> BTreeSet<&'a str> {
    text.split(open).skip(1).map(|rest| rest.split(close).next().unwrap().trim()).collect()
}

fn with_values(expression: &str) -> String {
    let expression =
        VARIABLES.iter().fold(expression.to_owned(), |text, (name, value)| text.replace(name, value));
    assert!(!expression.contains('$'), "a variable without a value: {expression}");
    expression
}

/// Each expression of the board, and the labels that its series must have.
fn expressions(board: &Value) -> Vec<(String, BTreeSet<&str>)> {
    let mut expressions = Vec::new();
    for panel in panels(board) {
        for target in panel["targets"].as_array().unwrap() {
            let labels = between(text(target, "/legendFormat"), "{{", "}}");
            expressions.push((with_values(text(target, "/expr")), labels));
        }
    }
    for variable in board["templating"]["list"].as_array().unwrap() {
        if variable["type"] == "query" {
            let query = text(variable, "/query/query");
            let values = query.strip_prefix("label_values(").and_then(|query| query.strip_suffix(')'));
            let (selector, label) = values.and_then(|values| values.rsplit_once(", ")).expect(query);
            expressions.push((with_values(selector), BTreeSet::from([label])));
        }
    }
    expressions
}

/// What each must give: some series, and each label on some of them.
fn expected(expressions: &[(String, BTreeSet<&str>)], at: Duration) -> Vec<Expected> {
    let mut expected = Vec::new();
    let mut some = |expression: String| {
        let expression = format!("count({expression}) > bool 0");
        expected.push(Expected { expression, at, samples: vec![("{}".to_owned(), 1)] });
    };
    for (expression, labels) in expressions {
        some(expression.clone());
        for label in labels {
            some(format!(
                r#"label_replace({expression}, "has", "it", "{label}", ".+")
                and on (has) label_replace(vector(1), "has", "it", "", "")"#
            ));
        }
    }
    expected
}

/// A provider that works, loses a lock and a watch's history, and follows a configuration.
async fn an_eventful_day(scrapes: &mut Scrapes) {
    let coord = MemoryProvider::new();
    let other = coord.client();
    let manager = ConfigManager::<u32>::builder(Arc::clone(coord.config()), "api", "limit")
        .env("test")
        .build()
        .unwrap();
    manager.start().await;
    // In virtual time, as the rest.
    let options = ChannelOptions::default().with_home(Home::callers());
    let channel = coord.registry().channel_with("nobody", options).unwrap();
    let registration =
        coord.registry().register(ServiceInstance::new("api", "a1", "10.0.0.1", 80)).await.unwrap();
    let mut watch = coord.config().watch_raw("app/", WatchStart::Now).await.unwrap();
    let guard = coord.lock().acquire("job", TTL).await.unwrap();
    coord.config().set("test/api/limit", &5).await.unwrap();
    scrapes.pass(INTERVAL * 8).await;

    let entry = coord.store().range(Range::prefix("/locks/job/")).await.unwrap().entries.remove(0);
    coord.store().txn(Txn::new().then(Op::delete(entry.key))).await.unwrap();
    let _ = guard.lost().await;
    coord.config().set("test/api/limit", "none").await.unwrap();
    scrapes.pass(INTERVAL * 2).await;

    coord.disconnect();
    other.config().set("app/a", &1).await.unwrap();
    other.config().set("app/a", &2).await.unwrap();
    let head = other.config().list_raw("app").await.unwrap().revision;
    other.compact(head).await.unwrap();
    coord.reconnect();
    assert!(matches!(watch.next().await, Some(Ok(ConfigEvent::Resync(_)))));
    scrapes.pass(INTERVAL * 2).await;
    drop((manager, channel, registration, watch));
}

#[test]
fn every_panel_says_what_it_shows() {
    let board = board();
    assert!(board["schemaVersion"].as_u64().unwrap() >= 39);
    let panels = panels(&board);
    assert!(panels.len() > 10);
    for panel in panels {
        for at in ["/title", "/description", "/fieldConfig/defaults/unit"] {
            text(panel, at);
        }
        assert_eq!(panel["options"]["legend"]["showLegend"], true, "{}", panel["title"]);
        assert_eq!(text(panel, "/datasource/uid"), "${datasource}");
        for target in panel["targets"].as_array().unwrap() {
            assert_eq!(text(target, "/datasource/uid"), "${datasource}");
            let (legend, expression) = (text(target, "/legendFormat"), text(target, "/expr"));
            let mut parted: BTreeSet<&str> =
                between(expression, "by (", ")").iter().flat_map(|labels| labels.split(", ")).collect();
            parted.remove("le");
            assert_eq!(between(legend, "{{", "}}"), parted, "the legend tells apart what is: {expression}");
        }
    }
    let mut ids: Vec<u64> =
        board["panels"].as_array().unwrap().iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    ids.sort_unstable();
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "no two panels have one id: {ids:?}");
}

#[test]
fn every_expression_is_one() {
    let mut rules = "groups:\n- name: board\n  rules:\n".to_owned();
    for (number, (expression, _)) in expressions(&board()).iter().enumerate() {
        writeln!(rules, "  - record: expression_{number}\n    expr: '{}'", expression.replace('\'', "''"))
            .unwrap();
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("rules.yml");
    std::fs::write(&file, rules).unwrap();
    assert_eq!(check_rules(&file), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn every_metric_and_label_is_one_that_is_scraped() {
    let mut scrapes = Scrapes::begin();
    an_eventful_day(&mut scrapes).await;
    let board = board();
    let expressions = expressions(&board);
    if let Err(said) = scrapes.evaluate(None, &expected(&expressions, scrapes.now())) {
        panic!("{said}");
    }
    // A name that is wrong is seen: of a metric, of a label that is asked for, of one in a legend.
    for (right, wrong) in
        [("coord_watches{", "coord_watch{"), ("job=", "jobs="), ("by (state)", "by (status)")]
    {
        let (expression, labels) =
            expressions.iter().find(|(expression, _)| expression.contains("coord_watches{")).unwrap();
        assert!(expression.contains(right), "{expression}");
        let misspelt = [(expression.replace(right, wrong), labels.clone())];
        assert!(scrapes.evaluate(None, &expected(&misspelt, scrapes.now())).is_err(), "{misspelt:?}");
    }
}
