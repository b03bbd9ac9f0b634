//! One record as one line.

use std::fmt;
use std::io;
use std::time::Duration;

use coord_service::trace::{self, TraceContext};
use proptest::prelude::*;
use serde_json::Value;
use tracing::{Level, field, info, info_span, warn};

use crate::{json, lines, plain_text, written};

#[test]
fn a_line_of_json_has_on_top_what_every_record_has() {
    let context = TraceContext::new().with_request_id("r-1");
    let at = line!() + 3;
    let lines = lines(json(), |_| {
        trace::in_scope(context.clone(), || {
            info_span!("send", room = 7).in_scope(|| info!(user = "ada", "said {}", "hello"));
        });
    });
    let line = &lines[0];
    assert_eq!(line["level"], "INFO");
    assert_eq!(line["message"], "said hello");
    assert_eq!(line["service"], "im-logic");
    assert_eq!(line["trace_id"], context.trace_id().to_string());
    assert_eq!(line["span_id"], context.span_id().to_string());
    assert_eq!(line["request_id"], "r-1");
    assert_eq!(line["caller"], format!("{}:{at}", file!()));
    assert_eq!(line["target"], "clog::form");
    assert_eq!(line["span"], "send");
    assert_eq!((&line["user"], &line["room"]), (&"ada".into(), &7.into()));
    let time = line["time"].as_str().unwrap();
    assert!(time.len() == 27 && time.starts_with("20") && time.ends_with('Z'), "{time}");
    assert_eq!(line.0.len(), 12);
}

#[test]
fn outside_of_a_trace_there_are_no_ids_and_a_span_remembers_its_own() {
    let context = TraceContext::new();
    let lines = lines(json(), |_| {
        info!("none");
        // Where the program has its own it stays.
        info!(trace_id = "mine", "own");
        let span = trace::in_scope(context.clone(), || info_span!("work"));
        std::thread::scope(|scope| {
            let dispatch = tracing::dispatcher::get_default(Clone::clone);
            scope.spawn(move || {
                tracing::dispatcher::with_default(&dispatch, || {
                    span.in_scope(|| info!(trace_id = "mine", "on a thread"));
                });
            });
        });
    });
    assert_eq!(lines[0]["trace_id"], Value::Null);
    assert_eq!(lines[1]["trace_id"], "mine");
    assert_eq!(lines[2]["trace_id"], context.trace_id().to_string());
    assert_eq!(lines[2]["field.trace_id"], "mine");
}

#[test]
fn a_name_stands_once_and_the_nearest_counts() {
    let lines = lines(json(), |_| {
        let outer = info_span!("outer", a = "outer", b = "outer", c = "outer", late = field::Empty);
        let inner = info_span!(parent: &outer, "inner", b = "inner", c = "inner", level = "high");
        outer.record("late", 1);
        outer.record("late", 2);
        inner.in_scope(|| info!(c = "event", d = 1, d = 2, message = "m", time = "never", "q\"q" = true));
    });
    let line = &lines[0];
    assert_eq!((&line["a"], &line["b"], &line["c"]), (&"outer".into(), &"inner".into(), &"event".into()));
    assert_eq!((&line["d"], &line["late"]), (&2.into(), &2.into()));
    assert_eq!((&line["level"], &line["field.level"]), (&"INFO".into(), &"high".into()));
    assert_eq!((&line["field.time"], &line["q\"q"]), (&"never".into(), &true.into()));
    assert_eq!(line["message"], "m");
}

#[test]
fn every_value_is_right_in_json() {
    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] io::Error);
    let error = Outer(io::Error::other("in\nner"));
    let lines = lines(json(), |_| {
        info!(
            nan = f64::NAN,
            inf = f64::INFINITY,
            float = 0.1,
            whole = 1.0,
            small = i64::MIN,
            large = u64::MAX,
            huge = u128::MAX,
            fits = 5_i128,
            text = "a\"\\\u{0}\u{1b}[31m\u{2028}\r\n",
            debug = ?Some("x"),
            display = %"d\te",
            none = None::<u32>,
            error = &error as &dyn std::error::Error,
            "line\nfeed {}", '\u{7}'
        );
        tracing::event!(Level::INFO, message = 5);
        info!({ long = "é".repeat(20_000) });
    });
    let line = &lines[0];
    assert_eq!((&line["nan"], &line["inf"]), (&"NaN".into(), &"inf".into()));
    assert_eq!((&line["float"], &line["whole"]), (&0.1.into(), &1.0.into()));
    assert_eq!((&line["small"], &line["large"]), (&i64::MIN.into(), &u64::MAX.into()));
    assert_eq!((&line["huge"], &line["fits"]), (&u128::MAX.to_string().into(), &5.into()));
    assert_eq!(line["text"], "a\"\\\u{0}\u{1b}[31m\u{2028}\r\n");
    assert_eq!((&line["debug"], &line["display"]), (&"Some(\"x\")".into(), &"d\te".into()));
    assert_eq!((&line["error"], &line["none"]), (&"outer: in\nner".into(), &Value::Null));
    assert_eq!(line["message"], "line\nfeed \u{7}");
    assert_eq!(lines[1]["message"], "5");
    assert_eq!(lines[2]["long"].as_str().unwrap(), "é".repeat(8 * 1024) + "…");
    assert_eq!(lines[2]["message"], "");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_recorded_is_one_line_and_is_read_again(
        text: String, shown: String, float: f64, number: i64, huge: i128, message: String,
    ) {
        let record = || {
            info_span!("s", in_span = text.as_str(), number, shown_in_span = %shown)
                .in_scope(|| info!(text = text.as_str(), %shown, float, number, huge, "{message}"));
        };
        let lines = lines(json(), |_| record());
        prop_assert_eq!(lines.len(), 1);
        let line = &lines[0];
        prop_assert_eq!(&line["text"], text.as_str());
        prop_assert_eq!(&line["in_span"], text.as_str());
        prop_assert_eq!(&line["shown"], shown.as_str());
        prop_assert_eq!(&line["shown_in_span"], shown.as_str());
        prop_assert_eq!(&line["message"], message.as_str());
        prop_assert_eq!(&line["number"], number);
        if float.is_finite() {
            prop_assert_eq!(line["float"].as_f64(), Some(float));
        }
        let plain = written(plain_text(), |_| record());
        prop_assert_eq!(plain.matches('\n').count(), 1);
        prop_assert!(!plain.trim_end_matches('\n').contains(char::is_control), "{}", plain);
    }
}

#[test]
fn text_is_for_people_and_has_colours_on_terminals_only() {
    let context = TraceContext::new();
    let text = written(plain_text(), |_| {
        trace::in_scope(context.clone(), || {
            info_span!("send", room = 7)
                .in_scope(|| warn!(user = "a b", took = ?Duration::from_millis(5), "slow"));
        });
    });
    let rest = text[27..].trim_end();
    assert!(
        rest.starts_with("  WARN im-logic clog::form: slow user=\"a b\" took=5ms room=7 span=send trace_id="),
        "{text}"
    );
    assert!(rest.contains(&context.trace_id().to_string()) && rest.contains("tests/clog/form.rs:"), "{text}");
}

#[test]
fn secrets_are_not_written() {
    struct Secret;
    impl fmt::Debug for Secret {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            panic!("it is not even asked")
        }
    }
    for config in [plain_text(), json()] {
        let text = written(config, |_| {
            let span = info_span!("login", user.password = "hunter2", token = field::Empty);
            span.record("token", "hunter2");
            span.in_scope(
                || info!(secret = ?Secret, Authorization = "hunter2", api_key = 1234567, fencing_token = 5),
            );
        });
        assert!(!text.contains("hunter2") && !text.contains("1234567"), "{text}");
        assert_eq!(text.matches("[redacted]").count(), 5, "{text}");
        assert!(text.contains("fencing_token=5") || text.contains("\"fencing_token\":5"), "{text}");
    }
}

#[test]
fn a_value_that_logs_while_it_is_shown_disturbs_nothing() {
    struct Talks;
    impl fmt::Debug for Talks {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            info!("inner");
            f.write_str("shown")
        }
    }
    let lines = lines(json(), |_| {
        let span = info_span!("s", in_span = ?Talks, late = field::Empty);
        span.record("late", field::debug(Talks));
        span.in_scope(|| info!(value = ?Talks, "outer {:?}", Talks));
    });
    // Whether what is recorded inside of a record is logged, `tracing` decides.
    let outer = lines.iter().find(|line| line["message"] == "outer shown").unwrap();
    assert_eq!(
        (&outer["value"], &outer["in_span"], &outer["late"]),
        (&"shown".into(), &"shown".into(), &"shown".into())
    );
}

#[test]
fn a_huge_record_is_cut_and_stays_json() {
    let big = "x".repeat(16_000);
    let big = big.as_str();
    let lines = lines(json(), |_| {
        let outer =
            info_span!("outer", a = big, b = big, c = big, d = big, e = big, f = big, g = big, h = big);
        let inner = info_span!(parent: &outer, "inner", i = big, j = big, k = big, l = big, m = big, n = big);
        inner.in_scope(|| info!(o = big, p = big, q = big, r = big, s = big, t = big, "huge"));
        info!("small");
    });
    // The nearest are there.
    assert_eq!(["t", "n", "a"].map(|name| lines[0][name].is_string()), [true, true, true]);
    assert_eq!((&lines[0]["h"], &lines[0]["truncated"]), (&Value::Null, &true.into()));
    assert_eq!((&lines[1]["message"], &lines[1]["truncated"]), (&"small".into(), &Value::Null));
}
