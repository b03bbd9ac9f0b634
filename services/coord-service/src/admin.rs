//! The listener for those who operate the service: `/metrics`, `/healthz`, `/readyz` (K9).
//!
//! | path | answer |
//! |---|---|
//! | `/readyz` | 200 while requests should come, else 503; the [health](crate::health) of each part as JSON |
//! | `/healthz` | 200 for as long as the process answers; the same JSON |
//! | `/metrics` | the metrics, as Prometheus reads them |
//!
//! It is for networks of one's own: whoever reaches it can read what it says. Where it listens is
//! configuration (`{env}/{service}/admin`); a change binds the new address before the old one is
//! left.

use std::fmt;
use std::future::IntoFuture;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use async_trait::async_trait;
use axum::Router;
use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use coord::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::health::{Health, PartHealth, State};
use crate::live::{Change, Reload};

/// Where the listener of the operators is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminConfig {
    /// Address and port. `127.0.0.1:9090` by default; port 0 takes any that is free.
    pub listen: SocketAddr,
}

impl Default for AdminConfig {
    fn default() -> Self {
        AdminConfig { listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9090) }
    }
}

/// What `/metrics` answers with.
pub type Render = Arc<dyn Fn() -> String + Send + Sync>;

/// Makes the listener.
#[derive(Clone)]
pub struct Admin {
    answers: Answers,
}

#[derive(Clone)]
struct Answers {
    health: Health,
    render: Render,
}

impl Admin {
    /// A listener that tells of `health`, and of the metrics that `render` gives.
    pub fn new(health: Health, render: Render) -> Self {
        Admin { answers: Answers { health, render } }
    }

    /// The routes, for a program that has a listener of its own.
    pub fn routes(&self) -> Router {
        Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(alive))
            .route("/readyz", get(ready))
            .with_state(self.answers.clone())
    }
}

/// A listener that is bound and answers.
pub struct Listener {
    address: SocketAddr,
    stop: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Listener {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[async_trait]
impl Reload for Admin {
    type Config = AdminConfig;
    type Client = Listener;

    fn plan(&self, old: &AdminConfig, new: &AdminConfig) -> Change {
        if old == new { Change::Same } else { Change::Rebuild }
    }

    async fn build(&self, config: &AdminConfig) -> Result<Listener> {
        const OPERATION: &str = "admin.listen";
        let failed = |error: std::io::Error| {
            Error::new(ErrorKind::Unavailable, OPERATION, format!("cannot listen at {}", config.listen))
                .with_source(error)
        };
        let bound = TcpListener::bind(config.listen).await.map_err(failed)?;
        let address = bound.local_addr().map_err(failed)?;
        let stop = CancellationToken::new();
        let serve = axum::serve(bound, self.routes()).with_graceful_shutdown(stop.clone().cancelled_owned());
        let task = tokio::spawn(async move {
            // It ends by the token alone.
            let _ = serve.into_future().await;
        });
        Ok(Listener { address, stop, task: Mutex::new(Some(task)) })
    }

    async fn probe(&self, listener: &Listener) -> Result<()> {
        match listener.task.lock().as_ref().is_some_and(JoinHandle::is_finished) {
            true => Err(Error::new(ErrorKind::Internal, "admin.probe", "the listener ended by accident")),
            false => Ok(()),
        }
    }

    async fn retire(&self, listener: &Listener) {
        listener.stop.cancel();
        let task = listener.task.lock().take();
        if let Some(task) = task {
            let _ = task.await;
        }
    }
}

async fn metrics(Shared(answers): Shared<Answers>) -> Response {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], (answers.render)()).into_response()
}

async fn alive(Shared(answers): Shared<Answers>) -> Response {
    told(StatusCode::OK, &answers.health)
}

async fn ready(Shared(answers): Shared<Answers>) -> Response {
    let status = match answers.health.is_ready() {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    told(status, &answers.health)
}

#[derive(Serialize)]
struct Told {
    #[serde(flatten)]
    summary: State,
    parts: Vec<PartHealth>,
}

fn told(status: StatusCode, health: &Health) -> Response {
    let told = Told { summary: health.summary(), parts: health.parts() };
    // Text and flags: there is nothing in it that has no JSON.
    let body = serde_json::to_string(&told).unwrap_or_default();
    (status, [(CONTENT_TYPE, "application/json")], body).into_response()
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("health", &self.answers.health).finish_non_exhaustive()
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("address", &self.address).finish_non_exhaustive()
    }
}
