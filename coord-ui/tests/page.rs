//! The page as a browser gets it: what is shown and what is not, and what can be changed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, BodyDataStream};
use axum::http::{Method, Request, StatusCode};
use coord_api::prelude::*;
use coord_api::{Note, ServiceInstance, Version};
use coord_memory::MemoryProvider;
use coord_recipes::{CampaignOptions, Election, VersionsInUse};
use coord_ui::{Ui, UiOptions};
use futures_util::StreamExt as _;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;

const TOKEN: &str = "a token of some length";

fn page_of(provider: &Arc<MemoryProvider>, options: UiOptions) -> Router {
    Ui::new(provider.core(), Arc::clone(provider.config()), options).router()
}

fn get(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

async fn text(page: &Router, request: Request<Body>) -> (StatusCode, String) {
    let response = page.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

async fn ask(page: &Router, request: Request<Body>) -> (StatusCode, Value) {
    let (status, text) = text(page, request).await;
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

async fn order(page: &Router, token: Option<&str>, path: &str, order: Value) -> (StatusCode, Value) {
    let mut request =
        Request::builder().method(Method::POST).uri(path).header("content-type", "application/json");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    ask(page, request.body(Body::from(order.to_string())).unwrap()).await
}

/// What a viewer is sent.
struct Viewer {
    body: BodyDataStream,
    text: String,
}

impl Viewer {
    async fn of(page: &Router, query: &str) -> Self {
        let response = page.clone().oneshot(get(&format!("/api/stream?{query}"))).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Viewer { body: response.into_body().into_data_stream(), text: String::new() }
    }

    /// The next event: its name and what it says. `None` at the end.
    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            while let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    event.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()))
                };
                let found = field("event:").map(|name| (name, field("data:").unwrap_or_default()));
                self.text = rest.to_owned();
                if let Some((name, data)) = found {
                    return Some((name, serde_json::from_str(&data).unwrap()));
                }
            }
            let frame = tokio::time::timeout(Duration::from_secs(600), self.body.next())
                .await
                .expect("nothing is sent");
            self.text.push_str(std::str::from_utf8(&frame?.unwrap()).unwrap());
        }
    }

    /// The next one of this name that is as wanted.
    async fn find(&mut self, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..200 {
            let (found, data) = self.next().await.expect("the stream is over");
            if found == name && wanted(&data) {
                return data;
            }
        }
        panic!("no {name} is as wanted");
    }
}

#[tokio::test(start_paused = true)]
async fn it_can_be_mounted_anywhere_and_loads_nothing_of_anybody_elses() {
    let provider = MemoryProvider::new();
    let page = page_of(&provider, UiOptions::default());
    let nested = Router::new().nest("/ops/coord", page.clone()).nest("/a\"b", page.clone());
    let (status, root) = text(&page, get("/")).await;
    assert_eq!(status, StatusCode::OK);
    assert!(root.contains("src=\"assets/ui.js\"") && root.contains("href=\"assets/ui.css\""), "{root}");
    let (_, found) = text(&nested, get("/ops/coord")).await;
    assert!(
        found.contains("src=\"coord/assets/ui.js\"") && found.contains("href=\"coord/assets/ui.css\""),
        "{found}"
    );

    for path in ["/", "/assets/ui.css", "/assets/ui.js", "/assets/none.js", "/api/diff?key=a&from=1&to=2"] {
        let response = page.clone().oneshot(get(path)).await.unwrap();
        let headers = response.headers();
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{path}: {policy}");
        assert_eq!(headers["x-content-type-options"], "nosniff", "{path}");
        let found = response.status() == StatusCode::OK;
        assert_eq!(found, !path.contains("none") && !path.contains("diff"), "{path}: {}", response.status());
    }
    for asset in ["/assets/ui.css", "/assets/ui.js"] {
        assert_eq!(text(&nested, get(&format!("/ops/coord{asset}"))).await, text(&page, get(asset)).await);
    }
    // What the page asks for is relative to it.
    assert!(!root.contains("src=\"/") && !root.contains("href=\"/") && !root.contains("://"), "{root}");
}

#[tokio::test(start_paused = true)]
async fn only_who_asks_by_a_known_name_is_answered_where_names_are_given() {
    let provider = MemoryProvider::new();
    let page = page_of(&provider, UiOptions::default().with_hosts(["ops.example"]));
    let by = |host: &str| Request::get("/").header("host", host).body(Body::empty()).unwrap();
    for host in ["127.0.0.1:80", "localhost:80", "ops.example"] {
        assert_eq!(text(&page, by(host)).await.0, StatusCode::OK, "{host}");
    }
    for host in ["evil.example", "localhost.evil.example"] {
        assert_eq!(text(&page, by(host)).await.0, StatusCode::FORBIDDEN, "{host}");
    }
    assert_eq!(text(&page, get("/")).await.0, StatusCode::FORBIDDEN, "no name at all");
}

#[tokio::test(start_paused = true)]
async fn who_looks_at_locks_sees_each_change() {
    let provider = MemoryProvider::new();
    let page = page_of(&provider, UiOptions::default());
    let mut viewer = Viewer::of(&page, "view=locks").await;
    let (name, health) = viewer.next().await.unwrap();
    assert_eq!((name.as_str(), &health["ok"], &health["edit"]), ("health", &json!(true), &json!(false)));
    assert_eq!(viewer.find("view", |_| true).await["total"], 0);

    let ttl = Duration::from_secs(30);
    let guard = provider.lock().acquire("reports/daily", ttl).await.unwrap();
    let held = viewer.find("view", |view| view["total"] == 1).await;
    let row = &held["rows"][0];
    assert_eq!(
        (&row["name"], &row["held"], &row["waiting"]),
        (&json!("reports/daily"), &json!(1), &json!(0))
    );
    let holder = &row["holders"][0];
    assert_eq!(holder["token"], json!(guard.fencing_token()));
    assert_eq!(holder["lock"]["mode"], "exclusive");
    assert_eq!(holder["process"]["pid"], std::process::id());
    let session = holder["session"].as_str().unwrap();
    let left = held["remaining"][session].as_u64().unwrap();
    assert!(left <= 30 && held["ttl"][session].as_u64().unwrap() >= left, "{held}");

    let waiting = tokio::spawn({
        let lock = Arc::clone(provider.lock());
        async move { lock.acquire("reports/daily", ttl).await }
    });
    viewer.find("view", |view| view["rows"][0]["waiting"] == 1).await;
    let health = viewer.find("health", |health| !health["renewal"].is_null()).await;
    assert_eq!(health["renewal"]["sessions"], 1, "{health}");
    guard.unlock().await.unwrap();
    let next = waiting.await.unwrap().unwrap();
    let token = json!(next.fencing_token());
    viewer
        .find("view", |view| {
            view["rows"][0]["holders"][0]["token"] == token && view["rows"][0]["waiting"] == 0
        })
        .await;
    next.unlock().await.unwrap();
    viewer.find("view", |view| view["total"] == 0).await;
}

#[tokio::test(start_paused = true)]
async fn of_many_rows_those_are_sent_that_were_asked_for() {
    let provider = MemoryProvider::new();
    let page = page_of(&provider, UiOptions::default());
    let mut kept = Vec::new();
    for n in 0..300 {
        let instance = ServiceInstance::new("chat", format!("chat-{n}"), "10.0.0.7", 8080);
        let instance = instance.with_metadata("zone", if n % 3 == 0 { "Aquila" } else { "b" });
        kept.push(provider.registry().register(instance).await.unwrap());
        provider.config().set(&format!("dev/chat/{n:03}"), &n).await.unwrap();
    }
    for (query, total, matching, rows) in [
        ("view=instances&name=chat", 300, 300, 100),
        ("view=instances&name=chat&limit=250", 300, 300, 250),
        ("view=instances&name=chat&filter=aquila&limit=1000", 300, 100, 100),
        ("view=instances&name=chat&filter=CHAT-29", 300, 11, 11),
        ("view=instances&name=none", 0, 0, 0),
        ("view=instances", 0, 0, 0),
        ("view=services", 1, 1, 1),
        ("view=config&filter=/29", 300, 10, 10),
        ("view=config&limit=0", 300, 300, 1),
        ("view=sessions", 1, 1, 1),
        ("view=ids", 0, 0, 0),
        ("view=semaphores", 0, 0, 0),
        ("view=events", 0, 0, 0),
    ] {
        let view = Viewer::of(&page, query).await.find("view", |_| true).await;
        let counts =
            (view["total"].as_u64(), view["matching"].as_u64(), view["rows"].as_array().unwrap().len());
        assert_eq!(counts, (Some(total), Some(matching), rows), "{query}");
    }
    let session = Viewer::of(&page, "view=sessions").await.find("view", |_| true).await;
    let row = &session["rows"][0];
    assert_eq!((&row["keys"], row["some_keys"].as_array().unwrap().len()), (&json!(300), 20), "{row}");
    assert!(row["remaining_s"].as_u64().is_some_and(|left| left <= 30), "{row}");
    let none = Viewer::of(&page, "view=none").await.find("health", |_| true).await;
    assert_eq!(none["store"]["ok"], true);
    let (status, _) = text(&page, get("/api/stream?view=nothing")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[tokio::test(start_paused = true)]
async fn what_is_secret_is_in_nothing_that_is_sent() {
    const SECRET: &str = "hunter2";
    let provider = MemoryProvider::new();
    let page = page_of(&provider, UiOptions::default().with_edit(TOKEN).unwrap());
    let config = provider.config();
    let document =
        |port| json!({ "port": port, "db": { "password": SECRET, "url": format!("pg://u:{SECRET}@h/x") } });
    let first = config.publish("dev/shop/db", &document(1), Note::new("ann", "one")).await.unwrap();
    let second = config.publish("dev/shop/db", &document(2), Note::new("ben", "two")).await.unwrap();
    let changed = json!({ "port": 2, "db": { "password": format!("{SECRET}3"), "url": "pg://h/x" } });
    let third = config.publish("dev/shop/db", &changed, Note::new("ben", "three")).await.unwrap();
    config.set("dev/shop/api_token", SECRET).await.unwrap();
    config.set_raw("dev/shop/ini", format!("password={SECRET}").into_bytes().into()).await.unwrap();
    let instance = ServiceInstance::new("shop", "shop-1", "10.0.0.7", 1).with_metadata("api-key", SECRET);
    let _registration = provider.registry().register(instance).await.unwrap();
    let says = format!("{{\"secret\":\"{SECRET}\"}}");
    let election = Election::new(provider.core(), "jobs");
    let _leader = election.campaign(says, CampaignOptions::default()).await.unwrap();

    // Not even whether it is there.
    let mut asked = Viewer::of(&page, &format!("view=instances&name=shop&filter={SECRET}")).await;
    let found = asked.find("view", |_| true).await;
    assert_eq!((&found["total"], &found["matching"]), (&json!(1), &json!(0)));
    let mut sent = Vec::new();
    for query in [
        "view=config",
        "view=document&name=dev/shop/db",
        "view=document&name=dev/shop/api_token",
        "view=document&name=dev/shop/ini",
        "view=instances&name=shop",
        "view=elections",
    ] {
        let mut viewer = Viewer::of(&page, query).await;
        sent.push(
            viewer
                .find("view", |view| view["rows"].as_array().is_some_and(|rows| !rows.is_empty()))
                .await
                .to_string(),
        );
    }
    for path in [
        format!("/api/version?key=dev/shop/db&version={first}"),
        format!("/api/diff?key=dev/shop/db&from={first}&to={second}"),
        format!("/api/diff?key=dev/shop/db&from={second}&to={third}"),
    ] {
        let (status, told) = text(&page, get(&path)).await;
        assert_eq!(status, StatusCode::OK, "{told}");
        sent.push(told);
    }
    for told in &sent {
        assert!(!told.contains(SECRET), "{told}");
    }
    // What was written without a record can be compared as well, for as long as it stands there.
    let plain = config.set("dev/shop/db", &json!({ "port": 9 })).await.unwrap();
    let (status, told) = ask(&page, get(&format!("/api/diff?key=dev/shop/db&from={third}&to={plain}"))).await;
    assert_eq!((status, &told[0]["path"]), (StatusCode::OK, &json!("/db")), "{told}");
    assert!(!told.to_string().contains(SECRET), "{told}");
    let third = config.publish("dev/shop/db", &changed, Note::new("ben", "again")).await.unwrap();
    let (status, _) = ask(&page, get(&format!("/api/version?key=dev/shop/db&version={plain}"))).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let shown: Value = serde_json::from_str(&sent[1]).unwrap();
    let row = &shown["rows"][0];
    assert_eq!(
        (&row["hidden"], &row["kind"], &row["changed_since"]),
        (&json!(1), &json!("json"), &json!(false))
    );
    assert_eq!(row["history"][0]["author"], "ben");
    assert_eq!(row["history"].as_array().unwrap().len(), 3);
    let differences: Value = serde_json::from_str(&sent[8]).unwrap();
    assert_eq!(differences.as_array().unwrap().len(), 2, "that it changed is told: {differences}");
    assert!(differences[0]["hidden"] == true && differences[0]["path"] == "/db/password", "{differences}");

    // Who was not shown it leaves it as it is.
    let mut typed: Value = serde_json::from_str(row["text"].as_str().unwrap()).unwrap();
    typed["port"] = json!(3);
    let set = json!({ "key": "dev/shop/db", "text": typed.to_string(), "expected": third, "author": "ann" });
    let (status, told) = order(&page, Some(TOKEN), "/api/config", set).await;
    assert_eq!(status, StatusCode::OK, "{told}");
    let now: Value = config.get("dev/shop/db").await.unwrap().unwrap();
    assert_eq!(now, json!({ "port": 3, "db": { "password": format!("{SECRET}3"), "url": "pg://h/x" } }));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_changed_without_the_token() {
    let provider = MemoryProvider::new();
    let version = provider.config().set("dev/a", &1).await.unwrap();
    let guard = provider.lock().acquire("a", Duration::from_secs(30)).await.unwrap();
    let read_only = page_of(&provider, UiOptions::default());
    let edited = page_of(&provider, UiOptions::default().with_edit(TOKEN).unwrap());
    let orders = [
        ("/api/config", json!({ "key": "dev/a", "text": "2", "expected": version, "author": "eve" })),
        (
            "/api/rollback",
            json!({ "key": "dev/a", "version": version, "expected": version, "author": "eve" }),
        ),
        ("/api/end", json!({ "kind": "lock", "name": "a", "token": guard.fencing_token() })),
    ];
    for (path, body) in &orders {
        for (page, token) in
            [(&read_only, Some(TOKEN)), (&edited, None), (&edited, Some("another token of a length"))]
        {
            let (status, told) = order(page, token, path, body.clone()).await;
            assert_eq!(status, StatusCode::FORBIDDEN, "{path}: {told}");
            assert_eq!(told["error"]["kind"], "permission_denied");
        }
        let (status, _) = text(&edited, get(path)).await;
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{path}");
    }
    assert_eq!(provider.config().get::<u32>("dev/a").await.unwrap(), Some(1));
    assert!(guard.is_held());
}

#[tokio::test(start_paused = true)]
async fn who_has_the_token_sets_and_rolls_back_and_ends() {
    let provider = MemoryProvider::new();
    let page = page_of(&provider, UiOptions::default().with_edit(TOKEN).unwrap());
    let set = |text: &str, expected: Version, author: &str| json!({ "key": "dev/a", "text": text, "expected": expected, "note": "why", "author": author });
    let (status, told) = order(&page, Some(TOKEN), "/api/config", set("1", Version::ZERO, "ann")).await;
    assert_eq!(status, StatusCode::OK, "{told}");
    let first: Version = serde_json::from_value(told["version"].clone()).unwrap();
    let (status, told) = order(&page, Some(TOKEN), "/api/config", set("2", Version::ZERO, "ann")).await;
    assert_eq!((status, &told["error"]["current"]), (StatusCode::CONFLICT, &json!(first)), "{told}");
    for (text, author) in [("{", "ann"), ("2", " "), ("{\"password\":\"«hidden»\"}", "ann")] {
        let (status, told) = order(&page, Some(TOKEN), "/api/config", set(text, first, author)).await;
        assert_eq!(
            (status, &told["error"]["kind"]),
            (StatusCode::BAD_REQUEST, &json!("invalid_argument")),
            "{told}"
        );
    }
    let (status, told) = order(&page, Some(TOKEN), "/api/config", set("2", first, "ann")).await;
    assert_eq!(status, StatusCode::OK, "{told}");
    let second = told["version"].clone();
    let back = json!({ "key": "dev/a", "version": first, "expected": second, "author": "ben" });
    let (status, told) = order(&page, Some(TOKEN), "/api/rollback", back).await;
    assert_eq!(status, StatusCode::OK, "{told}");
    assert_eq!(provider.config().get::<u32>("dev/a").await.unwrap(), Some(1));
    let shown = Viewer::of(&page, "view=document&name=dev/a").await.find("view", |_| true).await;
    let newest = &shown["rows"][0]["history"][0];
    assert_eq!((&newest["author"], &newest["current"]), (&json!("ben"), &json!(true)), "{shown}");

    let guard = provider.lock().acquire("a", Duration::from_secs(30)).await.unwrap();
    let end = json!({ "kind": "lock", "name": "a", "token": guard.fencing_token() });
    let (status, told) = order(&page, Some(TOKEN), "/api/end", end.clone()).await;
    assert_eq!((status, told), (StatusCode::OK, json!({ "ended": true })));
    guard.lost().await;
    let (_, told) = order(&page, Some(TOKEN), "/api/end", end).await;
    assert_eq!(told, json!({ "ended": false }), "its successor's is not touched");
    let (status, told) = order(&page, Some(TOKEN), "/api/end", json!({ "kind": "what" })).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{told}");
}

#[tokio::test(start_paused = true)]
async fn there_are_seats_for_so_many_and_who_goes_leaves_one() {
    let provider = MemoryProvider::new();
    let page = page_of(&provider, UiOptions::default().with_viewers(2));
    let mut first = Viewer::of(&page, "view=locks").await;
    let second = Viewer::of(&page, "view=locks").await;
    first.next().await.unwrap();
    let mut third = Viewer::of(&page, "view=locks").await;
    let (name, told) = third.next().await.unwrap();
    assert!(name == "end" && told["message"].as_str().unwrap().starts_with("2 look"), "{told}");
    assert!(third.next().await.is_none(), "it is over");
    drop(second);
    Viewer::of(&page, "view=locks").await.next().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_red_and_what_comes_after_it_is_shown() {
    let provider = MemoryProvider::new();
    let page = page_of(&provider, UiOptions::default());
    let _guard = provider.lock().acquire("a", Duration::from_secs(300)).await.unwrap();
    let mut viewer = Viewer::of(&page, "view=locks").await;
    viewer.find("view", |view| view["total"] == 1).await;
    provider.disconnect();
    let health = viewer.find("health", |health| health["ok"] == false).await;
    assert!(
        health["store"]["error"].is_string() && !health["findings"].as_array().unwrap().is_empty(),
        "{health}"
    );
    viewer.find("health", |health| health["watches"]["suspended"] == 1).await;

    let mut newcomer = Viewer::of(&page, "view=locks").await;
    assert_eq!(newcomer.find("failed", |_| true).await["kind"], "unavailable");
    provider.reconnect();
    newcomer.find("view", |view| view["total"] == 1).await;
    viewer.find("health", |health| health["ok"] == true).await;
    let _other = provider.lock().acquire("b", Duration::from_secs(300)).await.unwrap();
    viewer.find("view", |view| view["total"] == 2).await;

    provider.close().await.unwrap();
    viewer.find("end", |_| true).await;
    assert!(viewer.next().await.is_none(), "it is over");
}

#[tokio::test(start_paused = true)]
async fn what_is_no_json_is_edited_as_text_and_json_stays_json() {
    let provider = MemoryProvider::new();
    let page = page_of(&provider, UiOptions::default().with_edit(TOKEN).unwrap());
    let set = |key: &str, text: &str, expected: Version| json!({ "key": key, "text": text, "expected": expected, "author": "ann" });
    let text = provider.config().set_raw("dev/motd", "hello".into()).await.unwrap();
    let number = provider.config().set("dev/a", &1).await.unwrap();
    for (key, typed, expected, status) in [
        ("dev/motd", "hello, world", text, StatusCode::OK),
        ("dev/a", "hello", number, StatusCode::BAD_REQUEST),
        ("dev/new", "hello", Version::ZERO, StatusCode::BAD_REQUEST),
        ("dev/new", "{}", Version::ZERO, StatusCode::OK),
    ] {
        let (found, told) = order(&page, Some(TOKEN), "/api/config", set(key, typed, expected)).await;
        assert_eq!(found, status, "{key}: {told}");
    }
    assert_eq!(provider.config().get_raw("dev/motd").await.unwrap().unwrap().value, "hello, world".into());
}

#[tokio::test(start_paused = true)]
async fn who_has_which_version_in_use_stands_beside_a_document() {
    let provider = MemoryProvider::new();
    let page = page_of(&provider, UiOptions::default());
    let version = provider.config().set("dev/a", &1).await.unwrap();
    let telling = VersionsInUse::new(provider.core()).unwrap();
    telling.set("dev/a", version);
    telling.set("dev/b", version);
    let mut viewer = Viewer::of(&page, "view=document&name=dev/a").await;
    let view = viewer
        .find("view", |view| view["rows"][0]["uses"].as_array().is_some_and(|uses| uses.len() == 1))
        .await;
    let told = &view["rows"][0]["uses"][0];
    assert_eq!((&told["version"], &told["process"]["pid"]), (&json!(version), &json!(std::process::id())));
}
