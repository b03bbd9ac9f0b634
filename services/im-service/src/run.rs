//! A whole instance, from its start to its end.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use coord::prelude::*;
use coord::{ErrorKind, Registration, ServiceInstance, Version};
use coord_cache::Cache;
use coord_db::Db;
use coord_db::sqlx::{Postgres, Sqlite};
use coord_home::{Backoff, BackoffPolicy};
use coord_mq::{Mq, Subscription};
use coord_service::health::{Reporter, State};
use coord_service::ratelimit::{LimitRule, LimitScope, RateLimiter};
use coord_service::shutdown::Phase;
use coord_service::uid::UidReload;
use coord_service::{App, Boot, LiveComponent, OnUnreachable};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::consume::Unread;
use crate::messages::Messages;
use crate::service::Service;
use crate::{GROUP, SERVICE, TOPIC, http, leader};

/// The pauses before something that failed at the start is tried again.
const AGAIN: BackoffPolicy = BackoffPolicy::new(Duration::from_millis(50), Duration::from_secs(2));

/// Where the servers are. Without any of it everything is in this process.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Places {
    /// The store of coord: `memory://`, `sled:///dir` or `etcd://host:2379`
    #[arg(long, env = "COORD_URL", hide_env_values = true)]
    pub coord: Option<String>,
    /// The database: `sqlite:FILE` or `postgres://user@host/name`
    #[arg(long, env = "IM_DB", hide_env_values = true)]
    pub db: Option<String>,
    /// The database's password
    #[arg(long, env = "IM_DB_PASSWORD", hide_env_values = true, hide = true)]
    pub db_password: Option<String>,
    /// The cache: `redis://host`
    #[arg(long, env = "IM_CACHE", hide_env_values = true)]
    pub cache: Option<String>,
    /// The message queue: `nats://host:4222`
    #[arg(long, env = "IM_MQ", hide_env_values = true)]
    pub mq: Option<String>,
    /// A directory for what is embedded, so that it is still there after a restart
    #[arg(long, env = "IM_DATA")]
    pub data: Option<PathBuf>,
    /// Where the operators' listener is, whatever the document says
    #[arg(long, env = "IM_ADMIN")]
    pub admin: Option<SocketAddr>,
}

impl Places {
    fn coord(&self) -> String {
        match (&self.coord, &self.data) {
            (Some(url), _) => url.clone(),
            (None, Some(directory)) => format!("sled://{}", directory.join("coord").display()),
            (None, None) => "memory://".to_owned(),
        }
    }

    fn is_postgres(&self) -> bool {
        self.db.as_ref().is_some_and(|url| url.starts_with("postgres"))
    }

    /// The documents that say so, by component.
    fn documents(&self) -> Vec<(&'static str, Value)> {
        let mut documents = Vec::new();
        let embedded =
            self.data.as_ref().map(|directory| format!("sqlite:{}", directory.join("im.db").display()));
        if let Some(url) = self.db.clone().or(embedded) {
            documents.push((
                "db",
                match &self.db_password {
                    Some(password) => json!({ "url": url, "password": password }),
                    None => json!({ "url": url }),
                },
            ));
        }
        if let Some(url) = &self.cache {
            documents.push(("cache", json!({ "engine": "redis", "redis": { "url": url } })));
        }
        if let Some(url) = &self.mq {
            documents.push(("mq", json!({ "engine": "nats", "nats": { "url": url } })));
        }
        documents
    }
}

/// An instance that runs.
#[derive(Debug)]
pub struct Instance {
    app: App,
    address: SocketAddr,
    service: Arc<Service>,
}

impl Instance {
    /// Starts an instance that answers at `listen`.
    ///
    /// # Errors
    ///
    /// For what no retry can mend: a wrong URL, an address that somebody else has.
    pub async fn start(boot: Boot, places: &Places, listen: SocketAddr) -> anyhow::Result<Self> {
        if let Some(directory) = &places.data {
            std::fs::create_dir_all(directory).with_context(|| format!("{}", directory.display()))?;
        }
        let boot = match places.admin {
            Some(listen) => boot.with_admin_at(listen),
            None => boot,
        };
        let coord = boot.connect(&places.coord(), OnUnreachable::Defaults).await?;
        let env = std::env::var("APP_ENV").unwrap_or_else(|_| "dev".to_owned());
        write_down(&coord, &env, places.documents()).await?;
        let app = boot.upgrade(&coord).await?;

        let listener = TcpListener::bind(listen).await.with_context(|| format!("{listen}"))?;
        let address = listener.local_addr()?;
        let instance = format!("{}-{:08x}", address.port(), fastrand::u32(..));

        let cache = app.add(Cache::open(app.config("cache"))).await?;
        let messages: Arc<dyn Messages> = match places.is_postgres() {
            true => Arc::new(app.add(Db::<Postgres>::open(app.config("db"))).await?),
            false => Arc::new(app.add(Db::<Sqlite>::open(app.config("db"))).await?),
        };
        let mq = app.add(Mq::open(app.config("mq"), &coord)).await?;
        let ids = LiveComponent::new(app.config("uid"), UidReload::new(&coord, SERVICE));
        let ids = app.add(ids.with_phase(Phase::Leases)).await?;
        let limits = RateLimiter::builder(Arc::clone(coord.provider().config()), SERVICE)
            .rule("send", LimitRule::per_second(100).with_burst(200).with_scope(LimitScope::Cluster))
            .cluster(Arc::clone(coord.provider().registry()), &instance)
            .exact(cache.exact_scope());
        let limits = app.add(limits).await?;
        let service = Arc::new(Service { limits, once: coord.once(), ids, messages, cache, mq });

        begin(&app, &service, address, &instance).await?;
        leader::start(&app, Arc::clone(&service), &instance).await?;
        serve(&app, listener, &service);
        app.started();
        Ok(Instance { app, address, service })
    }

    /// Where it answers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The service, and the end of it.
    pub fn app(&self) -> &App {
        &self.app
    }

    /// Its parts.
    pub fn service(&self) -> &Service {
        &self.service
    }
}

/// Writes the documents where there are none: an operator's are left alone. Where the store is away
/// the service goes on by defaults, and these are not there.
async fn write_down(coord: &coord::Coord, env: &str, documents: Vec<(&str, Value)>) -> coord::Result<()> {
    for (component, document) in documents {
        let key = format!("{env}/{SERVICE}/{component}");
        let written = coord.provider().config().compare_and_set(&key, &document, Version::ZERO).await;
        match written {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Conflict => {}
            Err(error) if error.is_transient() => {
                tracing::warn!(key, %error, "what was given at the start was not written down");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What an instance does as soon as it can: it makes the tables, hears of messages, and says where
/// it is. All of it is tried until it is done, and the service is not ready before.
async fn begin(app: &App, service: &Arc<Service>, address: SocketAddr, instance: &str) -> coord::Result<()> {
    let reporter = app.health().register("beginning", true);
    let place = ServiceInstance::new(SERVICE, instance, address.ip().to_string(), address.port());
    let registry = Arc::clone(app.coord().provider().registry());
    let (service, end) = (Arc::clone(service), app.shutdown().begun());
    let (registered, leaving) = oneshot::channel::<(Arc<Registration>, Reporter)>();
    let (subscribed, stopping) = oneshot::channel::<Subscription>();
    let work = async move {
        let mut backoff = Backoff::new(AGAIN);
        while let Err(error) = service.messages.prepare().await {
            reporter.set(State::Down(format!("no tables yet: {error}")));
            sleep(backoff.pause()).await;
        }
        // It goes on trying by itself, and fails where the service ends.
        if let Ok(counting) = service.mq.subscribe(TOPIC, GROUP, Unread(Arc::clone(&service.messages))).await
        {
            let _ = subscribed.send(counting);
        }
        let registration = loop {
            match registry.register(place.clone()).await {
                Ok(registration) => break Arc::new(registration),
                Err(error) => {
                    reporter.set(State::Down(format!("not registered yet: {error}")));
                    sleep(backoff.pause()).await;
                }
            }
        };
        service.limits.set_registration(&registration);
        // Limits that are shared admit nothing before.
        if let Err(error) = service.limits.settled().await {
            tracing::warn!(%error, "limits that are shared admit nothing");
        }
        reporter.set(State::Ready);
        let _ = registered.send((registration, reporter));
    };
    tokio::spawn(async move {
        tokio::select! {
            () = end => {}
            () = work => {}
        }
    });
    // What is not there by the end is not waited for: its sender is gone.
    app.shutdown().on(Phase::Deregister, "registration", async move {
        let Ok((registration, _reporter)) = leaving.await else { return };
        if let Err(error) = registration.unregister().await {
            tracing::warn!(%error, "still in the registry; it runs out by itself");
        }
    });
    app.shutdown().on(Phase::Subscriptions, "unread", async move {
        if let Ok(counting) = stopping.await {
            counting.stop().await;
        }
    });
    Ok(())
}

/// Answers until the end, and then what was asked before.
fn serve(app: &App, listener: TcpListener, service: &Arc<Service>) {
    let stop = CancellationToken::new();
    let routes = http::routes(Arc::clone(service));
    let serving = axum::serve(listener, routes).with_graceful_shutdown(stop.clone().cancelled_owned());
    let serving = tokio::spawn(serving.into_future());
    app.shutdown().on(Phase::Servers, "http", async move {
        stop.cancel();
        let _ = serving.await;
    });
}
