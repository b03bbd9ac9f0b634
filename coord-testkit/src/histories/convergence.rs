//! When the faults are over, the store must come to hold exactly what live handles hold, and no
//! more (R9, R29, R36 to R38, R42, R44).

use std::collections::BTreeSet;
use std::time::Duration;

use coord_api::store::Entry;
use coord_api::{HandleState, IdOptions, LeaseId, LockOptions, Wait};
use futures_util::FutureExt;
use tokio::time::{Instant, sleep};

use super::Breach;
use super::holdings::{Answer, End, Held, Holding};
use super::plan::KEYS;
use super::registry::tag;
use super::work::IDS;
use super::world::World;
use crate::layout;

/// The longest pause before a healer tries again, and what it may take then (R37).
const HEALED_WITHIN: Duration = Duration::from_secs(3);

impl World {
    /// Waits until nothing is left of what was let go or lost, and everything is there that is
    /// held; then lets that go too.
    pub(super) async fn converge(&self) {
        // Whatever has no live owner now is gone with its lease; whatever has one is given back, or
        // comes back, before that.
        let limit = self.cx.gone_by(self.ttl) + HEALED_WITHIN;
        if !self
            .comes_true(limit, "what live handles hold is what the store holds", async |world| {
                world.residue().await
            })
            .await
        {
            return;
        }
        let idle = self.cx.gone_by(self.ttl) + self.ttl / 2;
        self.comes_true(idle, "no session is left that carries nothing", async |world| {
            world.idle_sessions().await
        })
        .await;
        self.ended_handles_say_so();
        self.nothing_blocks().await;
        self.release_the_rest().await;
    }

    /// Looks again and again until nothing is amiss; at the end what still is, is broken.
    async fn comes_true(
        &self,
        limit: Duration,
        what: &str,
        amiss: impl AsyncFn(&World) -> Vec<Breach>,
    ) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            let late = Instant::now() >= deadline;
            let found = amiss(self).await;
            if found.is_empty() {
                return true;
            }
            if late {
                for Breach { rule, what: found, .. } in found {
                    self.breach(rule, format!("{limit:?} after the last fault, when {what}: {found}"));
                }
                return false;
            }
            sleep((self.ttl / 40).min(deadline - Instant::now()) + Duration::from_millis(1)).await;
        }
    }

    /// What is in the store and should not be, and the other way round.
    async fn residue(&self) -> Vec<Breach> {
        let (mut amiss, mut there) = (Vec::new(), BTreeSet::new());
        for key in 0..KEYS {
            let lock = self.lock_key(key);
            let queue = self.truth.read(layout::lock_queue(&lock)).await;
            self.compare_tokens(queue, |_| Some(Held::Lock(lock.clone())), "r29", &mut there, &mut amiss);
            let service = self.id_service(key);
            let ids = self.truth.read(layout::id(&service, 0).trim_end_matches('0').to_owned()).await;
            let held = |entry: &Entry| {
                (1..=IDS)
                    .find(|id| entry.key == layout::id(&service, *id))
                    .map(|id| Held::Id(service.clone(), id))
            };
            self.compare_tokens(ids, held, "r42", &mut there, &mut amiss);
        }
        for (holding, handle) in self.notes().holdings.open() {
            let instance = matches!(holding.held, Held::Instance(_));
            if !instance
                && handle.state().is_held()
                && !there.contains(&(holding.held.clone(), holding.token.get()))
            {
                amiss.push(Breach::new(
                    "r32",
                    format!("{} with token {} says it is held and is not there", holding.held, holding.token),
                ));
            }
        }
        let instances = self.truth.read(format!("{}{}/", layout::SERVICES, self.service())).await;
        self.compare_instances(instances, &mut amiss);
        amiss
    }

    /// Entries whose create revision is their holder's token. `ghost` is the rule against entries
    /// of which nobody was ever told.
    fn compare_tokens(
        &self,
        entries: Option<Vec<Entry>>,
        held: impl Fn(&Entry) -> Option<Held>,
        ghost: &'static str,
        there: &mut BTreeSet<(Held, u64)>,
        amiss: &mut Vec<Breach>,
    ) {
        let Some(entries) = entries else {
            amiss.push(Breach::new("s2", "the store does not answer".to_owned()));
            return;
        };
        let notes = self.notes();
        let token = |holding: &Holding| (holding.held.clone(), holding.token.get());
        for entry in &entries {
            let found = held(entry).map(|held| (held, entry.created.get()));
            let holder = notes.holdings.all.iter().find(|holding| Some(token(holding)) == found);
            there.extend(found);
            let (rule, why) = match holder {
                None => (ghost, "nobody was given it"),
                Some(holding) => match left_over(holding) {
                    Some(left_over) => left_over,
                    None => continue,
                },
            };
            amiss.push(Breach::new(
                rule,
                format!("{:?}, created at {}, is there: {why}", entry.key, entry.created),
            ));
        }
    }

    fn compare_instances(&self, entries: Option<Vec<Entry>>, amiss: &mut Vec<Breach>) {
        let Some(entries) = entries else {
            amiss.push(Breach::new("s2", "the store does not answer".to_owned()));
            return;
        };
        let notes = self.notes();
        for key in 0..KEYS {
            let id = format!("i{key}");
            let name = layout::service(self.service(), &id);
            let entry = entries.iter().find(|entry| entry.key == name.as_bytes());
            let present = entry.and_then(|entry| tag(&entry.value));
            let of = |holding: &Holding| holding.held == Held::Instance(id.clone());
            let live: Vec<_> = notes
                .holdings
                .open()
                .filter(|(holding, handle)| of(holding) && !matches!(handle.state(), HandleState::Ended(_)))
                .collect();
            match live.as_slice() {
                [] => {
                    let Some(present) = present else { continue };
                    let owner = notes
                        .holdings
                        .all
                        .iter()
                        .find(|holding| of(holding) && holding.contents.contains(&present));
                    let (rule, why) = owner.and_then(left_over).unwrap_or(("r38", "nobody was given it"));
                    amiss.push(Breach::new(rule, format!("{id} is registered as {present}: {why}")));
                }
                [(holding, handle)] => {
                    let latest = holding.contents.last();
                    if !handle.state().is_held() || present.as_ref() != latest {
                        let state = handle.state();
                        let what = format!(
                            "{id} of worker {} is {state:?}, wanted as {latest:?}, there as {present:?}",
                            holding.worker
                        );
                        amiss.push(Breach::new("r37", what));
                    }
                }
                several => {
                    let workers: Vec<usize> = several.iter().map(|(holding, _)| holding.worker).collect();
                    amiss.push(Breach::new("r34", format!("{id} has several owners: workers {workers:?}")));
                }
            }
        }
    }

    /// Sessions that carry nothing that anybody holds (R9a).
    async fn idle_sessions(&self) -> Vec<Breach> {
        let mut carrying: BTreeSet<LeaseId> = BTreeSet::new();
        for prefix in [layout::LOCKS, layout::IDS, layout::SERVICES] {
            carrying.extend(
                self.truth
                    .read(prefix.to_owned())
                    .await
                    .unwrap_or_default()
                    .iter()
                    .filter_map(|entry| entry.lease),
            );
        }
        let sessions = self.truth.sessions();
        let idle = sessions.into_iter().filter(|lease| !carrying.contains(lease));
        idle.map(|lease| Breach::new("r9a", format!("lease {lease} carries nothing and is renewed")))
            .collect()
    }

    /// A handle that is over has said so (R32).
    fn ended_handles_say_so(&self) {
        let silent: Vec<String> = self
            .notes()
            .holdings
            .open()
            .filter(|(_, handle)| {
                matches!(handle.state(), HandleState::Ended(_)) && handle.lost().now_or_never().is_none()
            })
            .map(|(holding, handle)| {
                format!("{} of worker {} is {:?}", holding.held, holding.worker, handle.state())
            })
            .collect();
        for what in silent {
            self.breach("r32", format!("lost() did not fire: {what}"));
        }
    }

    /// Whatever is free can be had by a stranger.
    async fn nothing_blocks(&self) {
        let stranger = self.cx.provider().await;
        let limit = Wait::For(self.cx.slack() + Duration::from_secs(1));
        let held: BTreeSet<Held> = self
            .notes()
            .holdings
            .open()
            .filter(|(_, handle)| handle.state().is_held())
            .map(|(holding, _)| holding.held.clone())
            .collect();
        for key in 0..KEYS {
            let lock = self.lock_key(key);
            if !held.contains(&Held::Lock(lock.clone())) {
                let options = LockOptions::default().with_ttl(self.ttl).with_wait(limit);
                match stranger.lock().acquire_with(&lock, options).await {
                    Ok(guard) => {
                        if let Err(error) = guard.unlock().await {
                            self.breach(
                                "r33",
                                format!("nothing disturbs it and lock {lock} cannot be unlocked: {error:?}"),
                            );
                        }
                    }
                    Err(error) => {
                        self.breach("r29", format!("lock {lock} is free and cannot be had: {error}"))
                    }
                }
            }
            let service = self.id_service(key);
            let free = (1..=IDS).find(|id| !held.contains(&Held::Id(service.clone(), *id)));
            let options = IdOptions::default().with_range(1..=IDS).with_ttl(self.ttl);
            let given = stranger.allocator().acquire_id_with(&service, options).await;
            if given.as_ref().ok().map(coord_api::InstanceId::id) != free {
                self.breach(
                    "r41",
                    format!("the smallest free id of {service} is {free:?}, given was {given:?}"),
                );
            }
            if let Ok(id) = given {
                if let Err(error) = id.release().await {
                    self.breach(
                        "r44",
                        format!("nothing disturbs it and {id:?} cannot be released: {error:?}"),
                    );
                }
            }
        }
        if let Err(error) = stranger.close().await {
            self.breach("r8", format!("nothing disturbs it and a provider cannot be closed: {error:?}"));
        }
    }

    /// Lets go of what is left, which now works at once.
    async fn release_the_rest(&self) {
        let open: Vec<usize> = {
            let notes = self.notes();
            (0..notes.holdings.all.len())
                .filter(|number| {
                    notes.holdings.all.get(*number).is_some_and(|holding| holding.handle.is_some())
                })
                .collect()
        };
        for number in open {
            let began = self.moments.next();
            let Some(handle) = self.notes().holdings.let_go(number, began) else { continue };
            let held = handle.state().is_held();
            let released = handle.release().await;
            if let (true, Err(error)) = (held, &released) {
                let rule = self
                    .notes()
                    .holdings
                    .all
                    .get(number)
                    .map_or("r9", |holding| holding.held.rule_of_release());
                self.breach(
                    rule,
                    format!("nothing disturbs it and what is held cannot be released: {error:?}"),
                );
            }
        }
        self.comes_true(self.cx.slack(), "everything was released", async |world| world.residue().await)
            .await;
    }
}

/// Why an entry of this holding should not be there, and by which rule; `None` while it is held.
fn left_over(holding: &Holding) -> Option<(&'static str, &'static str)> {
    let instance = matches!(holding.held, Held::Instance(_));
    match &holding.end {
        End::Crashed(_) => Some((if instance { "r36" } else { "r7" }, "its client died")),
        End::LetGo { answer: Answer::None, .. } => Some(("r9", "it was dropped, or its release was")),
        End::LetGo { answer: Answer::Failed(error), .. }
            if error.kind() != coord_api::ErrorKind::LeaseLost =>
        {
            Some(("r9", "its release failed, and is pending"))
        }
        End::LetGo { .. } => Some((
            match holding.held {
                Held::Lock(_) => "r33",
                Held::Id(..) => "r44",
                Held::Instance(_) => "r38",
            },
            "it was released",
        )),
        End::None => match holding.handle.as_ref().map(|handle| handle.state()) {
            Some(HandleState::Ended(_)) => Some((if instance { "r34" } else { "r9a" }, "its handle is over")),
            _ => None,
        },
    }
}
