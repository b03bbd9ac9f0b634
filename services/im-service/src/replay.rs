//! A transcript sent again: each message twice, some at once, each room in its order. What comes
//! back is judged.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use futures_util::future::{join, try_join_all};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client as Legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use indicatif::{ProgressBar, ProgressStyle};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout};

use crate::http::IDEMPOTENCY_KEY;
use crate::messages::{Room, Row};
use crate::service::Sent;
use crate::transcript::Line;

/// How many rooms are written into at the same time.
const AT_A_TIME: usize = 16;

/// How long one request may take, and how long it is tried again.
const PATIENCE: Duration = Duration::from_secs(30);
const PERSISTENCE: Duration = Duration::from_secs(120);

/// The pause before a request is sent again that was refused for now.
const AGAIN: Duration = Duration::from_millis(100);

/// What a replay has seen.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Messages of the transcript.
    pub messages: usize,
    /// Rooms of the transcript.
    pub rooms: usize,
    /// Answers that said that a message was sent by this very request.
    pub sent: usize,
    /// Answers that said that it had been sent before.
    pub repeated: usize,
    /// Answers that said that it was too much for now.
    pub limited: usize,
    /// Requests that were not answered, or answered by 503, and sent again.
    pub tried_again: usize,
    /// Messages that the rooms have.
    pub stored: usize,
    /// What members have not read, all together.
    pub unread: i64,
    /// How long it took to send.
    pub took: Duration,
    /// How long it took from there until all was counted.
    pub counted_after: Duration,
    /// How long the answers took: half of them, and 99 of 100, in milliseconds.
    pub answered_ms: (u64, u64),
    /// What is not as it must be; nothing, if all is well.
    pub wrong: Vec<String>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = 2.0 * self.messages as f64 / self.took.as_secs_f64().max(0.001);
        writeln!(f, "messages       {} in {} rooms, each sent twice", self.messages, self.rooms)?;
        writeln!(f, "answers        {} sent, {} sent before", self.sent, self.repeated)?;
        writeln!(f, "again          {} were limited, {} were not answered", self.limited, self.tried_again)?;
        writeln!(f, "stored         {}", self.stored)?;
        writeln!(
            f,
            "unread         {}, counted {:.1?} after the last answer",
            self.unread, self.counted_after
        )?;
        let (half, most) = self.answered_ms;
        writeln!(
            f,
            "time           {:.1?}, {rate:.0} requests/s, half within {half} ms, 99 % within {most} ms",
            self.took
        )?;
        match self.wrong.is_empty() {
            true => write!(f, "nothing lost, nothing doubled"),
            false => write!(f, "WRONG\n    {}", self.wrong.join("\n    ")),
        }
    }
}

/// Somebody who asks instances over HTTP.
#[derive(Clone, Debug)]
pub struct Client {
    http: Legacy<HttpConnector, Full<Bytes>>,
    /// Where instances answer; each request goes to the next one.
    at: Arc<[SocketAddr]>,
    next: Arc<AtomicUsize>,
}

impl Client {
    /// For instances that answer there.
    ///
    /// # Errors
    ///
    /// Where there is none.
    pub fn new(at: &[SocketAddr]) -> anyhow::Result<Self> {
        ensure!(!at.is_empty(), "there is no instance to ask");
        let http = Legacy::builder(TokioExecutor::new()).build_http();
        Ok(Client { http, at: at.into(), next: Arc::default() })
    }

    /// Asks once, and gives the answer with its whole body.
    ///
    /// # Errors
    ///
    /// Where no answer came.
    pub async fn ask(
        &self,
        request: http::request::Builder,
        path: &str,
        body: String,
    ) -> anyhow::Result<Response<Bytes>> {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        let at = self.at.get(next % self.at.len()).context("there is no instance")?;
        let request = request.uri(format!("http://{at}{path}")).body(Full::new(Bytes::from(body)))?;
        let answer = async {
            let (head, body) = self.http.request(request).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            anyhow::Ok(Response::from_parts(head, body))
        };
        timeout(PATIENCE, answer).await.context("no answer in time")?
    }

    /// Asks until it is answered by something else than 503 and 429.
    async fn insist(
        &self,
        seen: &Seen,
        request: impl Fn() -> http::request::Builder,
        path: &str,
        body: &str,
    ) -> anyhow::Result<Response<Bytes>> {
        let deadline = Instant::now() + PERSISTENCE;
        loop {
            let (pause, why) = match self.ask(request(), path, body.to_owned()).await {
                Ok(answer) if answer.status() == StatusCode::TOO_MANY_REQUESTS => {
                    seen.limited.fetch_add(1, Ordering::Relaxed);
                    let seconds =
                        answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
                    (seconds.map_or(AGAIN, Duration::from_secs), "429".to_owned())
                }
                Ok(answer) if answer.status() == StatusCode::SERVICE_UNAVAILABLE => {
                    seen.tried_again.fetch_add(1, Ordering::Relaxed);
                    (AGAIN, String::from_utf8_lossy(answer.body()).into_owned())
                }
                Ok(answer) if answer.status().is_success() => return Ok(answer),
                Ok(answer) => {
                    bail!("{path}: {}: {}", answer.status(), String::from_utf8_lossy(answer.body()))
                }
                Err(error) => {
                    seen.tried_again.fetch_add(1, Ordering::Relaxed);
                    (AGAIN, format!("{error:#}"))
                }
            };
            ensure!(Instant::now() < deadline, "{path}: for two minutes, at last: {why}");
            sleep(pause).await;
        }
    }

    async fn get<T: DeserializeOwned>(&self, seen: &Seen, path: &str) -> anyhow::Result<T> {
        let answer = self.insist(seen, Request::builder, path, "").await?;
        serde_json::from_slice(answer.body()).with_context(|| path.to_owned())
    }

    async fn send(&self, seen: &Seen, line: &Line) -> anyhow::Result<Sent> {
        let path = format!("/rooms/{}/messages", line.room);
        let body = serde_json::json!({ "sender": line.sender, "text": line.text }).to_string();
        let request = || {
            let request = Request::builder().method(Method::POST).header(IDEMPOTENCY_KEY, &line.key);
            request.header(CONTENT_TYPE, "application/json")
        };
        let begun = Instant::now();
        let answer = self.insist(seen, request, &path, &body).await?;
        seen.answered(begun.elapsed());
        Ok(serde_json::from_slice(answer.body())?)
    }
}

/// What is counted on the way.
#[derive(Default)]
struct Seen {
    limited: AtomicUsize,
    tried_again: AtomicUsize,
    /// How many answers took so many milliseconds; the last for all that took longer.
    answers: std::sync::Mutex<BTreeMap<u64, u64>>,
    slowest: AtomicU64,
}

impl Seen {
    fn answered(&self, within: Duration) {
        let millis = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        self.slowest.fetch_max(millis, Ordering::Relaxed);
        let mut answers = self.answers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *answers.entry(millis).or_default() += 1;
    }

    /// Within how many milliseconds this part of the answers came.
    fn within(&self, part: f64) -> u64 {
        let answers = self.answers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let all: u64 = answers.values().sum();
        let mut so_far = 0;
        for (millis, count) in answers.iter() {
            so_far += count;
            if so_far as f64 >= part * all as f64 {
                return *millis;
            }
        }
        0
    }
}

/// Sends a transcript to the instances at these addresses, and judges what came of it.
///
/// The rooms have to be new: what is stored and unread is compared with the transcript.
///
/// # Errors
///
/// Where an instance refuses what it must take, or does not answer for two minutes. What is wrong
/// with the answers stands in the summary.
pub async fn replay(lines: &[Line], at: &[SocketAddr]) -> anyhow::Result<Summary> {
    let (client, seen) = (Client::new(at)?, Seen::default());
    let mut rooms: BTreeMap<&str, Vec<&Line>> = BTreeMap::new();
    for line in lines {
        rooms.entry(&line.room).or_default().push(line);
    }
    join_all_members(&client, &seen, &rooms).await?;

    let bar = bar(2 * lines.len() as u64);
    let begun = Instant::now();
    let queue = std::sync::Mutex::new(rooms.iter().collect::<Vec<_>>());
    let next = || queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop();
    let worker = || async {
        let mut sent = Vec::new();
        while let Some((_, lines)) = next() {
            for line in lines {
                sent.push((*line, send_twice(&client, &seen, line, &bar).await?));
            }
        }
        anyhow::Ok(sent)
    };
    let sent: Vec<_> = try_join_all((0..AT_A_TIME).map(|_| worker())).await?.into_iter().flatten().collect();
    let took = begun.elapsed();
    bar.finish_and_clear();

    let mut summary = Summary {
        messages: lines.len(),
        rooms: rooms.len(),
        took,
        answered_ms: (seen.within(0.5), seen.within(0.99)),
        ..Summary::default()
    };
    // Ids rise in each instance (R63); those of two are as close as their clocks are.
    let in_order = at.len() == 1;
    judge_answers(&mut summary, &sent, in_order);
    judge_rooms(&mut summary, &client, &seen, &rooms, in_order).await?;
    summary.limited = seen.limited.load(Ordering::Relaxed);
    summary.tried_again = seen.tried_again.load(Ordering::Relaxed);
    Ok(summary)
}

/// How far it is, on a terminal.
fn bar(count: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} {per_sec} eta {eta}");
    ProgressBar::new(count).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

async fn join_all_members(
    client: &Client,
    seen: &Seen,
    rooms: &BTreeMap<&str, Vec<&Line>>,
) -> anyhow::Result<()> {
    for (room, lines) in rooms {
        let members: BTreeSet<_> = lines.iter().map(|line| &line.sender).collect();
        for member in members {
            let path = format!("/rooms/{room}/members/{member}");
            client.insist(seen, || Request::builder().method(Method::PUT), &path, "").await?;
        }
    }
    Ok(())
}

async fn send_twice(
    client: &Client,
    seen: &Seen,
    line: &Line,
    bar: &ProgressBar,
) -> anyhow::Result<[Sent; 2]> {
    let send = || async {
        let sent = client.send(seen, line).await?;
        bar.inc(1);
        anyhow::Ok(sent)
    };
    if line.again_ms == 0 {
        let (one, other) = join(send(), send()).await;
        return Ok([one?, other?]);
    }
    // The transcript's pauses are those of people, who are not here to wait.
    Ok([send().await?, send().await?])
}

fn judge_answers(summary: &mut Summary, sent: &[(&Line, [Sent; 2])], in_order: bool) {
    let mut ids = BTreeSet::new();
    let mut newest: BTreeMap<&str, i64> = BTreeMap::new();
    let mut wrong = |what: String| {
        if summary.wrong.len() < 20 {
            summary.wrong.push(what);
        }
    };
    for (line, [one, other]) in sent {
        if one.id != other.id {
            wrong(format!("{}: sent twice, as {} and {}", line.key, one.id, other.id));
        }
        if !ids.insert(one.id) {
            wrong(format!("{}: {} is another message's id", line.key, one.id));
        }
        let before = newest.insert(&line.room, one.id);
        if in_order && before.is_some_and(|before| before >= one.id) {
            wrong(format!("{}: {} after {} in {}", line.key, one.id, before.unwrap_or_default(), line.room));
        }
        for sent in [one, other] {
            match sent.first {
                true => summary.sent += 1,
                false => summary.repeated += 1,
            }
        }
    }
}

/// What each member has not read, once all is counted.
async fn judge_rooms(
    summary: &mut Summary,
    client: &Client,
    seen: &Seen,
    rooms: &BTreeMap<&str, Vec<&Line>>,
    in_order: bool,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    for (room, lines) in rooms {
        let mut unread: BTreeMap<String, i64> = lines.iter().map(|line| (line.sender.clone(), 0)).collect();
        for line in lines {
            unread
                .iter_mut()
                .filter(|(member, _)| **member != line.sender)
                .for_each(|(_, count)| *count += 1);
        }
        let expected = Room { messages: lines.len() as i64, unread };
        let found = loop {
            let found: Room = client.get(seen, &format!("/rooms/{room}")).await?;
            let too_many =
                found.unread.iter().any(|(member, count)| expected.unread.get(member) < Some(count));
            if found == expected || too_many || begun.elapsed() > PERSISTENCE {
                break found;
            }
            sleep(AGAIN).await;
        };
        summary.stored += usize::try_from(found.messages).unwrap_or_default();
        summary.unread += found.unread.values().sum::<i64>();
        if found != expected && summary.wrong.len() < 20 {
            summary.wrong.push(format!("{room}: {found:?} instead of {expected:?}"));
        }
        let recent: Vec<Row> = client.get(seen, &format!("/rooms/{room}/messages")).await?;
        let shown = recent.iter().rev().map(|row| (&row.sender, &row.text));
        let newest = lines
            .iter()
            .skip(lines.len().saturating_sub(recent.len()))
            .map(|line| (&line.sender, &line.text));
        if in_order && !shown.eq(newest) && summary.wrong.len() < 20 {
            summary.wrong.push(format!("{room}: the newest messages are others"));
        }
    }
    summary.counted_after = begun.elapsed();
    Ok(())
}
