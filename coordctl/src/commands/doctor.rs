//! What is wrong, and what to do about it.

use std::time::Duration;

use clap::Args;
use coord::prelude::*;
use coord::{Error, ErrorKind, LockOptions, Version, Wait, WatchStart, WriteOptions};
use serde::Serialize;

use super::Session;
use super::certificates::Certificates;
use super::members::{Members, Wrong};
use super::status::round_trip;
use crate::error::Failure;
use crate::show::Table;
use crate::time;

/// What is wrong, and what to do about it. Ends with 7 where something is.
#[derive(Debug, Args)]
#[command(
    after_help = "It leaves nothing behind: it takes and gives back the lock `coordctl/doctor`, and asks for a write \
                        that cannot succeed to see whether it would be allowed."
)]
pub(crate) struct Arguments {}

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    /// Somebody should know.
    Warn,
    /// Something does not work.
    Bad,
}

/// Something that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    verdict: Verdict,
    what: &'static str,
    found: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<&'static str>,
}

impl Finding {
    fn ok(what: &'static str, found: impl Into<String>) -> Self {
        Finding { verdict: Verdict::Ok, what, found: found.into(), advice: None }
    }

    fn warn(what: &'static str, found: impl Into<String>, advice: &'static str) -> Self {
        Finding { verdict: Verdict::Warn, what, found: found.into(), advice: Some(advice) }
    }

    fn bad(what: &'static str, found: &impl ToString, advice: &'static str) -> Self {
        Finding { verdict: Verdict::Bad, what, found: found.to_string(), advice: Some(advice) }
    }

    fn of(what: &'static str, wrong: Wrong) -> Self {
        let verdict = if wrong.is_bad { Verdict::Bad } else { Verdict::Warn };
        Finding { verdict, what, found: wrong.found, advice: Some(wrong.advice) }
    }
}

/// Slower than that, leases of some seconds are at risk.
const SLOW_MS: f64 = 100.0;

/// Waiters in one queue that are more than anybody means to have.
const MANY_WAITERS: usize = 100;

/// Clocks that differ by more mislead people who read times.
const SKEW: Duration = Duration::from_secs(5);

const NAME: &str = "coordctl/doctor";

impl Arguments {
    pub(super) async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let worst = std::cell::Cell::new(Verdict::Ok);
        let look = async |session: &Session<'_>| {
            let findings = findings(session).await;
            let has = |verdict| findings.iter().any(|finding| finding.verdict == verdict);
            worst.set(match () {
                () if has(Verdict::Bad) => Verdict::Bad,
                () if has(Verdict::Warn) => Verdict::Warn,
                () => Verdict::Ok,
            });
            Ok(findings)
        };
        session.show(look, |findings| vec![table(findings)]).await?;
        match worst.get() {
            Verdict::Ok => Ok(()),
            Verdict::Warn => Err(Failure::Unwell("something should be looked at".to_owned())),
            Verdict::Bad => Err(Failure::Unwell("something does not work".to_owned())),
        }
    }
}

async fn findings(session: &Session<'_>) -> Vec<Finding> {
    // Of a cluster that answers nobody, its members may still say why.
    let (cluster, certificates) = tokio::join!(cluster(session), certificates(session));
    let mut findings = vec![reads(session).await];
    findings.extend(cluster);
    findings.extend(certificates);
    if findings.iter().any(|finding| finding.verdict == Verdict::Bad && finding.what == READS) {
        // Whatever else is wrong, this comes first.
        return findings;
    }
    findings.push(watches(session).await);
    findings.push(locks(session).await);
    findings.push(writes(session).await);
    findings.extend(standing(session).await);
    findings
}

const READS: &str = "linearizable reads";

async fn reads(session: &Session<'_>) -> Finding {
    match round_trip(session).await {
        Ok(milliseconds) if milliseconds > SLOW_MS => Finding::warn(
            READS,
            format!("{milliseconds:.0} ms, the median of five"),
            "look at the store's disks and at the network between here and there; leases of a few seconds are at risk",
        ),
        Ok(milliseconds) => Finding::ok(READS, format!("{milliseconds:.1} ms, the median of five")),
        Err(failure) => Finding::bad(
            READS,
            &failure,
            "is the store up, has it a majority and a leader, is the URL right, may this user read?",
        ),
    }
}

/// The members of a cluster.
async fn cluster(session: &Session<'_>) -> Vec<Finding> {
    const WHAT: &str = "members";
    let Some(members) = Members::of(session).await else { return Vec::new() };
    let wrong = members.wrong();
    if wrong.is_empty() {
        return vec![Finding::ok(WHAT, format!("{}, all well", members.len()))];
    }
    wrong.into_iter().map(|wrong| Finding::of(WHAT, wrong)).collect()
}

/// The certificates of an encrypted connection.
async fn certificates(session: &Session<'_>) -> Vec<Finding> {
    const WHAT: &str = "certificates";
    let Some(etcd) = session.coord.etcd() else { return Vec::new() };
    let report = session.ask(async { Ok(etcd.certificates().await) }).await;
    let certificates = match report {
        Ok(Some(report)) => Certificates::of(report),
        Ok(None) => return Vec::new(),
        Err(failure) => {
            return vec![Finding::warn(WHAT, failure.to_string(), "are all servers reached from here?")];
        }
    };
    let wrong = certificates.wrong();
    if wrong.is_empty() {
        return vec![Finding::ok(WHAT, certificates.well())];
    }
    wrong.into_iter().map(|wrong| Finding::of(WHAT, wrong)).collect()
}

async fn watches(session: &Session<'_>) -> Finding {
    const WHAT: &str = "a watch";
    let opened = async {
        let mut watch = session.coord.config().watch_raw(NAME, WatchStart::Snapshot).await?;
        match watch.next().await {
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => Err(error),
            None => Err(Error::new(ErrorKind::Unavailable, "watch", "it ended at once")),
        }
    };
    match session.ask(opened).await {
        Ok(()) => Finding::ok(WHAT, "opened, and told the state"),
        Err(failure) => Finding::bad(WHAT, &failure, "services hear of no change; may this user read?"),
    }
}

async fn locks(session: &Session<'_>) -> Finding {
    const WHAT: &str = "a lock";
    let options = LockOptions::default().with_ttl(Duration::from_secs(10)).with_wait(Wait::Never);
    let taken = async { session.coord.lock().acquire_with(NAME, options).await?.unlock().await };
    match session.ask(taken).await {
        Ok(()) => Finding::ok(WHAT, "taken and given back"),
        Err(Failure::Coord(error)) if error.kind() == ErrorKind::Conflict => {
            Finding::ok(WHAT, "another doctor has it at this moment")
        }
        Err(failure) => Finding::bad(
            WHAT,
            &failure,
            "has the store space left (etcd: alarms), and may this user write /locks/ and /sessions/?",
        ),
    }
}

async fn writes(session: &Session<'_>) -> Finding {
    const WHAT: &str = "writing configuration";
    // No key ever has the first version there is.
    let never = WriteOptions::default().with_expected(Version::new(1));
    let refused = session.ask(session.coord.config().write_with(NAME, "{}".into(), never)).await;
    match refused {
        Err(Failure::Coord(error)) if error.kind() == ErrorKind::Conflict => Finding::ok(WHAT, "allowed"),
        Err(Failure::Coord(error)) if error.kind() == ErrorKind::PermissionDenied => {
            Finding::ok(WHAT, "not allowed to this user")
        }
        Ok(_) => Finding::ok(WHAT, "allowed"),
        Err(failure) => Finding::bad(WHAT, &failure, "has the store space left (etcd: alarms)?"),
    }
}

/// What stands in the store, and should not.
async fn standing(session: &Session<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let inspect = session.coord.inspect();
    let queues = async {
        Ok([inspect.locks().await?, inspect.elections().await?, inspect.semaphores().await?].concat())
    };
    match session.ask(queues).await {
        Ok(queues) => {
            let long = queues.iter().find(|queue| queue.waiters.len() > MANY_WAITERS);
            if let Some(queue) = long {
                let found = format!("{} wait in {}", queue.waiters.len(), queue.name);
                findings.push(Finding::warn("queues", found, "does its holder hang? coordctl locks NAME"));
            }
            let for_ever = |queue: &&coord::inspect::QueueView| {
                queue.holders.iter().any(|holder| holder.session.is_none())
            };
            if let Some(queue) = queues.iter().find(for_ever) {
                let found = format!("{} is held without a lease", queue.name);
                let advice = "it never runs out: is that meant, or what is left of a program of another kind? coordctl break-lock";
                findings.push(Finding::warn("queues", found, advice));
            }
            if long.is_none() && !queues.iter().any(|queue| for_ever(&queue)) {
                findings.push(Finding::ok("queues", format!("{} with somebody in them", queues.len())));
            }
        }
        Err(failure) => findings.push(Finding::bad("queues", &failure, "may this user read all of them?")),
    }
    match session.ask(inspect.services()).await {
        Ok(services) => match services.iter().find(|service| service.invalid > 0) {
            Some(service) => findings.push(Finding::warn(
                "registry",
                format!("{} records of {} are none", service.invalid, service.name),
                "who writes below /services/ without this library?",
            )),
            None => findings.push(Finding::ok("registry", format!("{} services", services.len()))),
        },
        Err(failure) => findings.push(Finding::bad("registry", &failure, "may this user read it?")),
    }
    if let Ok(losses) = session.ask(inspect.losses()).await {
        let now = time::now();
        let hour = now.saturating_sub(Duration::from_secs(3_600));
        let recent = losses.iter().filter(|loss| Duration::from_millis(loss.at_ms) > hour).count();
        findings.push(match recent {
            0 => Finding::ok("losses", "none within the last hour"),
            recent => Finding::warn(
                "losses",
                format!("{recent} within the last hour"),
                "coordctl events --since 1h says of what, and why",
            ),
        });
        let ahead = losses.iter().map(|loss| Duration::from_millis(loss.at_ms)).max();
        if let Some(ahead) = ahead.and_then(|last| last.checked_sub(now)).filter(|ahead| *ahead > SKEW) {
            findings.push(Finding::warn(
                "clocks",
                format!("something was lost {} s from now", ahead.as_secs()),
                "a machine's clock is wrong, here or there; nothing goes by it, but people do",
            ));
        }
    }
    findings
}

fn table(findings: &[Finding]) -> Table {
    let mut table = Table::new(&["", "WHAT", "FOUND", "TO DO"], "");
    for finding in findings {
        let verdict = match finding.verdict {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Bad => "BAD",
        };
        let advice = finding.advice.unwrap_or_default();
        table.row([verdict, finding.what, &finding.found, advice].map(str::to_owned));
    }
    table
}
