//! Two instances on etcd, Redis, PostgreSQL and NATS.

use std::time::Duration;

use coord::Coord;
use coord::prelude::*;
use coord_servers::etcd::{Binary, Cluster, Series, Signal};
use coord_servers::nats::NatsServer;
use coord_servers::postgres::Postgres;
use coord_servers::redis::Redis;
use http::StatusCode;
use im_service::replay::{Client, replay};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{Im, LIMIT, STEPS, part, transcript, until};

struct Servers {
    etcd: Cluster,
    redis: Redis,
    postgres: Postgres,
    nats: NatsServer,
}

impl Servers {
    fn start() -> Self {
        Servers {
            etcd: Cluster::single(&Binary::find(Series::V3_5)),
            redis: Redis::start(),
            postgres: Postgres::start(&[]),
            nats: NatsServer::start(),
        }
    }

    fn options(&self) -> Vec<String> {
        let etcd = format!("etcd://{}", self.etcd.endpoints()[0]);
        let options = [
            ("--coord", etcd),
            ("--db", self.postgres.url()),
            ("--db-password", self.postgres.password().to_owned()),
            ("--cache", self.redis.url()),
            ("--mq", self.nats.url()),
        ];
        options.into_iter().flat_map(|(option, value)| [option.to_owned(), value]).collect()
    }

    /// What a dead process had in hand is handed out again after two seconds.
    fn mq(&self) -> Value {
        json!({ "engine": "nats", "ack_wait_ms": 2_000, "nats": { "url": self.nats.url() } })
    }

    async fn coord(&self) -> Coord {
        coord::open(&format!("etcd://{}", self.etcd.endpoints()[0])).await.unwrap()
    }
}

async fn leads(im: &Im) -> bool {
    im.operators("/metrics").await.is_some_and(|(_, page)| page.lines().any(|line| line == "im_leads 1"))
}

async fn send(client: &Client, key: Option<&str>) -> StatusCode {
    let mut request = http::Request::post("/").header("content-type", "application/json");
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    let body = json!({ "sender": "ann", "text": "hello" }).to_string();
    client.ask(request, "/rooms/r1/messages", body).await.unwrap().status()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_that_are_killed_and_configured_meanwhile_lose_and_double_nothing() {
    let servers = Servers::start();
    let coord = servers.coord().await;
    let config = coord.provider().config();
    config.set("dev/im-service/mq", &servers.mq()).await.unwrap();
    let mut ims = [Im::start(&servers.options()).await, Im::start(&servers.options()).await];
    let at = [ims[0].address, ims[1].address];

    // One of the two leads.
    until("one leads", async || (leads(&ims[0]).await != leads(&ims[1]).await).then_some(())).await;

    let lines = transcript(1_200);
    let replaying = tokio::spawn(async move { replay(&lines, &at).await });

    // While messages flow, each part is configured anew; what is wrong changes nothing.
    config.set("dev/im-service/clog", &json!({ "level": "debug" })).await.unwrap();
    let limit = json!({ "rate": 1_000, "per": "second", "burst": 500, "scope": "exact" });
    config.set("dev/im-service/ratelimit/send", &limit).await.unwrap();
    let db = |connections: u32| json!({ "url": servers.postgres.url(), "password": servers.postgres.password(), "max_connections": connections });
    for connections in [4, 12, 6] {
        config.set("dev/im-service/db", &db(connections)).await.unwrap();
        sleep(Duration::from_millis(200)).await;
    }
    for (part, wrong) in [
        ("clog", json!({ "level": "lout" })),
        ("db", json!({ "max_connections": 0 })),
        ("mq", json!({ "engines": "nats" })),
    ] {
        config.set(&format!("dev/im-service/{part}"), &wrong).await.unwrap();
        for im in &ims {
            let part = format!("{part} configuration");
            until(&part, async || {
                let (_, page) = im.operators("/readyz").await?;
                let page: Value = serde_json::from_str(&page).ok()?;
                page["parts"]
                    .as_array()?
                    .iter()
                    .any(|told| told["name"] == part.as_str() && told["state"] == "degraded")
                    .then_some(())
            })
            .await;
        }
    }
    for im in &ims {
        until("the level", async || im.wrote(&["\"DEBUG\"", "\"stored\""]).then_some(())).await;
    }

    // Who starts anew has no older document, so they are set right again.
    config.set("dev/im-service/clog", &json!({ "level": "debug" })).await.unwrap();
    config.set("dev/im-service/db", &db(8)).await.unwrap();
    config.set("dev/im-service/mq", &servers.mq()).await.unwrap();

    // The leader dies in the midst of it, and the other one leads; then that one dies.
    for _ in 0..2 {
        let leader = usize::from(!leads(&ims[0]).await);
        ims[leader].kill();
        until("the other one leads", async || leads(&ims[1 - leader]).await.then_some(())).await;
        ims[leader].restart("").await;
    }
    let summary = tokio::time::timeout(2 * LIMIT, replaying).await.unwrap().unwrap().unwrap();
    assert!(summary.wrong.is_empty(), "{summary}\n{}\n{}", ims[0].log(), ims[1].log());

    // A limit acts on both, and what it is lifted to as well.
    let clients = ims.each_ref().map(|im| Client::new(&[im.address]).unwrap());
    let tight = json!({ "rate": 1, "per": "day", "burst": 1, "scope": "exact" });
    config.set("dev/im-service/ratelimit/send", &tight).await.unwrap();
    for client in &clients {
        until("429", async || (send(client, None).await == StatusCode::TOO_MANY_REQUESTS).then_some(()))
            .await;
    }
    config.set("dev/im-service/ratelimit/send", &limit).await.unwrap();
    for client in &clients {
        until("201", async || (send(client, None).await == StatusCode::CREATED).then_some(())).await;
    }

    // The store is away, for longer than a lease: what needs no claim goes on, what does says so.
    servers.etcd.servers()[0].signal(Signal::Stop);
    for client in &clients {
        assert_eq!(send(client, None).await, StatusCode::CREATED);
        let room = client.ask(http::Request::get("/"), "/rooms/r1", String::new()).await.unwrap();
        assert_eq!(room.status(), StatusCode::OK);
        assert_eq!(send(client, Some("away")).await, StatusCode::SERVICE_UNAVAILABLE);
    }
    servers.etcd.servers()[0].signal(Signal::Continue);
    let back =
        async || (send(&clients[0], Some("away")).await != StatusCode::SERVICE_UNAVAILABLE).then_some(());
    until("keyed sends again", back).await;
    until("one message of that key", async || {
        (send(&clients[1], Some("away")).await == StatusCode::OK).then_some(())
    })
    .await;

    for im in &ims {
        im.signal(Signal::Terminate);
    }
    for im in &ims {
        until("the end", async || im.has_ended().then_some(())).await;
        assert!(!im.wrote(&["not shut down in order"]), "{}", im.log());
    }
    coord.provider().close().await.unwrap();
    drop(servers.redis);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_step_one_of_two_dies_at_nothing_is_lost_or_doubled() {
    let servers = Servers::start();
    let coord = servers.coord().await;
    let config = coord.provider().config();
    config.set("dev/im-service/mq", &servers.mq()).await.unwrap();
    let mut ims = [Im::start(&servers.options()).await, Im::start(&servers.options()).await];
    let at = [ims[0].address, ims[1].address];
    for (round, step) in STEPS.into_iter().enumerate() {
        let im = &mut ims[round % 2];
        im.restart(&format!("{step}={}*off->return", 3 + round)).await;
        let lines = part(round, STEPS.len());
        let replaying = tokio::spawn(async move { replay(&lines, &at).await });
        until(step, async || (im.has_ended() || replaying.is_finished()).then_some(())).await;
        assert!(im.has_ended(), "it did not die at {step}:\n{}", im.log());
        im.restart("").await;
        let summary = tokio::time::timeout(2 * LIMIT, replaying).await.unwrap().unwrap().unwrap();
        assert!(summary.wrong.is_empty(), "{step}: {summary}\n{}\n{}", ims[0].log(), ims[1].log());
    }
    coord.provider().close().await.unwrap();
}
