//! The handles that a history was given, and what became of them.

use std::fmt;
use std::sync::Arc;

use coord_api::{Error, FencingToken, LockMode, Revision};

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
    /// Who else may hold it, as it was given out.
    pub(super) mode: LockMode,
    /// Whether it was asked meanwhile to let readers in.
    pub(super) downgraded: bool,
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

impl fmt::Display for Holding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with token {}", self.held, self.token)
    }
}

impl Holding {
    /// Whether readers may hold it as well.
    fn is_shared(&self) -> bool {
        self.mode == LockMode::Shared || self.downgraded
    }

    /// The rule that keeps this one apart from one that was given out later.
    fn rule_against(&self, next: &Holding) -> &'static str {
        match (self.mode, next.mode) {
            (LockMode::Shared, _) | (_, LockMode::Shared) => "r45",
            _ if self.downgraded => "r46",
            _ => self.held.rule(),
        }
    }

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
    pub(super) rule: &'static str,
}

/// All handles of a history.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    pub(super) all: Vec<Holding>,
    pub(super) overlaps: Vec<Overlap>,
}

impl Holdings {
    /// Takes note of a handle that was given out at this very moment: whoever else holds the same,
    /// by his own word, overlaps with it, unless both of them share. Tokens rise, but for those of
    /// readers who share: they are granted together, and told in any order.
    pub(super) fn granted(&mut self, holding: Holding) -> usize {
        let next = self.all.len();
        // What is over when it is given out, and says so, takes nothing from anybody.
        let live = holding.handle.as_ref().is_some_and(|handle| handle.state().is_held());
        let exclusive = live && !matches!(holding.held, Held::Instance(_));
        let others = self.all.iter().enumerate().filter(|(_, other)| exclusive && other.held == holding.held);
        for (holder, other) in others {
            let held = other.handle.as_ref().is_some_and(|handle| handle.state().is_held());
            let is_reader = holding.mode == LockMode::Shared;
            let together = is_reader && other.is_shared();
            let readers = is_reader && other.mode == LockMode::Shared;
            let falls = if readers { other.token == holding.token } else { other.token >= holding.token };
            if (held && !together) || falls {
                let rule = other.rule_against(&holding);
                self.overlaps.push(Overlap { holder, next, at: holding.returned, rule });
            }
        }
        self.all.push(holding);
        next
    }

    /// The handles that are held still, by those who hold them.
    pub(super) fn open(&self) -> impl Iterator<Item = (&Holding, &Arc<dyn Handle>)> {
        self.all.iter().filter_map(|holding| Some((holding, holding.handle.as_ref()?)))
    }

    /// A handle is about to be downgraded: from now on readers may come in. Gives it, and says what
    /// it is.
    pub(super) fn downgrade(&mut self, number: usize) -> Option<(Arc<dyn Handle>, String)> {
        let holding = self.all.get_mut(number)?;
        holding.downgraded = true;
        Some((Arc::clone(holding.handle.as_ref()?), holding.to_string()))
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
                    overlap.rule,
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
                    breaches.push(Breach::new(overlap.rule, what));
                }
            } else if !excused(holder, overlap.at) {
                let what = format!(
                    "{}: granted to worker {} with token {} while worker {} held it with token {}",
                    next.held, next.worker, next.token, holder.worker, holder.token
                );
                breaches.push(Breach::new(overlap.rule, what));
            }
        }
        breaches
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use coord_api::handle::Leased;
    use coord_api::{Fence, HandleState, LockGuard, LockHandle, LockMode, Loss, Lost, Result};

    use super::*;

    /// A handle that holds, or does not.
    #[derive(Debug)]
    struct Fake(u64, bool);

    #[async_trait::async_trait]
    impl Leased for Fake {
        fn fencing_token(&self) -> FencingToken {
            FencingToken::new(self.0)
        }

        fn fence(&self) -> Fence {
            Fence::broken("none")
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

    #[async_trait::async_trait]
    impl LockHandle for Fake {
        fn mode(&self) -> LockMode {
            LockMode::Exclusive
        }

        async fn downgrade(&self) -> Result<()> {
            Ok(())
        }
    }

    fn grant(holdings: &mut Holdings, token: u64, held: bool, at: u64) -> usize {
        grant_as(LockMode::Exclusive, holdings, token, held, at)
    }

    fn share(holdings: &mut Holdings, token: u64, at: u64) -> usize {
        grant_as(LockMode::Shared, holdings, token, true, at)
    }

    fn grant_as(mode: LockMode, holdings: &mut Holdings, token: u64, held: bool, at: u64) -> usize {
        let handle = LockGuard::new("k", Fake(token, held));
        let holding = Holding {
            held: Held::Lock("k".to_owned()),
            mode,
            downgraded: false,
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
    fn readers_share_in_any_order_and_a_writer_with_nobody() {
        let mut holdings = Holdings::default();
        let readers = [5, 4, 6].map(|token| share(&mut holdings, token, token));
        assert_eq!(rules(&holdings), [""; 0]);
        let writer = grant(&mut holdings, 7, true, 7);
        assert_eq!(rules(&holdings), ["r45"; 3], "one for each reader");
        readers.into_iter().for_each(|reader| drop(holdings.let_go(reader, 8)));
        share(&mut holdings, 8, 9);
        assert_eq!(rules(&holdings), ["r45"; 4], "a reader beside a writer");
        drop(holdings.let_go(writer, 10));
        // The writer was granted while this one stood before it.
        share(&mut holdings, 3, 11);
        assert_eq!(rules(&holdings), ["r45"; 5]);
        // Two readers with one place.
        share(&mut holdings, 8, 12);
        assert_eq!(rules(&holdings), ["r45"; 6]);
    }

    #[test]
    fn a_downgraded_one_lets_in_readers_and_no_writer() {
        let mut holdings = Holdings::default();
        let first = grant(&mut holdings, 1, true, 1);
        share(&mut holdings, 2, 2);
        assert_eq!(rules(&holdings), ["r45"], "it was not downgraded yet");
        assert!(holdings.downgrade(first).is_some());
        let reader = share(&mut holdings, 3, 3);
        assert_eq!(rules(&holdings), ["r45"]);
        drop(holdings.let_go(reader, 4));
        grant(&mut holdings, 4, true, 5);
        assert!(rules(&holdings).contains(&"r46"));
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
