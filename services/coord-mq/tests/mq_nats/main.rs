//! The engine on NATS JetStream, on real servers: what it promises (K4 to K7), and what becomes of
//! it when servers, passwords and processes fail.
#![cfg(feature = "nats")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "what was counted, for those who look")]

mod faults;
mod promises;

use std::sync::Arc;
use std::time::Duration;

use coord::Coord;
use coord::memory::MemoryProvider;
use coord::prelude::*;
use coord_mq::{Delivery, Mq, Subscription, Verdict};
use coord_service::health::State;
use coord_service::live::LiveOptions;
use coord_service::shutdown::ShutdownOptions;
use coord_service::{App, Boot};
use tokio::sync::mpsc;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(50);

/// A service with a message queue, and a config centre of its own.
struct Service {
    app: App,
    mq: Mq,
}

impl Service {
    /// On the server at `url`; `more` are other fields of the document.
    async fn on(url: &str, more: &str) -> Self {
        Service::with(&document(&format!(r#""url": "{url}""#), more)).await
    }

    async fn with(document: &str) -> Self {
        let memory = MemoryProvider::new();
        let coord = Coord::new(memory.core().clone(), memory);
        coord.config().set_raw("dev/orders/mq", document.to_owned().into()).await.unwrap();
        let linger = ShutdownOptions::default().with_linger(Duration::from_millis(10));
        let app = Boot::bare("orders").with_shutdown(linger).upgrade(&coord).await.unwrap();
        let often = LiveOptions::default().with_probe_every(Duration::from_millis(500));
        let often = often.with_retry(Duration::from_millis(500));
        let mq = Mq::open(app.config("mq"), app.coord()).with_options(often);
        let mq = app.add(mq).await.unwrap();
        app.started();
        Service { app, mq }
    }

    async fn configure(&self, document: &str) {
        self.app.coord().config().set_raw("dev/orders/mq", document.to_owned().into()).await.unwrap();
    }

    async fn until(&self, what: &str, wanted: impl FnMut(&State) -> bool) -> State {
        let health = self.app.health();
        let state = timeout(LIMIT, health.wait_for(wanted)).await;
        state.unwrap_or_else(|_| panic!("not in time: {what}; {}", health.summary()))
    }
}

fn document(nats: &str, more: &str) -> String {
    format!(r#"{{"engine": "nats", "nats": {{{nats}}} {}{more}}}"#, if more.is_empty() { "" } else { ", " })
}

type Seen = mpsc::UnboundedReceiver<Delivery>;

/// Handles everything, and tells.
async fn subscribe(mq: &Mq, topic: &str, group: &str) -> (Subscription, Seen) {
    let (tell, seen) = mpsc::unbounded_channel();
    let handler = move |delivery: Delivery| {
        let _ = tell.send(delivery);
        std::future::ready(Verdict::Done)
    };
    let subscription = mq.subscribe(topic, group, handler).await.unwrap();
    assert!(subscription.status().ready, "{:?}", subscription.status());
    (subscription, seen)
}

async fn next(seen: &mut Seen) -> Delivery {
    timeout(LIMIT, seen.recv()).await.expect("a message in time").unwrap()
}

async fn ids(seen: &mut Seen, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    while ids.len() < count {
        ids.push(next(seen).await.id().to_owned());
    }
    ids
}

/// Waits for what is not told.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LIMIT, waiting).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

type Shared<T> = Arc<parking_lot::Mutex<T>>;
