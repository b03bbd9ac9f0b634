//! Periodic jobs: once a period over all instances (R77).

mod marker;

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coord_api::store::round_ttl;
use coord_api::{Error, ErrorKind, Fence, FencingToken, Outcome, Result, key, run_while_held};
use coord_core::{Client, Home, backoff, keys};
use coord_home::Backoff;
use tokio::time::Instant;

use crate::election::{CampaignOptions, Election, Leadership};
use marker::{Markers, Period};

/// What a periodic job is called in logs and metrics.
const CONTRACT: &str = "periodic";

const RUN: &str = "periodic.run";

/// A job that is done once a period, over all who run it under its name, over any store. Cheap to
/// make and to clone.
///
/// Each instance calls [`run`](Self::run). One of them leads and does the job; where it dies, the
/// next one goes on.
///
/// # Contract
///
/// - **R77** Before each run the leader writes a marker that lasts for one period, and that nobody
///   renews; as long as it stands nobody begins. So periods never overlap, whoever leads. The job
///   is dropped where the leadership is lost. A run that was cut off is not made up for, and one
///   that is longer than its period skips those that it covers: the next one begins when it has
///   ended. After a crash the next one begins within the TTL, a period, and twice the store's lag.
///
/// The period is counted in the store, so that it has no place for clocks that differ; where each
/// begins a little after the one before has ended, they drift. All instances are to give the same
/// period: it is the leader's that counts. A store may grant a longer one than a very short one
/// that is asked for, as it does for TTLs (R7): etcd no less than 2 s by default.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use coord_recipes::{Periodic, PeriodicRun};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> coord_api::Result<()> {
/// # let store = std::sync::Arc::new(coord_memory::MemoryStore::new());
/// # let client = coord_core::Client::new(store, "node-1", coord_core::Home::new("node-1"));
/// let (ran, mut runs) = tokio::sync::mpsc::channel(1);
/// let trim = Periodic::new(&client, "trim", Duration::from_secs(3_600));
/// let job = move |run: PeriodicRun| {
///     let ran = ran.clone();
///     async move {
///         // What it does elsewhere is given the token, and refuses a smaller one.
///         let _ = ran.send(run.fencing_token()).await;
///     }
/// };
/// let instance = tokio::spawn(async move { trim.run(job).await });
/// assert!(runs.recv().await.is_some());
/// client.close().await?;
/// assert!(instance.await.unwrap().is_err());
/// # Ok(())
/// # }
/// ```
///
/// What is to be done at an hour of the day, and not once in so many seconds, is done
/// [once](crate::Once), with the hour in its key. Each instance asks for it when its clock says so,
/// and again until it is done; one does it, also where their clocks differ by less than the
/// retention.
///
/// ```
/// use std::time::Duration;
///
/// use coord_recipes::{Once, OnceOptions};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let store = std::sync::Arc::new(coord_memory::MemoryStore::new());
/// # let client = coord_core::Client::new(store, "node-1", coord_core::Home::new("node-1"));
/// # let mut reports = 0;
/// let (once, three_o_clock) = (Once::new(&client), "2026-03-01T03");
/// let kept = OnceOptions::default().with_retention(Duration::from_secs(2 * 24 * 3_600));
/// for _instance in 1..=3 {
///     let report = async |_: &coord_recipes::Execution| {
///         reports += 1;
///         Ok("written".into())
///     };
///     once.run(&format!("report/{three_o_clock}"), kept.clone(), report).await?;
/// }
/// assert_eq!(reports, 1);
/// # client.close().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Periodic {
    client: Client,
    name: Arc<str>,
    /// Its directory, or what is wrong with the name.
    directory: Result<Bytes>,
    election: Election,
    every: Duration,
    ttl: Duration,
}

/// A run of a periodic job.
#[derive(Clone)]
pub struct PeriodicRun {
    name: Arc<str>,
    token: FencingToken,
    fence: Fence,
    home: Home,
    ends: Instant,
}

impl Periodic {
    /// The job of this name, once in `every`, which is whole seconds. No I/O; a bad name (R4) or
    /// period is the error of [`run`](Self::run).
    pub fn new(client: &Client, name: &str, every: Duration) -> Self {
        let directory = key::check(RUN, name).map(keys::periodic);
        let queue = directory.as_ref().map(keys::periodic_queue).map_err(Error::clone);
        let election = Election::over(client, CONTRACT, name, queue);
        let ttl = CampaignOptions::default().ttl;
        Periodic { client: client.clone(), name: name.into(), directory, election, every, ttl }
    }

    /// Sets for how long a leader that died keeps the others from leading: the TTL of its lease,
    /// rounded up to whole seconds (R7). 30 s by default.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Does `job` once a period for as long as this instance leads, and waits to lead where it does
    /// not (R77). It ends with an error, or where it is dropped, and never by itself.
    ///
    /// What the store refuses, or does not answer, is tried again for ever, and told once in a row
    /// at WARN. What the job itself cannot do is its own affair, to be told and tried by it: a run
    /// that failed is a run. Where it panics, that is the caller's panic, and the next instance
    /// leads.
    ///
    /// Two requests a period: the grant of a lease, and the marker on it.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a bad name (R4) or TTL, and for a period that is zero, more than
    /// 9,000,000,000 s, or no whole seconds, before any I/O; `Closed` once the client is closed
    /// (R8); `Internal` outside of a runtime where background work needs one.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the job is dropped at the point that it has reached, and another instance leads
    /// after that. The run is not made up for.
    pub async fn run<F>(&self, mut job: impl FnMut(PeriodicRun) -> F) -> Result<Infallible>
    where
        F: Future<Output = ()>,
    {
        let directory = self.directory.as_ref().map_err(Error::clone)?;
        self.check().map_err(|error| error.about(&self.name))?;
        self.client.ready(RUN)?;
        // Boxed, because a future that is handed on is stored twice.
        let run = Box::pin(async {
            let mut trouble = Trouble { job: self, backoff: backoff(), is_told: false };
            loop {
                let led = self.lead(keys::periodic_marker(directory), &mut trouble, &mut job).await;
                if let Err(error) = led {
                    trouble.told(error)?;
                }
                trouble.pause().await;
            }
        });
        self.client.run_on(RUN, &self.name, Outcome::NotApplied, run).await
    }

    fn check(&self) -> Result<()> {
        if self.every.subsec_nanos() > 0 {
            return Err(Error::invalid_argument(RUN, "a period with a part of a second; give whole seconds"));
        }
        round_ttl(RUN, self.every)
            .map_err(|_| Error::invalid_argument(RUN, "a period of zero, or of more than 9,000,000,000 s"))?;
        round_ttl(RUN, self.ttl).map(drop)
    }

    /// Runs for leader, and does the job until the leadership is lost.
    async fn lead<F: Future<Output = ()>>(
        &self,
        marker: Bytes,
        trouble: &mut Trouble<'_>,
        job: &mut impl FnMut(PeriodicRun) -> F,
    ) -> Result<()> {
        let options = CampaignOptions::default().with_ttl(self.ttl);
        let leadership = self.election.campaign(self.client.name().to_owned(), options).await?;
        // Dropped at the loss; and where this is dropped, before the leadership is given up.
        match run_while_held(&leadership, self.runs(&leadership, marker, trouble, job)).await {
            // The loss itself, which was told already.
            Err(error) if error.kind() == ErrorKind::LeaseLost => Ok(()),
            ended => ended?,
        }
    }

    /// Does the job once a period, until the store says that another one leads.
    async fn runs<F: Future<Output = ()>>(
        &self,
        leadership: &Leadership,
        marker: Bytes,
        trouble: &mut Trouble<'_>,
        job: &mut impl FnMut(PeriodicRun) -> F,
    ) -> Result<()> {
        let mut markers = Markers::new(&self.client, marker, self.every, leadership);
        loop {
            match markers.next().await {
                Ok(Some(Period { number, ends })) => {
                    trouble.over();
                    job(PeriodicRun {
                        name: Arc::clone(&self.name),
                        token: number.into(),
                        fence: leadership.fence(),
                        home: self.client.home().clone(),
                        ends,
                    })
                    .await;
                }
                Ok(None) => return Ok(()),
                Err(error) => {
                    trouble.told(error)?;
                    trouble.pause().await;
                }
            }
        }
    }
}

impl PeriodicRun {
    /// The name of the job.
    pub fn job(&self) -> &str {
        &self.name
    }

    /// The number of this run: greater than that of each earlier run of the job, over all
    /// instances. To be handed to whatever a run that was cut off must not touch any more.
    pub fn fencing_token(&self) -> FencingToken {
        self.token
    }

    /// Ties a write to the same store to the leadership that this run is done under: it is applied
    /// only while that is held, by the word of the store (R55). Give it to
    /// [`WriteOptions::with_fence`](coord_api::WriteOptions::with_fence).
    pub fn fence(&self) -> Fence {
        self.fence.clone()
    }

    /// The time left of its period, by this machine's clock; zero once the next one may begin,
    /// which waits for the end of this run.
    pub fn left(&self) -> Duration {
        self.ends.saturating_duration_since(self.home.now())
    }
}

/// What keeps a job from being done, as far as its operator is concerned.
struct Trouble<'a> {
    job: &'a Periodic,
    backoff: Backoff,
    is_told: bool,
}

impl Trouble<'_> {
    /// Tells what went wrong, once until it is over; an error that trying again cannot repair is
    /// given back.
    fn told(&mut self, error: Error) -> Result<()> {
        if matches!(error.kind(), ErrorKind::Closed | ErrorKind::InvalidArgument) {
            return Err(error);
        }
        if !std::mem::replace(&mut self.is_told, true) {
            let provider = self.job.client.name().to_owned();
            let (key, kind) = (self.job.name.to_string(), error.kind());
            coord_home::event!(
                WARN,
                provider,
                contract = CONTRACT,
                key,
                kind = %kind,
                "the next run cannot begin, and is tried again"
            );
        }
        Ok(())
    }

    /// A period has begun.
    fn over(&mut self) {
        self.is_told = false;
        self.backoff.reset();
    }

    async fn pause(&mut self) {
        self.job.client.home().sleep(self.backoff.pause()).await;
    }
}

impl fmt::Debug for Periodic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Periodic")
            .field("name", &self.name)
            .field("every", &self.every)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for PeriodicRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeriodicRun")
            .field("job", &self.name)
            .field("token", &self.token)
            .field("left", &self.left())
            .finish_non_exhaustive()
    }
}
