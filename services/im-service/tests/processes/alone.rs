//! With nothing but itself: coord on sled, SQLite, the embedded cache and queue.

use std::path::Path;
use std::process::Command;

use coord::prelude::*;
use coord_servers::process::Signal;
use im_service::replay::{Client, replay};
use serde_json::{Value, json};

use crate::{Im, LIMIT, STEPS, part, transcript_file, until};

/// Writes the document of a part, before there is an instance.
async fn write_down(data: &Path, part: &str, document: Value) {
    let coord = coord::open(&format!("sled://{}", data.join("coord").display())).await.unwrap();
    coord.provider().config().set(&format!("dev/im-service/{part}"), &document).await.unwrap();
    coord.provider().close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transcript_is_replayed_by_one_command_and_nothing_is_lost_or_doubled() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_im-service"));
    command.arg("--replay").arg(transcript_file());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    for part in [
        "5000 in 40 rooms",
        "5000 sent, 5000 sent before",
        "stored         5000",
        "nothing lost, nothing doubled",
    ] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_step_it_dies_at_nothing_is_lost_or_doubled() {
    let data = tempfile::tempdir().unwrap();
    // What a dead process had in hand is handed out again after that.
    write_down(data.path(), "mq", json!({ "ack_wait_ms": 2_000 })).await;
    let mut im = Im::start(&["--data".to_owned(), data.path().display().to_string()]).await;
    for (round, step) in STEPS.into_iter().enumerate() {
        im.restart(&format!("{step}={}*off->return", 3 + 4 * round)).await;
        let (lines, address) = (part(round, STEPS.len()), im.address);
        let replaying = tokio::spawn(async move { replay(&lines, &[address]).await });
        until(step, async || (im.has_ended() || replaying.is_finished()).then_some(())).await;
        assert!(im.has_ended(), "it did not die at {step}:\n{}", im.log());
        im.restart("").await;
        let summary = tokio::time::timeout(2 * LIMIT, replaying).await.unwrap().unwrap().unwrap();
        assert!(summary.wrong.is_empty(), "{step}: {summary}\n{}", im.log());
        assert!(summary.tried_again > 0, "{summary}");
    }

    im.signal(Signal::Terminate);
    until("the end", async || im.has_ended().then_some(())).await;
    assert!(!im.wrote(&["not shut down in order"]), "{}", im.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_leads_from_the_answer_to_the_consumer() {
    let data = tempfile::tempdir().unwrap();
    write_down(data.path(), "clog", json!({ "level": "debug", "format": "json" })).await;
    let im = Im::start(&["--data".to_owned(), data.path().display().to_string()]).await;
    let client = Client::new(&[im.address]).unwrap();
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let request = http::Request::post("/")
        .header("traceparent", format!("00-{trace}-b7ad6b7169203331-01"))
        .header("idempotency-key", "k1")
        .header("content-type", "application/json");
    let body = r#"{"sender": "ann", "text": "hello"}"#.to_owned();
    let answer = client.ask(request, "/rooms/r1/messages", body).await.unwrap();
    assert_eq!(answer.status(), 201, "{answer:?}");
    assert!(answer.headers()["traceparent"].to_str().unwrap().contains(trace));
    let in_trace = format!("\"trace_id\":\"{trace}\"");
    for word in ["\"stored\"", "\"counted\""] {
        until(word, async || im.wrote(&[word, &in_trace]).then_some(())).await;
    }

    // What is no message changes nothing, and says what is wrong.
    for (key, body, status) in [
        ("k1", r#"{"sender": "ann", "text": "something else"}"#, 422),
        ("k/1", r#"{"sender": "ann", "text": "hello"}"#, 400),
        ("k2", r#"{"sender": "ann"}"#, 400),
        ("k2", "no JSON", 400),
        ("k2", r#"{"sender": "ann", "text": ""}"#, 400),
    ] {
        let request = http::Request::post("/")
            .header("idempotency-key", key)
            .header("traceparent", "no trace")
            .header("content-type", "application/json");
        let answer = client.ask(request, "/rooms/r1/messages", body.to_owned()).await.unwrap();
        assert_eq!(answer.status(), status, "{key} {body}: {answer:?}");
        assert!(answer.headers().contains_key("traceparent"));
    }
    let room = client.ask(http::Request::get("/"), "/rooms/r1", String::new()).await.unwrap();
    assert!(room.body().starts_with(b"{\"messages\":1,"), "{room:?}");
}
