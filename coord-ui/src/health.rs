//! The first line: whether all is well.

use std::sync::Arc;
use std::time::Duration;

use coord_api::{Error, ErrorKind};
use coord_core::{Client, ClientHealth, Home, SingleFlight, time_of_day_ms};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::{Instant, timeout};

/// How long the store may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// For how long an answer is good for others who look as well.
const GOOD_FOR: Duration = Duration::from_secs(1);

/// Whether all is well.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Health {
    ok: bool,
    /// Whether who has the token can change anything here.
    edit: bool,
    client: String,
    at_ms: u64,
    findings: Vec<String>,
    store: StoreHealth,
    renewal: Option<Renewal>,
    watches: Watches,
}

#[derive(Clone, Debug, Serialize)]
struct StoreHealth {
    ok: bool,
    id: Option<String>,
    version: Option<String>,
    round_trip_ms: Option<f64>,
    error: Option<String>,
}

/// How what this process itself holds is renewed.
#[derive(Clone, Debug, Serialize)]
struct Renewal {
    sessions: usize,
    /// How long ago the last renewal of one of them was, in seconds.
    oldest_s: f64,
    failing: usize,
}

#[derive(Clone, Debug, Serialize)]
struct Watches {
    live: usize,
    suspended: usize,
}

/// Asks whether all is well, once for all who want to know.
#[derive(Debug)]
pub(crate) struct Doctor {
    client: Client,
    edit: bool,
    flight: SingleFlight<Arc<Health>>,
    last: Mutex<Option<(Instant, Arc<Health>)>>,
}

impl Doctor {
    pub(crate) fn new(client: Client, edit: bool) -> Self {
        Doctor { client, edit, flight: SingleFlight::default(), last: Mutex::new(None) }
    }

    /// How it is, now or a moment ago.
    pub(crate) async fn look(&self) -> Arc<Health> {
        let kept = self.last.lock().as_ref().filter(|(at, _)| at.elapsed() < GOOD_FOR).cloned();
        if let Some((_, kept)) = kept {
            return kept;
        }
        let start = || {
            let (client, edit) = (self.client.clone(), self.edit);
            async move { Ok(Arc::new(Health::of(&client, edit).await)) }
        };
        match self.flight.run(&Home::callers(), "ui.health", start).await {
            Ok(health) => {
                *self.last.lock() = Some((Instant::now(), Arc::clone(&health)));
                health
            }
            // It panicked, or its runtime ends.
            Err(error) => Arc::new(Health::told(&self.client, self.edit, StoreHealth::bad(&error))),
        }
    }
}

impl StoreHealth {
    fn bad(error: &Error) -> Self {
        StoreHealth {
            ok: false,
            id: None,
            version: None,
            round_trip_ms: None,
            error: Some(error.to_string()),
        }
    }
}

impl Health {
    async fn of(client: &Client, edit: bool) -> Self {
        let began = Instant::now();
        let late = || Error::new(ErrorKind::Timeout, "ui.health", "the store does not answer");
        let answer = timeout(PATIENCE, client.store().status()).await.unwrap_or_else(|_| Err(late()));
        let store = match answer {
            Ok(status) => StoreHealth {
                ok: true,
                id: Some(status.store_id),
                version: Some(status.version),
                round_trip_ms: Some(began.elapsed().as_secs_f64() * 1_000.0),
                error: None,
            },
            Err(error) => StoreHealth::bad(&error),
        };
        Health::told(client, edit, store)
    }

    fn told(client: &Client, edit: bool, store: StoreHealth) -> Self {
        let known = client.health();
        let findings = findings(&store, &known);
        let oldest = known.sessions.iter().map(|session| session.renewed_ago).max();
        let failing = known.sessions.iter().filter(|session| session.failure.is_some()).count();
        Health {
            ok: findings.is_empty(),
            edit,
            client: client.name().to_owned(),
            at_ms: time_of_day_ms(),
            findings,
            store,
            renewal: oldest.map(|oldest| Renewal {
                sessions: known.sessions.len(),
                oldest_s: oldest.as_secs_f64(),
                failing,
            }),
            watches: Watches { live: known.live_watches, suspended: known.suspended_watches },
        }
    }
}

/// What is not as it should be.
fn findings(store: &StoreHealth, known: &ClientHealth) -> Vec<String> {
    let mut findings = Vec::new();
    if let Some(error) = &store.error {
        findings.push(format!("The store does not answer: {error}"));
    }
    if let Some(since) = known.out_of_reach {
        let seconds = since.as_secs();
        findings.push(format!("The store has been out of reach for {seconds} s; what is held runs out."));
    }
    for session in &known.sessions {
        if let Some(failure) = &session.failure {
            let (ago, left) = (session.renewed_ago.as_secs(), session.left.as_secs());
            findings.push(format!(
                "Session {} was renewed {ago} s ago, and is lost in {left} s: {failure}",
                session.session
            ));
        }
    }
    match known.suspended_watches {
        0 => {}
        1 => findings.push("A watch is not fed by the store; it resumes by itself.".to_owned()),
        many => findings.push(format!("{many} watches are not fed by the store; they resume by themselves.")),
    }
    findings
}
