//! What a registry history must look like in the store's own log (R34, R35, R38).

use std::collections::BTreeMap;

use bytes::Bytes;
use coord_api::store::Change;
use coord_api::{Revision, ServiceInstance, Value, Version};

use super::Breach;
use super::holdings::{Answer, End, Holding, Holdings};
use super::truth::{Life, Seen, lives};
use crate::layout;

/// An attempt to register.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    /// What it registers carries this, and nothing else does.
    pub(super) tag: String,
    pub(super) client: usize,
    pub(super) id: String,
    pub(super) called: u64,
    pub(super) exclusive: bool,
    /// The handle that it was given.
    pub(super) holding: Option<usize>,
}

/// A listing, or a discovery: what was there at one revision.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    pub(super) rule: &'static str,
    pub(super) prefix: String,
    /// It is not older than this.
    pub(super) from: Revision,
    pub(super) at: Revision,
    /// Keys, with their versions (zero where they are not told) and values, in order.
    pub(super) items: Vec<(String, Version, Value)>,
}

/// Everything that was registered, or was to be.
#[derive(Clone, Debug, Default)]
pub(super) struct Registered {
    attempts: Vec<Attempt>,
    by_tag: BTreeMap<String, usize>,
    pub(super) snapshots: Vec<Snapshot>,
}

impl Registered {
    pub(super) fn begin(&mut self, attempt: Attempt) -> usize {
        self.by_tag.insert(attempt.tag.clone(), self.attempts.len());
        self.attempts.push(attempt);
        self.attempts.len() - 1
    }

    pub(super) fn granted(&mut self, attempt: usize, holding: usize) {
        if let Some(attempt) = self.attempts.get_mut(attempt) {
            attempt.holding = Some(holding);
        }
    }

    /// A holding goes on under another content.
    pub(super) fn updates(&mut self, tag: &str, holding: usize) {
        if let Some(attempt) = self.attempts.iter().position(|attempt| attempt.holding == Some(holding)) {
            self.by_tag.insert(tag.to_owned(), attempt);
        }
    }

    pub(super) fn discovered(
        &mut self,
        service: &str,
        from: Revision,
        found: coord_api::Snapshot<ServiceInstance>,
    ) {
        let items = found.items.iter().map(|instance| {
            let record = serde_json::to_vec(instance).unwrap_or_default();
            (layout::service(service, &instance.id), Version::ZERO, Value::from(record))
        });
        let snapshot = Snapshot {
            rule: "r35",
            prefix: format!("{}{service}/", layout::SERVICES),
            from,
            at: found.revision,
            items: items.collect(),
        };
        self.snapshots.push(snapshot);
    }

    fn attempt_of(&self, record: &Value) -> Option<&Attempt> {
        let tag = tag(record)?;
        self.attempts.get(*self.by_tag.get(&tag)?)
    }

    /// Judges the log of a service.
    pub(super) fn check(&self, service: &str, seen: &[Seen], holdings: &Holdings) -> Vec<Breach> {
        let mut breaches = Vec::new();
        for life in lives(seen, &format!("{}{service}/", layout::SERVICES)) {
            // The history's own last word stands under a name that nobody registers.
            if life.key != layout::service(service, super::END).as_bytes() {
                self.check_life(&life, holdings, &mut breaches);
            }
        }
        breaches
    }

    fn check_life(&self, life: &Life, holdings: &Holdings, breaches: &mut Vec<Breach>) {
        let holding = |attempt: &Attempt| attempt.holding.and_then(|number| holdings.all.get(number));
        let mut previous: Option<&Attempt> = None;
        for (revision, record) in &life.writes {
            let Some(writer) = self.attempt_of(record) else {
                breaches.push(Breach::new(
                    "r34",
                    format!(
                        "at revision {revision} something was registered that nobody asked for: {:?}",
                        tag(record)
                    ),
                ));
                continue;
            };
            if let Some(holding) = holding(writer) {
                if let Some(what) = after_its_end(holding, *revision) {
                    breaches.push(Breach::new("r38", format!("{what}: {} as {}", writer.id, writer.tag)));
                }
            }
            // Whoever was registered before the present owner asked for it does not write over him.
            if let Some(owner) = previous.filter(|owner| owner.tag != writer.tag) {
                let was_before = holding(writer).is_some_and(|holding| holding.returned < owner.called);
                // A failed attempt leaves what its own provider had registered before.
                let undone = owner.holding.is_none() && owner.client == writer.client;
                if writer.exclusive
                    && writer.client != owner.client
                    && tag(record).as_ref() == Some(&writer.tag)
                {
                    let what = format!(
                        "{}: {} was to be exclusive and took over {} of another client",
                        writer.id, writer.tag, owner.tag
                    );
                    breaches.push(Breach::new("r34", what));
                }
                // A call that began after the owner had his handle has a greater number; of calls
                // that overlap nothing can be said.
                if let Some((owned, taken)) =
                    holding(owner).zip(holding(writer)).filter(|(owned, _)| owned.returned < writer.called)
                {
                    if writer.client != owner.client && taken.token <= owned.token {
                        let what = format!(
                            "{}: the take-over by {} has token {}, and the owner before had {}",
                            writer.id, writer.tag, taken.token, owned.token
                        );
                        breaches.push(Breach::new("r34", what));
                    }
                }
                if was_before && !undone {
                    let what = format!(
                        "{}: {} of client {} had been superseded by {} of client {} and came back at revision {revision}",
                        writer.id, writer.tag, writer.client, owner.tag, owner.client
                    );
                    breaches.push(Breach::new("r34", what));
                }
            }
            previous = Some(writer);
        }
    }
}

/// A write at `revision` of what was unregistered before, for good.
fn after_its_end(holding: &Holding, revision: Revision) -> Option<String> {
    match &holding.end {
        End::LetGo { answer: Answer::Released, head: Some(head), .. } if revision > *head => {
            Some(format!("unregistered by revision {head}, and there again at {revision}"))
        }
        _ => None,
    }
}

/// The tag of a record.
pub(super) fn tag(record: &Value) -> Option<String> {
    serde_json::from_slice::<ServiceInstance>(record).ok()?.metadata.remove("by")
}

/// Judges listings and discoveries against the log, up to where it `is_whole`.
pub(super) fn check_snapshots(
    snapshots: &[Snapshot],
    seen: &[Seen],
    is_whole: impl Fn(Revision) -> bool,
) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for snapshot in snapshots {
        if snapshot.at < snapshot.from {
            // A list is a read of the config centre (R10); a discovery has a rule of its own.
            let rule = if snapshot.rule == "r14" { "r10" } else { snapshot.rule };
            breaches.push(Breach::new(
                rule,
                format!("a read at revision {} came after revision {} was known", snapshot.at, snapshot.from),
            ));
        }
        if !is_whole(snapshot.at) {
            continue;
        }
        let there = state_at(seen, &snapshot.prefix, snapshot.at);
        // Backends may write records in their own way: instances are told apart by their tags.
        let content = |value: &Value| {
            if snapshot.rule == "r35" {
                tag(value).map_or_else(|| value.clone(), Value::from)
            } else {
                value.clone()
            }
        };
        let same = |(key, (version, value)): (&Bytes, &(Version, Value)), told: &(String, Version, Value)| {
            key.as_ref() == told.0.as_bytes()
                && (told.1 == Version::ZERO || told.1 == *version)
                && content(value) == content(&told.2)
        };
        let differs = there.len() != snapshot.items.len()
            || !there.iter().zip(&snapshot.items).all(|(there, told)| same(there, told));
        if differs {
            let keys: Vec<&String> = snapshot.items.iter().map(|(key, _, _)| key).collect();
            let what = format!(
                "at revision {} there was {:?}, and told was {keys:?}",
                snapshot.at,
                there.keys().collect::<Vec<_>>()
            );
            breaches.push(Breach::new(snapshot.rule, what));
        }
    }
    breaches
}

/// What lay under a prefix at a revision.
pub(super) fn state_at(seen: &[Seen], prefix: &str, at: Revision) -> BTreeMap<Bytes, (Version, Value)> {
    let mut state = BTreeMap::new();
    for change in
        seen.iter().take_while(|seen| seen.batch.revision <= at).flat_map(|seen| &seen.batch.changes)
    {
        if change.key().starts_with(prefix.as_bytes()) {
            match change {
                Change::Put(entry) => state.insert(entry.key.clone(), (entry.modified, entry.value.clone())),
                Change::Delete { key } => state.remove(key),
            };
        }
    }
    state
}

#[cfg(test)]
mod tests {
    use coord_api::FencingToken;

    use super::super::holdings::Held;
    use super::super::truth::log;
    use super::*;

    const KEY: &str = "/services/s/i0";

    fn record(tag: &str) -> Value {
        let instance = ServiceInstance::new("s", "i0", "localhost", 80).with_metadata("by", tag);
        Value::from(serde_json::to_vec(&instance).unwrap())
    }

    /// Attempts of clients at moments; each but those of `failed` was given a handle, one moment
    /// later.
    fn registered(attempts: &[(&str, usize, u64, bool)], failed: &[&str]) -> (Registered, Holdings) {
        let (mut registered, mut holdings) = (Registered::default(), Holdings::default());
        for (tag, client, called, exclusive) in attempts {
            let attempt = Attempt {
                tag: (*tag).to_owned(),
                client: *client,
                id: "i0".to_owned(),
                called: *called,
                exclusive: *exclusive,
                holding: None,
            };
            let attempt = registered.begin(attempt);
            if failed.contains(tag) {
                continue;
            }
            let holding = Holding {
                mode: coord_api::LockMode::Exclusive,
                downgraded: false,
                held: Held::Instance("i0".to_owned()),
                token: FencingToken::new(*called),
                worker: 0,
                client: *client,
                returned: called + 1,
                from: Revision::ZERO,
                contents: vec![(*tag).to_owned()],
                handle: None,
                end: End::None,
            };
            registered.granted(attempt, holdings.granted(holding));
        }
        (registered, holdings)
    }

    fn rules((registered, holdings): &(Registered, Holdings), log: &[Seen]) -> Vec<&'static str> {
        registered.check("s", log, holdings).iter().map(|breach| breach.rule).collect()
    }

    #[test]
    fn a_takeover_is_right_and_a_superseded_owner_that_comes_back_is_not() {
        let two = registered(&[("old", 0, 10, false), ("new", 1, 20, false)], &[]);
        let taken_over = [(2, KEY, Some(record("old"))), (3, KEY, Some(record("new")))];
        assert_eq!(rules(&two, &log(&taken_over)), [""; 0]);
        let back = [&taken_over[..], &[(4, KEY, Some(record("old")))]].concat();
        assert_eq!(rules(&two, &log(&back)), ["r34"]);
        let healed = [&taken_over[..], &[(4, KEY, None), (5, KEY, Some(record("old")))]].concat();
        assert_eq!(rules(&two, &log(&healed)), [""; 0], "whoever finds nobody there comes back");
    }

    #[test]
    fn a_failed_attempt_gives_back_what_its_own_client_had_and_takes_nothing_from_another() {
        let back =
            [(2, KEY, Some(record("old"))), (3, KEY, Some(record("failed"))), (4, KEY, Some(record("old")))];
        let own = registered(&[("old", 0, 10, false), ("failed", 0, 20, false)], &["failed"]);
        assert_eq!(rules(&own, &log(&back)), [""; 0]);
        let foreign = registered(&[("old", 0, 10, false), ("failed", 1, 20, false)], &["failed"]);
        assert_eq!(rules(&foreign, &log(&back)), ["r34"]);
    }

    #[test]
    fn a_takeover_without_a_greater_token_is_rejected() {
        let log = log(&[(2, KEY, Some(record("old"))), (3, KEY, Some(record("new")))]);
        let (one_after_the_other, mut holdings) =
            registered(&[("old", 0, 10, false), ("new", 1, 20, false)], &[]);
        assert!(one_after_the_other.check("s", &log, &holdings).is_empty());
        holdings.all[1].token = FencingToken::new(10);
        assert_eq!(one_after_the_other.check("s", &log, &holdings)[0].rule, "r34");
        let (overlapping, mut holdings) = registered(&[("old", 0, 10, false), ("new", 1, 11, false)], &[]);
        holdings.all[1].token = FencingToken::new(10);
        assert!(
            overlapping.check("s", &log, &holdings).is_empty(),
            "nothing can be said of calls that overlap"
        );
    }

    #[test]
    fn an_exclusive_takeover_of_a_foreign_owner_is_rejected() {
        let log = log(&[(2, KEY, Some(record("old"))), (3, KEY, Some(record("new")))]);
        assert_eq!(rules(&registered(&[("old", 0, 10, false), ("new", 1, 20, true)], &[]), &log), ["r34"]);
        assert_eq!(
            rules(&registered(&[("old", 0, 10, false), ("new", 0, 20, true)], &[]), &log),
            [""; 0],
            "one's own is replaced"
        );
    }

    #[test]
    fn what_was_unregistered_does_not_reappear() {
        let (registered, mut holdings) = registered(&[("it", 0, 10, false)], &[]);
        holdings.all[0].end =
            End::LetGo { began: 20, answer: Answer::Released, head: Some(Revision::new(3)) };
        let gone = [(2, KEY, Some(record("it"))), (3, KEY, None)];
        assert!(registered.check("s", &log(&gone), &holdings).is_empty());
        let back = log(&[&gone[..], &[(4, KEY, Some(record("it")))]].concat());
        assert_eq!(registered.check("s", &back, &holdings)[0].rule, "r38");
    }

    #[test]
    fn what_nobody_registered_is_rejected() {
        let log = log(&[(2, KEY, Some(record("invented")))]);
        assert_eq!(rules(&registered(&[("it", 0, 10, false)], &[]), &log), ["r34"]);
    }
}
