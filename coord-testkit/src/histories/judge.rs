//! Judges a history that is over.

use std::collections::BTreeMap;

use bytes::Bytes;
use coord_api::store::Change as StoreChange;
use coord_api::{LeaseId, Revision};

use super::Breach;
use super::follow::Sight;
use super::holdings::{Held, Holding};
use super::plan::KEYS;
use super::registry::{check_snapshots, state_at, tag};
use super::truth::{Life, Seen, lives};
use super::work::IDS;
use super::world::World;
use crate::layout;
use crate::linearizability::{self, NotLinearizable};
use crate::view::{Change, ConfigView};

/// More than any history here needs; one that needs more is not decided, and counts as broken.
const BUDGET: usize = 200_000;

/// Everything that the store's log and the notes show to be broken.
pub(super) fn judge(world: &World) -> Vec<Breach> {
    let seen = world.truth.seen();
    let mut breaches = Vec::new();
    let notes = world.notes();
    for (key, calls) in &notes.calls {
        if let Err(why) = linearizability::check(calls.clone(), BUDGET) {
            let undecided = matches!(why, NotLinearizable::Undecided { .. });
            breaches.push(Breach { undecided, ..Breach::new("r10", format!("k{key}: {why}")) });
        }
    }
    let whole = world.truth.is_whole(world.truth.start(), world.truth.through());
    let entries = leased_lives(world, &seen);
    let lease_of =
        |holding: &Holding| entries.get(&holding.held.to_string())?.get(&holding.token.get())?.lease;
    let ended = |lease: Option<LeaseId>, by: u64| {
        notes.ended_leases.iter().any(|(ended, at)| *at <= by && lease.is_none_or(|lease| lease == *ended))
    };
    breaches.extend(notes.holdings.check(|holding, by| ended(lease_of(holding), by)));
    breaches.extend(check_snapshots(&notes.registry.snapshots, &seen, |through| {
        world.truth.is_whole(world.truth.start(), through)
    }));
    if whole {
        for holding in &notes.holdings.all {
            breaches.extend(check_holding(holding, &entries, &seen));
        }
        breaches.extend(notes.registry.check(world.service(), &seen, &notes.holdings));
    }
    breaches
}

/// The lives of locks' and ids' entries, by what they stand for and their create revision.
fn leased_lives(world: &World, seen: &[Seen]) -> BTreeMap<String, BTreeMap<u64, Life>> {
    let mut all: BTreeMap<String, BTreeMap<u64, Life>> = BTreeMap::new();
    for key in 0..KEYS {
        let lock = world.lock_key(key);
        let queue = lives(seen, &layout::lock_queue(&lock))
            .into_iter()
            .map(|life| (life.created.get(), life))
            .collect();
        all.insert(Held::Lock(lock).to_string(), queue);
        let service = world.id_service(key);
        for id in 1..=IDS {
            let name = layout::id(&service, id);
            let own = lives(seen, &name)
                .into_iter()
                .filter(|life| life.key == name.as_bytes())
                .map(|life| (life.created.get(), life))
                .collect();
            all.insert(Held::Id(service.clone(), id).to_string(), own);
        }
    }
    all
}

/// A token is the create revision of an entry; only its holder, or the end of its lease, removes
/// it; an id was the smallest.
fn check_holding(
    holding: &Holding,
    entries: &BTreeMap<String, BTreeMap<u64, Life>>,
    seen: &[Seen],
) -> Option<Breach> {
    let rule = holding.held.rule();
    if matches!(holding.held, Held::Instance(_)) {
        return None;
    }
    let Some(life) = entries.get(&holding.held.to_string()).and_then(|lives| lives.get(&holding.token.get()))
    else {
        return Some(Breach::new(
            rule,
            format!("{}: no entry was created at its token {}", holding.held, holding.token),
        ));
    };
    if let Some(deleted) = life
        .deleted
        .filter(|deleted| !deleted.with_lease && holding.over_at().is_none_or(|over| over > deleted.at))
    {
        let rule = if matches!(holding.held, Held::Lock(_)) { "r33" } else { "r44" };
        let what = format!(
            "{} with token {} was removed at revision {} and not by its holder",
            holding.held, holding.token, deleted.revision
        );
        return Some(Breach::new(rule, what));
    }
    if let Held::Id(service, id) = &holding.held {
        for smaller in 1..*id {
            if was_free(seen, &layout::id(service, smaller), holding.from, life.created) {
                return Some(Breach::new(
                    "r41",
                    format!(
                        "id {id} of {service} was given out at revision {}, and {smaller} was free",
                        life.created
                    ),
                ));
            }
        }
    }
    None
}

/// Whether a key was absent at every revision from `from` through `to`.
fn was_free(seen: &[Seen], key: &str, from: Revision, to: Revision) -> bool {
    let mut absent = true;
    for Seen { batch, .. } in seen.iter().take_while(|seen| seen.batch.revision <= to) {
        for change in batch.changes.iter().filter(|change| change.key() == key.as_bytes()) {
            absent = matches!(change, StoreChange::Delete { .. });
            // A change after `from`: it was there before, or is there now.
            if batch.revision > from {
                return false;
            }
        }
    }
    absent
}

/// Judges a watcher of the config centre: of a directory, or of one key in it. The log has all that
/// it was told.
pub(super) fn config_view(
    seen: &[Seen],
    directory: &str,
    own: Option<&str>,
    view: &ConfigView,
) -> Option<Breach> {
    let watched = |key: &Bytes| {
        key.starts_with(directory.as_bytes()) && own.is_none_or(|own| own.as_bytes() == key.as_ref())
    };
    let mut log: Vec<Change> = Vec::new();
    for Seen { batch, .. } in seen {
        for change in batch.changes.iter().filter(|change| watched(change.key())) {
            let name = String::from_utf8_lossy(change.key()).into_owned();
            let value = match change {
                StoreChange::Put(entry) => Some(entry.value.clone()),
                StoreChange::Delete { .. } => None,
            };
            log.push((name.strip_prefix(layout::CONFIG).unwrap_or(&name).to_owned(), batch.revision, value));
        }
    }
    if let Err((rule, what)) = view.compare(&log) {
        return Some(Breach::new(rule, what));
    }
    let mut there = state_at(seen, directory, view.seen());
    there.retain(|key, _| watched(key));
    let told = view
        .state()
        .iter()
        .map(|(key, (value, version))| (Bytes::from(layout::config(key)), (*version, value.clone())));
    let same = there.into_iter().eq(told);
    // Without a state to begin with, a view is not whole: it knows the changes alone.
    (!same && view.resyncs() > 0).then(|| {
        Breach::new("r19", format!("at revision {} the state told is not what was there", view.seen()))
    })
}

/// Judges a watcher of a service, whose records lie under `prefix`. The log has all that it was
/// told.
pub(super) fn service_view(seen: &[Seen], prefix: &str, sights: &[Sight]) -> Option<Breach> {
    let (mut state, mut log, mut previous): (BTreeMap<&Bytes, Option<String>>, _, _) =
        (BTreeMap::new(), seen.iter().peekable(), None);
    for (revision, resync, instances) in sights {
        if previous.is_some_and(|previous| previous > *revision) {
            // A new watch may begin further back than an old one ended.
            (state, log, previous) = (BTreeMap::new(), seen.iter().peekable(), None);
        }
        let mut missed = None;
        while let Some(Seen { batch, .. }) = log.next_if(|seen| seen.batch.revision <= *revision) {
            for change in batch.changes.iter().filter(|change| change.key().starts_with(prefix.as_bytes())) {
                missed = missed.or(Some(batch.revision).filter(|at| at < revision && previous.is_some()));
                match change {
                    StoreChange::Put(entry) => state.insert(&entry.key, tag(&entry.value)),
                    StoreChange::Delete { key } => state.remove(key),
                };
            }
        }
        if !state
            .values()
            .map(Option::as_ref)
            .eq(instances.iter().map(|instance| instance.metadata.get("by")))
        {
            let told: Vec<_> = instances.iter().map(|instance| instance.metadata.get("by")).collect();
            return Some(Breach::new(
                "r39",
                format!("at revision {revision} there was {:?}, and told was {told:?}", state.values()),
            ));
        }
        if let Some(missed) = missed.filter(|_| !resync) {
            return Some(Breach::new("r39", format!("revision {missed} was not told, and {revision} was")));
        }
        previous = Some(*revision);
    }
    None
}

#[cfg(test)]
mod tests {
    use coord_api::{ConfigEntry, ConfigEvent, FencingToken, ServiceInstance, Value, Version};

    use super::super::holdings::{Answer, End};
    use super::super::truth::log;
    use super::*;

    fn value(text: &str) -> Value {
        Value::from(text.to_owned())
    }

    fn id(id: u32, token: u64, end: End) -> Holding {
        Holding {
            held: Held::Id("s".to_owned(), id),
            mode: coord_api::LockMode::Exclusive,
            downgraded: false,
            token: FencingToken::new(token),
            worker: 0,
            client: 0,
            returned: 0,
            from: Revision::new(1),
            contents: Vec::new(),
            handle: None,
            end,
        }
    }

    fn judged(holding: &Holding, seen: &[Seen]) -> Option<&'static str> {
        let entries = (1..=IDS).map(|id| {
            let own = lives(seen, &layout::id("s", id))
                .into_iter()
                .map(|life| (life.created.get(), life))
                .collect();
            (Held::Id("s".to_owned(), id).to_string(), own)
        });
        check_holding(holding, &entries.collect(), seen).map(|breach| breach.rule)
    }

    #[test]
    fn a_token_is_the_create_revision_of_an_entry() {
        let one = layout::id("s", 1);
        let seen = log(&[(2, &one, Some(value("")))]);
        assert_eq!(judged(&id(1, 2, End::None), &seen), None);
        assert_eq!(judged(&id(1, 3, End::None), &seen), Some("r43"));
    }

    #[test]
    fn an_entry_that_another_removed_is_noticed() {
        let one = layout::id("s", 1);
        let seen = log(&[(2, &one, Some(value(""))), (3, &one, None)]);
        assert_eq!(judged(&id(1, 2, End::None), &seen), Some("r44"));
        // Seen at moment 2, and let go before that, or later.
        let let_go = |began| End::LetGo { began, answer: Answer::None, head: None };
        assert_eq!(judged(&id(1, 2, let_go(1)), &seen), None);
        assert_eq!(judged(&id(1, 2, let_go(9)), &seen), Some("r44"));
    }

    #[test]
    fn an_id_that_was_not_the_smallest_is_noticed() {
        let (one, two) = (layout::id("s", 1), layout::id("s", 2));
        assert_eq!(judged(&id(2, 2, End::None), &log(&[(2, &two, Some(value("")))])), Some("r41"));
        let held = [(1, one.as_str(), Some(value(""))), (3, &two, Some(value("")))];
        assert_eq!(judged(&id(2, 3, End::None), &log(&held)), None);
        let freed_meanwhile =
            [(1, one.as_str(), Some(value(""))), (2, &one, None), (3, &two, Some(value("")))];
        assert_eq!(
            judged(&id(2, 3, End::None), &log(&freed_meanwhile)),
            None,
            "the call may have looked before"
        );
    }

    fn put(key: &str, version: u64, text: &str, last: bool) -> ConfigEvent {
        let entry = ConfigEntry { key: key.to_owned(), value: value(text), version: Version::new(version) };
        ConfigEvent::Put { entry, created: true, last }
    }

    /// What a watcher of `d/` makes of events, where this was done: `a` and `b` together at
    /// revision 2, and `c` at 3.
    fn watched(events: Vec<ConfigEvent>) -> Option<&'static str> {
        let mut seen = log(&[
            (2, "/config/d/a", Some(value("1"))),
            (2, "/config/d/b", Some(value("1"))),
            (3, "/config/d/c", Some(value("1"))),
        ]);
        let second = seen.remove(1);
        seen[0].batch.changes.extend(second.batch.changes);
        let mut view = ConfigView::after(Revision::new(1));
        for event in events {
            if let Err((rule, _)) = view.follow_up(event) {
                return Some(rule);
            }
        }
        config_view(&seen, "/config/d/", None, &view).map(|breach| breach.rule)
    }

    #[test]
    fn a_watch_that_tells_all_in_order_is_right() {
        assert_eq!(
            watched(vec![put("d/a", 2, "1", false), put("d/b", 2, "1", true), put("d/c", 3, "1", true)]),
            None
        );
    }

    #[test]
    fn gaps_splits_swaps_doubles_and_inventions_are_noticed() {
        let (a, b, c) =
            (|last| put("d/a", 2, "1", last), |last| put("d/b", 2, "1", last), || put("d/c", 3, "1", true));
        assert_eq!(watched(vec![c()]), Some("r18"), "a gap at the beginning");
        assert_eq!(watched(vec![a(true), c()]), Some("r18"), "a part of a revision is missing");
        assert_eq!(watched(vec![a(true), b(true), c()]), Some("r18"), "a revision in two parts");
        assert_eq!(
            watched(vec![a(false), c()]),
            Some("r18"),
            "a revision begins before the last one is complete"
        );
        assert_eq!(watched(vec![c(), a(false), b(true)]), Some("r18"), "backwards");
        assert_eq!(watched(vec![a(false), b(true), b(true), c()]), Some("r18"), "twice");
        assert_eq!(watched(vec![b(false), a(true), c()]), Some("r18"), "swapped");
        assert_eq!(watched(vec![a(false), b(true), put("d/c", 3, "2", true)]), Some("r21"), "another value");
    }

    #[test]
    fn a_service_watch_that_misses_a_revision_or_tells_another_set_is_noticed() {
        let instance = |tag: &str| ServiceInstance::new("s", "i0", "localhost", 80).with_metadata("by", tag);
        let record = |tag: &str| Value::from(serde_json::to_vec(&instance(tag)).unwrap());
        let key = "/services/s/i0";
        let seen =
            log(&[(2, key, Some(record("1"))), (3, key, Some(record("2"))), (4, key, Some(record("3")))]);
        let sight = |revision, resync, tag: &str| (Revision::new(revision), resync, vec![instance(tag)]);
        let judged = |sights: &[Sight]| service_view(&seen, "/services/s/", sights).map(|breach| breach.rule);
        assert_eq!(judged(&[sight(2, true, "1"), sight(3, false, "2"), sight(4, false, "3")]), None);
        assert_eq!(
            judged(&[sight(2, true, "1"), sight(4, true, "3")]),
            None,
            "a resync tells the outcome alone"
        );
        assert_eq!(judged(&[sight(2, true, "1"), sight(4, false, "3")]), Some("r39"));
        assert_eq!(judged(&[sight(2, true, "1"), sight(3, false, "3")]), Some("r39"));
    }

    #[test]
    fn a_listing_that_is_not_one_snapshot_is_noticed() {
        use super::super::registry::Snapshot;
        let seen = log(&[
            (2, "/config/d/a", Some(value("1"))),
            (3, "/config/d/b", Some(value("1"))),
            (4, "/config/d/a", None),
        ]);
        let judged = |from: u64, at: u64, keys: &[(&str, u64)]| {
            let items = keys
                .iter()
                .map(|(key, version)| ((*key).to_owned(), Version::new(*version), value("1")))
                .collect();
            let snapshot = Snapshot {
                rule: "r14",
                prefix: "/config/d/".to_owned(),
                from: Revision::new(from),
                at: Revision::new(at),
                items,
            };
            check_snapshots(&[snapshot], &seen, |_| true).first().map(|breach| breach.rule)
        };
        assert_eq!(judged(2, 3, &[("/config/d/a", 2), ("/config/d/b", 3)]), None);
        assert_eq!(judged(2, 3, &[("/config/d/b", 3)]), Some("r14"), "one is missing");
        assert_eq!(
            judged(2, 4, &[("/config/d/a", 2), ("/config/d/b", 3)]),
            Some("r14"),
            "one is gone already"
        );
        assert_eq!(judged(2, 3, &[("/config/d/a", 3), ("/config/d/b", 3)]), Some("r14"), "another version");
        assert_eq!(
            judged(4, 3, &[("/config/d/a", 2), ("/config/d/b", 3)]),
            Some("r10"),
            "older than what was known"
        );
        let stale = Snapshot {
            rule: "r35",
            prefix: "/services/s/".to_owned(),
            from: Revision::new(4),
            at: Revision::new(3),
            items: Vec::new(),
        };
        assert_eq!(
            check_snapshots(&[stale], &seen, |_| true).first().map(|breach| breach.rule),
            Some("r35"),
            "a stale discovery"
        );
    }
}
