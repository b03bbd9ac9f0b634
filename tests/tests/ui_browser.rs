//! The page for operators in a real browser, over a real etcd with a lot in it.
//!
//! Pictures of it, in light and dark, wide and narrow, go to the directory that COORD_UI_PICTURES
//! names, for people to look at.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails by panicking, and shows what it measured"
)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use coord::prelude::*;
use coord::ui::UiOptions;
use coord::{
    CampaignOptions, Coord, LockGuard, Note, PermitLimit, PermitOptions, Registration, ServiceInstance,
};
use coord_servers::chromium::Chromium;
use coord_servers::etcd::{Binary, Cluster, Series};
use fantoccini::key::Key;
use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder, Locator};
use futures_util::{StreamExt as _, stream};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use url::{ParseError, Url};

/// How long something may take to show. Generous: what counts is that it does.
const SOON: Duration = Duration::from_secs(120);

const TOKEN: &str = "a token of some length";

/// The views, and the number of rows that [`fill`] gives them.
const VIEWS: &[(&str, &str)] = &[
    ("locks", "100 of 1,000"),
    ("elections", "1"),
    ("semaphores", "1"),
    ("services", "10"),
    ("services/service-3", "100 of 1,000"),
    ("ids", "1"),
    ("sessions", ""),
    ("config", "100 of 5,00"),
    ("config/dev%2Fshop%2Flimits", ""),
    ("events", ""),
];

/// What WebDriver itself does not have: a command of ChromeDriver.
#[derive(Debug)]
struct Extra {
    path: &'static str,
    body: Value,
}

impl WebDriverCompatibleCommand for Extra {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.path))
    }

    fn method_and_body(&self, _: &Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(self.body.to_string()))
    }
}

/// The page over a store, in a browser.
struct Page {
    browser: Client,
    url: String,
}

impl Page {
    async fn open(chromium: &Chromium, url: &str) -> Self {
        let mut builder = ClientBuilder::new(HttpConnector::new());
        let browser = builder.capabilities(chromium.capabilities()).connect(chromium.url()).await;
        let page = Page { browser: browser.unwrap(), url: url.to_owned() };
        page.resize(1280, 900).await;
        page
    }

    /// Goes to a view, as by its address, and waits until that shows something.
    async fn go(&self, view: &str) {
        self.browser.goto(&format!("{}#/{view}", self.url)).await.unwrap();
        self.browser.refresh().await.unwrap();
        let script = "const content = document.getElementById('content');
            return content.children.length > 0 && !content.innerText.includes('Loading')";
        self.until("it shows something", script).await;
    }

    async fn run(&self, script: &str) -> Value {
        self.browser.execute(script, Vec::new()).await.unwrap()
    }

    /// Waits until a script returns true.
    async fn until(&self, what: &str, script: &str) {
        let deadline = tokio::time::Instant::now() + SOON;
        while self.run(script).await != json!(true) {
            if tokio::time::Instant::now() >= deadline {
                let shown = self.run("return document.body.innerText").await;
                panic!("not so: {what}; the page says: {}", shown.as_str().unwrap_or_default());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until the text of the page has this.
    async fn shows(&self, text: &str) {
        let script = format!("return document.body.innerText.includes({})", json!(text));
        self.until(&format!("it shows {text:?}"), &script).await;
    }

    async fn text(&self) -> String {
        self.run("return document.body.innerText").await.as_str().unwrap().to_owned()
    }

    async fn extra(&self, path: &'static str, body: Value) -> Value {
        self.browser.issue_cmd(Extra { path, body }).await.unwrap()
    }

    async fn devtools(&self, command: &str, parameters: Value) {
        self.extra("goog/cdp/execute", json!({ "cmd": command, "params": parameters })).await;
    }

    async fn resize(&self, width: u32, height: u32) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.devtools("Emulation.setDeviceMetricsOverride", size).await;
    }

    async fn prefer(&self, scheme: &str) {
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.devtools("Emulation.setEmulatedMedia", features).await;
    }

    async fn picture(&self, name: &str) {
        let Some(directory) = std::env::var_os("COORD_UI_PICTURES").map(PathBuf::from) else { return };
        std::fs::create_dir_all(&directory).unwrap();
        let picture = self.browser.screenshot().await.unwrap();
        std::fs::write(directory.join(format!("{name}.png")), picture).unwrap();
    }

    /// Nothing was refused, nothing failed, nothing ran that is not the page's own.
    async fn is_clean(&self) {
        let log = self.extra("se/log", json!({ "type": "browser" })).await;
        let severe: Vec<_> =
            log.as_array().unwrap().iter().filter(|entry| entry["level"] == "SEVERE").collect();
        assert!(severe.is_empty(), "{severe:#?}");
        let scripts = self
            .run("return document.scripts.length + document.querySelectorAll('img, iframe, object').length")
            .await;
        assert_eq!(scripts, json!(1), "only the page's own script");
        assert_eq!(self.run("return typeof window.ran").await, json!("undefined"), "something ran");
    }

    async fn close(self) {
        self.browser.close().await.unwrap();
    }
}

/// Serves the page over this client, at some path, and says where.
async fn serve(coord: &Coord, options: UiOptions) -> String {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = Router::new().nest("/ops/coord", coord.ui(options).router());
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    format!("http://{address}/ops/coord")
}

async fn all<T>(work: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    stream::iter(work).buffer_unordered(64).collect().await
}

/// A thousand locks, ten thousand instances, five thousand keys, of twenty clients.
async fn fill(url: &str) -> (Vec<Coord>, Vec<LockGuard>, Vec<Registration>) {
    let mut clients = Vec::new();
    for n in 0..20 {
        clients.push(coord::open(&format!("{url}?name=node-{n}")).await.unwrap());
    }
    let ttl = Duration::from_secs(60);
    let locks = (0..1_000).map(|n| {
        let lock = Arc::clone(clients[n % clients.len()].lock());
        async move { lock.acquire(&format!("jobs/{n:04}"), ttl).await.unwrap() }
    });
    let guards = all(locks).await;
    let instances = (0..10_000).map(|n| {
        let registry = Arc::clone(clients[n % clients.len()].registry());
        let name = format!("service-{}", n % 10);
        let instance = ServiceInstance::new(name, format!("i-{n:05}"), "10.0.0.7", 8080);
        let instance = instance.with_metadata("zone", ["a", "b", "c"][n % 3]);
        async move { registry.register(instance).await.unwrap() }
    });
    let registrations = all(instances).await;
    let documents = (0..5_000).map(|n| {
        let config = Arc::clone(clients[n % clients.len()].config());
        async move { config.set(&format!("dev/app-{}/component-{n:04}", n % 50), &n).await.unwrap() }
    });
    all(documents).await;
    (clients, guards, registrations)
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_lot_the_page_shows_what_is_looked_at() {
    let cluster = Cluster::single(&Binary::find(Series::V3_5));
    let url = format!("etcd://{}/shop", cluster.endpoints()[0].trim_start_matches("http://"));
    let (clients, guards, registrations) = fill(&url).await;
    let first = &clients[0];
    let config = first.config();
    let limits = json!({ "per_second": 50, "db": { "user": "shop", "password": "hunter2" } });
    config
        .publish("dev/shop/limits", &json!({ "per_second": 10 }), Note::new("ann", "to begin with"))
        .await
        .unwrap();
    let version = config.publish("dev/shop/limits", &limits, Note::new("ben", "the sale")).await.unwrap();
    let uses = first.versions_in_use().unwrap();
    uses.set("dev/shop/limits", version);
    let _leads =
        first.election("scheduler").campaign("node-0: ready", CampaignOptions::default()).await.unwrap();
    let permits = PermitOptions::new(PermitLimit::Exactly(4));
    let _permit = first.semaphore("uploads").acquire(3, permits).await.unwrap();
    let _id = first.allocator().acquire_id("chat", 1023).await.unwrap();

    let (address, chromium) = (serve(first, UiOptions::default()).await, Chromium::start());
    let page = Page::open(&chromium, &address).await;
    for (view, count) in VIEWS {
        for (width, height, size) in [(1280, 900, "wide"), (375, 800, "narrow")] {
            page.resize(width, height).await;
            page.go(view).await;
            page.shows(count).await;
            page.shows("Healthy").await;
            let sideways = page.run("return document.documentElement.scrollWidth - window.innerWidth").await;
            assert!(sideways.as_i64().unwrap() <= 0, "{view} is {sideways} px too wide at {width} px");
            for scheme in ["light", "dark"] {
                page.prefer(scheme).await;
                page.picture(&format!("{}-{size}-{scheme}", view.replace(['/', '%'], "-"))).await;
            }
            page.prefer("light").await;
        }
        page.is_clean().await;
    }
    page.resize(1280, 900).await;
    page.go("config/dev%2Fshop%2Flimits").await;
    page.shows("the sale").await;
    page.shows("Used by 1 process").await;
    assert!(!page.run("return document.documentElement.outerHTML").await.to_string().contains("hunter2"));

    // What it took is told for people; what is promised is that nothing waits for all there is.
    page.go("locks").await;
    let paint = page.run("return performance.getEntriesByName('first-contentful-paint')[0].startTime").await;
    let rows = page.run("return document.querySelectorAll('#content tbody').length").await;
    println!("first paint after {paint} ms; {rows} locks shown");
    assert!(rows.as_u64().unwrap() <= 400, "only what is looked at is there: {rows}");

    // Live: what changes in the store shows by itself, and what is open stays open.
    let waits = {
        let lock = Arc::clone(clients[1].lock());
        tokio::spawn(async move { lock.acquire("jobs/0000", Duration::from_secs(60)).await.unwrap() })
    };
    page.shows("1 waiting").await;
    page.run("document.querySelector('#content details summary').click()").await;
    page.until("it is open", "return document.querySelector('#content details').open").await;
    let holder = clients[0].lock().acquire("jobs/-first", Duration::from_secs(60)).await.unwrap();
    page.shows("jobs/-first").await;
    page.until("it stays open", "return document.querySelector('#content details').open").await;
    holder.unlock().await.unwrap();
    page.until("it goes", "return !document.body.innerText.includes('jobs/-first')").await;
    page.browser.find(Locator::Id("filter")).await.unwrap().send_keys("jobs/0042").await.unwrap();
    page.shows("1 of 1,000").await;
    page.is_clean().await;

    // An outage is red, and its end is green.
    let mut cluster = cluster;
    cluster.servers()[0].signal(coord_servers::process::Signal::Stop);
    page.shows("Not healthy").await;
    cluster.servers()[0].signal(coord_servers::process::Signal::Continue);
    page.shows("✓ Healthy").await;
    page.close().await;
    drop((guards, registrations, waits, clients));
    cluster.servers_mut()[0].kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_what_stands_in_a_store_runs() {
    const NAMES: &[&str] = &[
        "<img src=x onerror=\"window.ran=1\">",
        "\"><script>window.ran=1</script>",
        "javascript:window.ran=1",
        "'-window.ran=1-'",
        "\u{202e}gnp.exe\u{2066}",
        "<svg onload=window.ran=1>",
        "{{constructor.constructor('window.ran=1')()}}",
    ];
    let coord = coord::open("memory://").await.unwrap();
    let (mut kept, mut registrations, mut leaders) = (Vec::new(), Vec::new(), Vec::new());
    let ttl = Duration::from_secs(300);
    for (n, name) in NAMES.iter().enumerate() {
        let key = format!("x{n}/{}", name.replace('/', "_"));
        kept.push(coord.lock().acquire(&key, ttl).await.unwrap());
        let instance = ServiceInstance::new("chat", format!("c-{n}"), "10.0.0.7", 8080);
        let instance = instance.with_metadata(*name, *name);
        registrations.push(coord.registry().register(instance).await.unwrap());
        let note = Note::new(*name, *name);
        coord.config().publish(&key, &json!({ *name: name }), note).await.unwrap();
        leaders.push(coord.election(&key).campaign(*name, CampaignOptions::default()).await.unwrap());
    }
    let (address, chromium) = (serve(&coord, UiOptions::default()).await, Chromium::start());
    let page = Page::open(&chromium, &address).await;
    for view in ["locks", "elections", "services/chat", "config"] {
        page.go(view).await;
        page.shows(if view == "services/chat" { "c-0" } else { "x0/" }).await;
        page.is_clean().await;
    }
    for (n, name) in NAMES.iter().enumerate() {
        let key = format!("x{n}/{}", name.replace('/', "_"));
        let encoded: String = url::form_urlencoded::byte_serialize(key.as_bytes()).collect();
        page.go(&format!("config/{}", encoded.replace('+', "%20"))).await;
        page.shows("Version").await;
        page.is_clean().await;
    }
    assert!(!page.text().await.contains('\u{202e}'), "what turns the text around is shown as what it is");
    page.close().await;
    drop((kept, registrations, leaders));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_the_token_changes_a_document_with_the_keyboard_alone() {
    let coord = coord::open("memory://").await.unwrap();
    coord
        .config()
        .publish("dev/a", &json!({ "n": 1, "token": "hunter2" }), Note::new("ann", "one"))
        .await
        .unwrap();
    let options = UiOptions::default().with_edit(TOKEN).unwrap();
    let (address, chromium) = (serve(&coord, options).await, Chromium::start());
    let page = Page::open(&chromium, &address).await;
    page.go("config/dev%2Fa").await;
    page.shows("Edit").await;
    page.run("document.querySelector('#content .pane-head a.button').focus()").await;
    press(&page, &[Key::Enter.to_string()]).await;
    page.until("the editor is there", "return !!document.querySelector('textarea')").await;
    page.run(
        "const t = document.querySelector('textarea'); t.focus(); t.setSelectionRange(0, t.value.length)",
    )
    .await;
    let text = json!({ "n": 2, "token": "«hidden»" }).to_string();
    press(&page, &[text]).await;
    page.run("document.querySelector('.editor button.main').focus()").await;
    press(&page, &[Key::Enter.to_string()]).await;
    page.until("it asks", "return !!document.querySelector('dialog[open]')").await;
    let tab = Key::Tab.to_string();
    press(&page, &["two".to_owned(), tab.clone(), "ben".to_owned(), tab, TOKEN.to_owned()]).await;
    page.picture("dialog").await;
    press(&page, &[Key::Enter.to_string()]).await;
    page.until("it is done", "return !document.querySelector('dialog[open]')").await;
    page.shows("ben").await;
    let now: Value = coord.config().get("dev/a").await.unwrap().unwrap();
    assert_eq!(now, json!({ "n": 2, "token": "hunter2" }), "what was hidden stays as it was");
    page.is_clean().await;
    page.close().await;
}

/// Types where the focus is.
async fn press(page: &Page, keys: &[String]) {
    page.browser.active_element().await.unwrap().send_keys(&keys.concat()).await.unwrap();
}
