//! All of coord at work on a set of rate limits: two instances of a service, and an operator who
//! edits their rules while they run.
//!
//! ```console
//! $ cargo run --example quickstart
//! # twice: the second run finds what the first one stored
//! $ cargo run --example quickstart -- --store sled:DIR
//! # the same on etcd
//! $ cargo run --features etcd --example quickstart -- --store etcd://localhost:2379
//! $ cargo run --example quickstart -- --rules FILE          # your own rules
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that shows what happens")]

use std::convert::Infallible;
use std::env::{self, VarError};
use std::error::Error as StdError;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use coord::prelude::*;
use coord::{ConfigManager, FencingToken, InstanceId, Registration, ServiceInstance, Source};
use coord_examples::ledger::Ledger;
use coord_examples::limiter::Limiter;
use coord_examples::load::{Existing, Loaded, edit, load, rules_key};
use coord_examples::rules::{Client, Count, Limit, Method, Period, RateLimits, RuleFile};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

type Result<T, E = Box<dyn StdError + Send + Sync>> = std::result::Result<T, E>;

/// The longest that a run may take; it needs about three seconds.
const TIME_LIMIT: Duration = Duration::from_secs(9);

/// The service that runs here, if the rules know it, and the requests that it gets.
const SERVICE: &str = "user-service";
const PATH: &str = "/v1/sessions";
const METHOD: Method = Method::Post;
const CLIENT: Client = Client::Anonymous;

/// Coord at work: rate limits that change while they are used.
#[derive(Debug, Parser)]
struct Options {
    /// Where the data lives: `memory`, `sled:DIR` to find it again in the next run, or another
    /// store by its URL, such as `etcd://host:2379`.
    #[arg(long, default_value = "memory")]
    store: StoreUrl,
    /// A file with rate limits, instead of those that come with the example. It replaces what the
    /// store holds.
    #[arg(long)]
    rules: Option<PathBuf>,
}

/// A store's URL, or for short `memory`, or `sled:DIR` for a directory below the working directory.
#[derive(Clone, Debug)]
struct StoreUrl(String);

impl FromStr for StoreUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        match text.split_once(':') {
            None if text == "memory" => Ok(StoreUrl("memory://".to_owned())),
            Some(("sled", directory)) if directory.starts_with(|c: char| c.is_ascii_alphanumeric()) => {
                Ok(StoreUrl(format!("sled:./{directory}")))
            }
            Some((scheme, rest)) if !scheme.is_empty() && !rest.is_empty() => Ok(StoreUrl(text.to_owned())),
            _ => Err("neither `memory`, nor `sled:DIR`, nor a store's URL"),
        }
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.split_once(':') {
            Some(("memory", _)) => f.write_str("in memory"),
            Some(("sled", directory)) => {
                write!(f, "in {}", directory.strip_prefix("//").unwrap_or(directory))
            }
            Some((scheme, _)) => write!(f, "on {scheme}"),
            None => f.write_str("somewhere"),
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match timeout(TIME_LIMIT, run(Options::parse())).await {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            eprintln!("error: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprintln!("  because: {error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
        Err(_) => {
            eprintln!("error: not done after {TIME_LIMIT:?}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> Result<()> {
    let started = Instant::now();

    // The whole file is checked before anything is touched, the store's directory included.
    let (path, existing) = match options.rules {
        Some(path) => (path, Existing::Replace),
        None => (Path::new(env!("CARGO_MANIFEST_DIR")).join("data/ratelimit.json"), Existing::Keep),
    };
    let rules = RuleFile::read(&path)?;
    let Some(service) =
        rules.services.keys().find(|name| *name == SERVICE).or_else(|| rules.services.keys().next())
    else {
        return Err("the rules are for no service".into());
    };

    // Three clients of one store stand for three processes: two instances of a service, and an
    // operator.
    let store = Source::open(&options.store.0).await?;
    let operator = store.client().await?;
    let environment = environment()?;

    let earlier = Runs::read(&operator, &environment, &options.store).await?;
    let mut runs = Runs { count: earlier.count.saturating_add(1), ..earlier };
    runs.write(&operator, &environment).await?;
    load_rules(&operator, &environment, &path, &rules, existing).await?;

    println!("\n2. Two instances of {service}");
    let one = Instance::start(Arc::new(store.client().await?), service, 8081).await?;
    let two = Instance::start(Arc::new(store.client().await?), service, 8082).await?;
    one.look_around().await?;

    runs.token = Some(guarded_job(&one, &two, earlier).await?);
    runs.write(&operator, &environment).await?;
    changing_limits(&one, &operator, &environment, service).await?;

    println!("\n5. Good-bye");
    one.stop().await?;
    two.stop().await?;
    println!("   still registered: {}", operator.registry().discover(service).await?.items.len());
    operator.close().await?;
    println!("\nDone in {:.1} s.", started.elapsed().as_secs_f64());
    Ok(())
}

/// Where we run: in this environment's part of the config centre, as config managers do.
fn environment() -> Result<String> {
    match env::var("APP_ENV") {
        Ok(environment) if !environment.is_empty() => Ok(environment),
        Ok(_) | Err(VarError::NotPresent) => Ok("dev".to_owned()),
        Err(error) => Err(error.into()),
    }
}

/// What the runs on one store leave for the next one.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Runs {
    count: u32,
    token: Option<FencingToken>,
}

impl Runs {
    fn key(environment: &str) -> String {
        format!("{environment}/quickstart/runs")
    }

    async fn read(provider: &dyn Provider, environment: &str, place: &StoreUrl) -> Result<Self> {
        let earlier = provider.config().get::<Runs>(&Runs::key(environment)).await?;
        match earlier {
            None => println!("An empty store {place}."),
            Some(Runs { count, .. }) => {
                println!("The store {place}, left by an earlier run ({count} so far).")
            }
        }
        Ok(earlier.unwrap_or_default())
    }

    async fn write(self, provider: &dyn Provider, environment: &str) -> Result<()> {
        provider.config().set(&Runs::key(environment), &self).await?;
        Ok(())
    }
}

async fn load_rules(
    provider: &dyn Provider,
    environment: &str,
    path: &Path,
    rules: &RuleFile,
    existing: Existing,
) -> Result<()> {
    println!(
        "\n1. The rules: {} for {} services, from {}",
        rules.rule_count(),
        rules.services.len(),
        near(path).display()
    );
    for (service, loaded) in load(&**provider.config(), environment, rules, existing).await? {
        let what = match loaded {
            Loaded::Written(version) => format!("written, version {version}"),
            Loaded::Same(version) => format!("there already, version {version}"),
            Loaded::Kept(version) => {
                format!("edited since they were loaded, so left alone: version {version}")
            }
        };
        println!("   {:<42} {what}", rules_key(environment, &service));
    }
    Ok(())
}

/// A path as people would type it here.
fn near(path: &Path) -> PathBuf {
    let here = env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).to_owned()
}

/// One process of the service, as far as coord is concerned.
#[derive(Debug)]
struct Instance {
    provider: Arc<dyn Provider>,
    id: InstanceId,
    registration: Registration,
}

impl Instance {
    /// Takes the smallest free id and registers under it.
    async fn start(provider: Arc<dyn Provider>, service: &str, port: u16) -> Result<Self> {
        let id = provider.allocator().acquire_id(service, 1023).await?;
        let instance = ServiceInstance::new(service, format!("{service}-{}", id.id()), "127.0.0.1", port)
            .with_metadata("zone", "a");
        let registration = provider.registry().register(instance).await?;
        println!(
            "   {} has instance id {} (generation {}) and is registered at port {port}",
            registration.id(),
            id.id(),
            id.generation()
        );
        Ok(Instance { provider, id, registration })
    }

    fn name(&self) -> &str {
        self.registration.id()
    }

    async fn look_around(&self) -> Result<()> {
        let found = self.provider.registry().discover(self.registration.service()).await?;
        let all: Vec<_> = found
            .items
            .iter()
            .map(|instance| format!("{} at {}:{}", instance.id, instance.address, instance.port))
            .collect();
        println!("   {} discovers {}", self.name(), all.join(", "));
        Ok(())
    }

    /// Gives everything back, so that nobody has to wait for a lease to expire.
    async fn stop(self) -> Result<()> {
        self.registration.unregister().await?;
        self.id.release().await?;
        self.provider.close().await?;
        println!("   {} has left", self.name());
        Ok(())
    }
}

/// Two instances want to write one report: one after the other, and never with an old permission.
async fn guarded_job(one: &Instance, two: &Instance, earlier: Runs) -> Result<FencingToken> {
    const JOB: &str = "jobs/usage-report";
    const TTL: Duration = Duration::from_secs(10);
    println!("\n3. A job that one at a time may do: {JOB}");
    let mut ledger = Ledger::default();

    let first = one.provider.lock().acquire(JOB, TTL).await?;
    let old_token = first.fencing_token();
    println!("   {} holds the lock, fencing token {old_token}", one.name());
    if let Some(earlier) = earlier.token {
        println!(
            "   that is more than the {earlier} of the earlier run: tokens never go back, not even over a restart"
        );
    }
    match two.provider.lock().try_acquire(JOB, TTL).await {
        Ok(_) => return Err("two holders of one lock".into()),
        Err(error) => println!("   {} tries and is told: {error}", two.name()),
    }

    // The second one queues while the first one works.
    let (second, worked) = tokio::join!(two.provider.lock().acquire(JOB, TTL), async {
        ledger.write(old_token, "page one")?;
        println!("   {} writes its page and unlocks; {} has been waiting for that", one.name(), two.name());
        first.unlock().await?;
        Result::<()>::Ok(())
    });
    worked?;
    let second = second?;
    let token = second.fencing_token();

    // The guarded work, given up at once if the lock is lost.
    tokio::select! {
        loss = second.lost() => return Err(format!("the lock was lost: {loss}").into()),
        written = async { ledger.write(token, "page two") } => written?,
    }
    println!("   {} holds the lock, fencing token {token}, and writes the next page", two.name());
    match ledger.write(old_token, "page one, late") {
        Ok(()) => return Err("the ledger took an old token".into()),
        Err(refused) => println!("   a late write of {} is refused: {refused}", one.name()),
    }
    second.unlock().await?;
    println!("   the report has {} pages", ledger.pages().len());
    Ok(token)
}

/// A rate limiter under load, whose rules an operator edits meanwhile: well, then badly, then well
/// again.
async fn changing_limits(
    instance: &Instance,
    operator: &dyn Provider,
    environment: &str,
    service: &str,
) -> Result<()> {
    println!(
        "\n4. Rate limits that change while they are used: {service}, {METHOD} {PATH}, 20 requests in each row"
    );
    let limiter = Arc::new(Limiter::new(&RateLimits::default()));
    let apply = Arc::clone(&limiter);
    let manager =
        ConfigManager::<RateLimits>::builder(Arc::clone(instance.provider.config()), service, "ratelimit")
            .env(environment)
            .on_update(move |_, limits| {
                apply.apply(limits);
                Ok::<_, Infallible>(())
            })
            .build()?;
    manager.start().await;

    let mut load = Load { limiter: &limiter, manager: &manager, started: Instant::now() };
    load.rows(4).await;

    let (requests, burst) =
        if limit_now(&manager.current()).requests.get().get() == 60 { (20, 4) } else { (60, 12) };
    let version =
        edit(&**operator.config(), environment, service, |limits| set_limit(limits, requests, burst)).await?;
    println!("   -- the operator edits the rule: version {version}");
    load.rows(4).await;

    // A wrong edit, as a slip of the hand makes it, past all types: the service keeps the rules
    // that it has.
    let key = rules_key(environment, service);
    let Some(good) = operator.config().get_raw(&key).await? else { return Err("the rules are gone".into()) };
    let version = operator
        .config()
        .set_raw(&key, r#"{"default": {"requests": 0, "per": "second", "burst": 0}, "rules": []}"#.into())
        .await?;
    println!("   -- the operator writes a limit of zero by mistake: version {version}");
    load.rows(2).await;
    if let Some(error) = manager.status().last_error {
        println!("   -- the service has kept its rules and says why: {error}");
    }
    let version = operator.config().compare_and_set_raw(&key, good.value, version).await?;
    println!("   -- the operator puts them right: version {version}");
    load.rows(2).await;
    manager.stop().await;
    Ok(())
}

/// The limit that decides on our requests.
fn limit_now(limits: &RateLimits) -> Limit {
    limits
        .rules
        .iter()
        .find(|rule| rule.fits(METHOD, PATH, CLIENT))
        .map_or(limits.default, |rule| rule.limit())
}

fn set_limit(limits: &mut RateLimits, requests: u32, burst: u32) {
    let (Some(requests), Some(burst)) = (Count::new(requests), Count::new(burst)) else { return };
    match limits.rules.iter_mut().find(|rule| rule.fits(METHOD, PATH, CLIENT)) {
        Some(rule) => {
            rule.requests = requests;
            rule.burst = burst;
        }
        None => limits.default = Limit { requests, per: Period::Second, burst },
    }
}

/// A steady stream of requests: one every ten milliseconds.
struct Load<'a> {
    limiter: &'a Limiter,
    manager: &'a ConfigManager<RateLimits>,
    started: Instant,
}

impl Load<'_> {
    async fn rows(&mut self, rows: u32) {
        let mut tick = interval(Duration::from_millis(10));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for _ in 0..rows {
            let mut picture = String::new();
            let mut admitted = 0;
            for _ in 0..20 {
                tick.tick().await;
                let verdict = self.limiter.check(METHOD, PATH, CLIENT);
                admitted += u32::from(verdict.admitted);
                picture.push(if verdict.admitted { '#' } else { '.' });
            }
            let limit = limit_now(&self.manager.current()).to_string();
            println!(
                "   {:>4.1} s   {limit:<26} {picture}  {admitted:>2} admitted",
                self.started.elapsed().as_secs_f64()
            );
        }
    }
}
