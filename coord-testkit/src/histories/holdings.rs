//! The handles that a history was given, and what became of them.

use std::fmt;
use std::sync::Arc;

use coord_api::{Error, FencingToken, Revision};

use super::Breach;
use crate::handle::Handle;

/// What a handle stands for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Held {
    /// A lock, by its key.
    Lock(String),
    /// An id of a service.
    Id(String, u32),
    /// An instance, by its id; the service is the history's own.
    Instance(String),
}

impl Held {
    /// The rule of exclusion and rising tokens.
    pub(super) fn rule(&self) -> &'static str {
        match self {
            Held::Lock(_) => "r25",
            Held::Id(..) => "r43",
            Held::Instance(_) => "r34",
        }
    }

    /// The rule of giving it back.
    pub(super) fn rule_of_release(&self) -> &'static str {
        match self {
            Held::Lock(_) => "r33",
            Held::Id(..) => "r44",
            Held::Instance(_) => "r38",
        }
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Held::Lock(key) => write!(f, "lock {key}"),
            Held::Id(service, id) => write!(f, "id {id} of {service}"),
            Held::Instance(id) => write!(f, "instance {id}"),
        }
    }
}

/// A handle that was given out.
#[derive(Clone, Debug)]
pub(super) struct Holding {
    pub(super) held: Held,
    /// Its token as it was given out.
    pub(super) token: FencingToken,
    pub(super) worker: usize,
    pub(super) client: usize,
    /// When it was given out.
    pub(super) returned: u64,
    /// The store's revision when its call began, at least.
    pub(super) from: Revision,
    /// What was registered under it, the latest last, and whether each was acknowledged.
    pub(super) contents: Vec<String>,
    /// The handle, until it is let go or its client dies.
    pub(super) handle: Option<Arc<dyn Handle>>,
    pub(super) end: End,
}

/// How a handle ended.
#[derive(Clone, Debug)]
pub(super) enum End {
    /// It is held still.
    None,
    /// Its client died.
    Crashed(u64),
    /// It was let go: when that began, what came of it, and the store's revision after an
    /// acknowledged release.
    LetGo { began: u64, answer: Answer, head: Option<Revision> },
}

/// What came of a release.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// Nobody waited for it: the handle was dropped, or the call.
    None,
    /// The release was acknowledged.
    Released,
    /// It failed.
    Failed(Error),
}

impl Holding {
    /// When its holder stopped to count on it, by itself or by dying.
    pub(super) fn over_at(&self) -> Option<u64> {
        match self.end {
            End::None => None,
            End::Crashed(at) | End::LetGo { began: at, .. } => Some(at),
        }
    }
}

/// Two handles of one thing, both held at one moment: a breach, unless the lease of the first was
/// ended behind its back.
#[derive(Clone, Debug)]
pub(super) struct Overlap {
    pub(super) holder: usize,
    pub(super) next: usize,
    pub(super) at: u64,
}

/// All handles of a history.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    pub(super) all: Vec<Holding>,
    pub(super) overlaps: Vec<Overlap>,
}

impl Holdings {
    /// Takes note of a handle that was given out at this very moment: whoever else holds the same,
    /// by his own word, overlaps with it.
    pub(super) fn granted(&mut self, holding: Holding) -> usize {
        let next = self.all.len();
        // What is over when it is given out, and says so, takes nothing from anybody.
        let live = holding.handle.as_ref().is_some_and(|handle| handle.state().is_held());
        let exclusive = live && !matches!(holding.held, Held::Instance(_));
        let others = self.all.iter().enumerate().filter(|(_, other)| exclusive && other.held == holding.held);
        for (holder, other) in others {
            let held = other.handle.as_ref().is_some_and(|handle| handle.state().is_held());
            if held || other.token >= holding.token {
                self.overlaps.push(Overlap { holder, next, at: holding.returned });
            }
        }
        self.all.push(holding);
        next
    }

    /// The handles that are held still, by those who hold them.
    pub(super) fn open(&self) -> impl Iterator<Item = (&Holding, &Arc<dyn Handle>)> {
        self.all.iter().filter_map(|holding| Some((holding, holding.handle.as_ref()?)))
    }

    /// A handle is let go: takes it from its holder.
    pub(super) fn let_go(&mut self, number: usize, began: u64) -> Option<Arc<dyn Handle>> {
        let holding = self.all.get_mut(number)?;
        let handle = holding.handle.take()?;
        holding.end = End::LetGo { began, answer: Answer::None, head: None };
        Some(handle)
    }

    /// A client dies: whatever it held, it holds no more.
    pub(super) fn crashed(&mut self, client: usize, at: u64) -> Vec<Arc<dyn Handle>> {
        let mut dead = Vec::new();
        for holding in self.all.iter_mut().filter(|holding| holding.client == client) {
            if let Some(handle) = holding.handle.take() {
                holding.end = End::Crashed(at);
                dead.push(handle);
            }
        }
        dead
    }

    /// Judges the overlaps: `excused` says of a handle whether its lease was ended behind its back
    /// by a moment.
    pub(super) fn check(&self, excused: impl Fn(&Holding, u64) -> bool) -> Vec<Breach> {
        let mut breaches = Vec::new();
        for overlap in &self.overlaps {
            let (Some(holder), Some(next)) = (self.all.get(overlap.holder), self.all.get(overlap.next))
            else {
                continue;
            };
            if next.token == holder.token {
                breaches.push(Breach::new(
                    next.held.rule(),
                    format!("{}: two grants carry the token {}", next.held, next.token),
                ));
            } else if next.token < holder.token {
                // The grant itself is late: its entry may have ended with its lease, which its
                // holder does not know yet.
                if !excused(next, overlap.at) {
                    let what = format!(
                        "{}: token {} was granted after token {}",
                        next.held, next.token, holder.token
                    );
                    breaches.push(Breach::new(next.held.rule(), what));
                }
            } else if !excused(holder, overlap.at) {
                let what = format!(
                    "{}: granted to worker {} with token {} while worker {} held it with token {}",
                    next.held, next.worker, next.token, holder.worker, holder.token
                );
                breaches.push(Breach::new(next.held.rule(), what));
            }
        }
        breaches
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use coord_api::handle::Leased;
    use coord_api::{HandleState, LockGuard, Loss, Lost, Result};

    use super::*;

    /// A handle that holds, or does not.
    #[derive(Debug)]
    struct Fake(u64, bool);

    #[async_trait::async_trait]
    impl Leased for Fake {
        fn fencing_token(&self) -> FencingToken {
            FencingToken::new(self.0)
        }

        fn state(&self) -> HandleState {
            if self.1 { HandleState::Held } else { HandleState::Ended(Loss::Expired) }
        }

        fn ttl(&self) -> Duration {
            Duration::ZERO
        }

        fn lost(&self) -> Lost {
            Lost::new(std::future::pending())
        }

        async fn release(&self) -> Result<()> {
            Ok(())
        }
    }

    fn grant(holdings: &mut Holdings, token: u64, held: bool, at: u64) -> usize {
        let handle = LockGuard::new("k", Fake(token, held));
        let holding = Holding {
            held: Held::Lock("k".to_owned()),
            token: FencingToken::new(token),
            worker: 0,
            client: 0,
            returned: at,
            from: Revision::ZERO,
            contents: Vec::new(),
            handle: Some(Arc::new(handle)),
            end: End::None,
        };
        holdings.granted(holding)
    }

    fn rules(holdings: &Holdings) -> Vec<&'static str> {
        holdings.check(|_, _| false).iter().map(|breach| breach.rule).collect()
    }

    #[test]
    fn one_holder_after_the_other_is_right() {
        let mut holdings = Holdings::default();
        let first = grant(&mut holdings, 1, true, 1);
        holdings.let_go(first, 2);
        grant(&mut holdings, 3, true, 3);
        grant(&mut holdings, 2, false, 4);
        assert_eq!(rules(&holdings), [""; 0]);
    }

    #[test]
    fn two_holders_at_once_are_rejected_unless_the_firsts_lease_was_ended_before() {
        let mut holdings = Holdings::default();
        grant(&mut holdings, 1, true, 1);
        grant(&mut holdings, 2, true, 5);
        assert_eq!(rules(&holdings), ["r25"]);
        assert!(holdings.check(|holding, by| holding.token.get() == 1 && by == 5).is_empty());
        assert_eq!(
            holdings.check(|holding, _| holding.token.get() == 2).len(),
            1,
            "the other's lease excuses nothing"
        );
    }

    #[test]
    fn a_token_that_does_not_rise_is_rejected() {
        for token in [4, 5] {
            let mut holdings = Holdings::default();
            let first = grant(&mut holdings, 5, true, 1);
            holdings.let_go(first, 2);
            grant(&mut holdings, token, true, 3);
            assert_eq!(rules(&holdings), ["r25"], "{token} after 5");
        }
    }

    #[test]
    fn a_dead_client_holds_nothing() {
        let mut holdings = Holdings::default();
        grant(&mut holdings, 1, true, 1);
        assert_eq!(holdings.crashed(0, 2).len(), 1);
        grant(&mut holdings, 2, true, 3);
        assert_eq!(rules(&holdings), [""; 0]);
    }
}
