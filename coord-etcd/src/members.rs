//! The members of the cluster: the links to them, and what failures and trials make of them.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use coord_api::Result;
use coord_recipes::Home;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::choice::Choice;
use crate::connection::{Common, Link};
use crate::dial::Dialing;
use crate::error::{Fault, refuse};
use crate::identity::Identity;
use crate::options::EtcdOptions;
use crate::probe::barrier;
use crate::target::Target;

/// How long a member that failed may take to pass a trial, however long calls may take.
const TRIAL_WITHIN: Duration = Duration::from_secs(5);

/// The members of one cluster, of which one is asked: which one, [`Choice`] says. A trial goes over
/// a new connection, as one that swallowed a request may swallow them all.
#[derive(Debug)]
pub(crate) struct Members {
    /// The endpoints of the options.
    pub(crate) targets: Vec<Target>,
    choice: Mutex<Choice<Arc<Member>>>,
    pub(crate) common: Common,
    /// These members, for those who try one again.
    weak: Weak<Members>,
    /// How many links were made.
    links: AtomicU64,
    /// How long one attempt at a request may take.
    pub(crate) attempt_timeout: Duration,
    /// How long a request may take with all its attempts.
    pub(crate) total_timeout: Duration,
    closing: CancellationToken,
    /// Told when a member has failed: perhaps it is none any more.
    pub(crate) failure: Notify,
}

/// A member of the cluster, as it is reached in one way. It is equal to itself alone.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) target: Target,
    pub(crate) name: String,
    /// Whether no endpoint names it, but the cluster does.
    pub(crate) learnt: bool,
    /// Whether the cluster has said that a member is reached so.
    pub(crate) is_advertised: AtomicBool,
    link: Mutex<Option<Arc<Link>>>,
    /// The foreign cluster that it was found in, which was reported. Zero for none.
    foreign: AtomicU64,
}

impl Member {
    fn new(target: Target, learnt: bool) -> Arc<Self> {
        Arc::new(Member {
            name: target.to_string(),
            target,
            learnt,
            is_advertised: AtomicBool::new(false),
            link: Mutex::default(),
            foreign: AtomicU64::new(0),
        })
    }

    /// Whether the one at the other end of its link has said that it belongs to the cluster.
    fn is_identified(&self) -> bool {
        self.link.lock().as_ref().is_some_and(|link| link.main.is_identified())
    }

    /// Takes a link away, so that the next request makes another one. Whether it was still the
    /// member's.
    fn unlink(&self, link: &Link) -> bool {
        self.link.lock().take_if(|current| current.number == link.number).is_some()
    }
}

impl PartialEq for Member {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

/// A member that was asked, by the link over which it was.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) member: Arc<Member>,
    pub(crate) link: Arc<Link>,
}

impl Members {
    /// Longer than anyone waits, and still a time that can be added to the present.
    pub(crate) const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3_600);

    /// The members that the options name. No I/O but reading files.
    pub(crate) fn new(options: &EtcdOptions, closing: CancellationToken) -> Result<Arc<Self>> {
        let checked = options.check()?;
        let members = checked.targets.iter().map(|target| Member::new(target.clone(), false)).collect();
        let Some(choice) = Choice::new(members, fastrand::f64()) else { return refuse("no endpoint") };
        let total_timeout = checked.total_timeout.min(Members::FOR_EVER);
        let common = Common {
            dialing: Dialing {
                home: options.home.clone().unwrap_or_else(|| Home::thread("coord-etcd")),
                resolver: options.resolver.clone(),
                encryption: checked.encryption,
                connect_timeout: options.connect_timeout.min(Members::FOR_EVER),
                keepalive_interval: options.keepalive_interval.min(Members::FOR_EVER),
                keepalive_timeout: options.keepalive_timeout.min(Members::FOR_EVER),
            },
            account: checked.account,
            identity: Arc::new(Identity::new(checked.cluster)),
            sign_in_within: total_timeout,
            near: options.near,
        };
        Ok(Arc::new_cyclic(|weak| Members {
            targets: checked.targets,
            choice: Mutex::new(choice),
            common,
            weak: Weak::clone(weak),
            links: AtomicU64::new(0),
            attempt_timeout: checked.attempt_timeout.min(Members::FOR_EVER),
            total_timeout,
            closing,
            failure: Notify::new(),
        }))
    }

    /// The endpoints' addresses.
    pub(crate) fn names(&self) -> Vec<String> {
        self.targets.iter().map(Target::authority).collect()
    }

    /// Where what goes on in the background does so.
    pub(crate) fn home(&self) -> &Home {
        &self.common.dialing.home
    }

    /// Ends with the client.
    pub(crate) fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    /// Waits for what is done for this client: until a deadline, and for as long as the client is
    /// not closed.
    ///
    /// A future that is handed on by value is stored twice: hand on a large one pinned.
    pub(crate) async fn until<T>(
        &self,
        deadline: Instant,
        work: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Fault> {
        tokio::select! {
            biased;
            answer = self.home().timeout_at(deadline, work) => answer.unwrap_or_else(|_| Err(self.late())),
            () = self.closing.cancelled() => Err(Fault::closed()),
        }
    }

    /// Why there was no answer in time: that nobody can sign in, where that is known, or else
    /// nothing is.
    pub(crate) fn late(&self) -> Fault {
        self.common.account.as_ref().and_then(|account| account.refusal()).unwrap_or_else(Fault::silent)
    }

    /// Who the members are.
    pub(crate) fn all(&self) -> Vec<Arc<Member>> {
        self.choice.lock().members().cloned().collect()
    }

    pub(crate) fn count(&self) -> usize {
        self.choice.lock().count()
    }

    /// The member that is asked now, by the link to it.
    pub(crate) fn asked(&self) -> Result<Asked, Fault> {
        let preferred = Arc::clone(self.choice.lock().preferred());
        self.asking(preferred)
    }

    /// A member, by the link to it, which is made where there is none.
    pub(crate) fn asking(&self, member: Arc<Member>) -> Result<Asked, Fault> {
        let mut current = member.link.lock();
        let link = match &*current {
            Some(link) => Arc::clone(link),
            None => Arc::clone(current.insert(self.link(&member.target)?)),
        };
        drop(current);
        Ok(Asked { member, link })
    }

    /// A new link to a member. No I/O.
    fn link(&self, target: &Target) -> Result<Arc<Link>, Fault> {
        let number = self.links.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(Link::new(number, target, &self.common)?))
    }

    /// The connection has ended, which says nothing of the member: the next request makes another
    /// one.
    pub(crate) fn replace(&self, asked: &Asked) {
        asked.member.unlink(&asked.link);
    }

    /// A member failed, or was silent: another one is asked from now on, and this one is tried
    /// again by and by, over a new link.
    pub(crate) fn report_failure(&self, asked: &Asked, fault: &Fault) {
        let member = &asked.member;
        if !member.unlink(&asked.link) {
            // It speaks of a link that nobody uses any more, and says nothing of how the member
            // does now.
            return;
        }
        let after = self.choice.lock().fail(member, self.home().now(), fastrand::f64());
        if after.begin_trials {
            self.begin_trials(member);
        }
        let why = &fault.message;
        if fault.foreign.is_some_and(|cluster| member.foreign.swap(cluster, Ordering::Relaxed) != cluster) {
            let (member, why) = (member.name.clone(), why.clone());
            coord_home::event!(WARN, member, %why, "a member of another cluster is among the endpoints; it is not used");
        }
        if after.moved {
            let (member, why) = (member.name.clone(), why.clone());
            coord_home::event!(DEBUG, member, %why, "another member is asked from now on");
        }
        self.failure.notify_one();
    }

    /// Tries a member again, in the background, until it passes or is none any more.
    fn begin_trials(&self, member: &Arc<Member>) {
        let trials =
            Trials { members: Weak::clone(&self.weak), member: Arc::downgrade(member), ended: false };
        let closing = self.closing.clone();
        // Without a home the trials are dropped, and abandoned by that.
        drop(self.home().spawn(async move { closing.run_until_cancelled(trials.run()).await }));
    }

    /// Tries a member once, over a link of its own. Whether it has passed, so that no further
    /// trials are needed.
    async fn trial(&self, member: &Arc<Member>) -> bool {
        let answered = self.home().timeout(self.attempt_timeout.min(TRIAL_WITHIN), async {
            let link = self.link(&member.target)?;
            link.main.identify().await?;
            match barrier(&link.main).await {
                Err(fault) if fault.blames_member => Err(fault),
                // Whatever else it says, it has come as far as the others.
                _ => Ok(()),
            }
        });
        // The link is not kept: until it is needed it might break unseen, and whoever moves here
        // has just lost one.
        if !matches!(answered.await, Ok(Ok(()))) {
            self.choice.lock().fail_trial(member);
            return false;
        }
        member.foreign.store(0, Ordering::Relaxed);
        let goes_home = self.choice.lock().pass_trial(member, self.home().now());
        let member = member.name.clone();
        coord_home::event!(DEBUG, member, goes_home, "a member that had failed answers again");
        true
    }

    /// From now on, this member is asked while it answers.
    pub(crate) fn prefer(&self, member: &Arc<Member>) {
        self.choice.lock().prefer(member);
    }

    /// The member that is asked while it answers.
    pub(crate) fn usual(&self) -> Arc<Member> {
        Arc::clone(self.choice.lock().usual())
    }

    /// A member has answered. Where it had failed, it is as one that has passed a trial.
    pub(crate) fn recover(&self, member: &Arc<Member>) {
        self.choice.lock().recover(member, self.home().now());
    }

    /// Whether a member was asked, and answered as one of the cluster.
    pub(crate) fn has_answered(&self, member: &Arc<Member>) -> bool {
        member.is_identified() && self.choice.lock().failed(member).is_none()
    }

    /// These are the members from now on, each with whether the cluster alone names it. One that is
    /// asked now and answers stays, whatever is said of it.
    pub(crate) fn become_these(&self, targets: &[(Target, bool)]) {
        let (mut choice, names) = (self.choice.lock(), |choice: &Choice<Arc<Member>>| {
            choice.members().map(|member| member.name.clone()).collect::<Vec<_>>()
        });
        let known = |target: &Target| choice.members().find(|member| member.target == *target).cloned();
        let mut members: Vec<Arc<Member>> = Vec::new();
        for (target, learnt) in targets {
            if !members.iter().any(|member| member.target == *target) {
                members.push(known(target).unwrap_or_else(|| Member::new(target.clone(), *learnt)));
            }
        }
        // A member's link is locked after the choice here, and never the other way round.
        let preferred = choice.preferred();
        if !members.contains(preferred) && choice.failed(preferred).is_none() && preferred.is_identified() {
            members.push(Arc::clone(preferred));
        }
        let before = names(&choice);
        choice.become_these(&members, fastrand::f64());
        let now = names(&choice);
        drop(choice);
        if before != now {
            coord_home::event!(INFO, ?before, ?now, "the members of the cluster have changed");
        }
    }
}

/// The trials of one member that failed.
struct Trials {
    members: Weak<Members>,
    member: Weak<Member>,
    /// Whether they came to their end, and were not dropped with the runtime that they were in.
    ended: bool,
}

impl Trials {
    /// Ends when the member has passed a trial, or when nobody needs it any more.
    async fn run(mut self) {
        while let Some((members, member)) = self.both() {
            let Some(pause) = members.choice.lock().next_trial(&member, fastrand::f64()) else { break };
            drop((members, member));
            tokio::time::sleep(pause).await;
            let Some((members, member)) = self.both() else { break };
            if members.trial(&member).await {
                break;
            }
        }
        self.ended = true;
    }

    fn both(&self) -> Option<(Arc<Members>, Arc<Member>)> {
        Some((self.members.upgrade()?, self.member.upgrade()?))
    }
}

impl Drop for Trials {
    fn drop(&mut self) {
        if let Some((members, member)) = self.both().filter(|_| !self.ended) {
            members.choice.lock().abandon_trials(&member);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    /// Each thread takes the locks that the other one takes.
    #[test]
    fn who_accuses_a_member_and_who_learns_of_all_of_them_do_not_wait_for_each_other() {
        let closing = CancellationToken::new();
        let members =
            Members::new(&EtcdOptions::new(["127.0.0.1:1", "127.0.0.1:2"]), closing.clone()).unwrap();
        let targets: Vec<_> = members.targets.iter().map(|target| (target.clone(), false)).collect();
        let (tell, done) = mpsc::channel();
        let (accusing, told) = (Arc::clone(&members), tell.clone());
        thread::spawn(move || {
            for _ in 0..3_000 {
                let asked = accusing.asked().unwrap();
                accusing.report_failure(&asked, &Fault::silent());
            }
            told.send(()).unwrap();
        });
        thread::spawn(move || {
            for _ in 0..100_000 {
                members.become_these(&targets);
            }
            tell.send(()).unwrap();
        });
        for _ in 0..2 {
            done.recv_timeout(Duration::from_secs(60)).expect("neither waits for ever");
        }
        closing.cancel();
    }
}
