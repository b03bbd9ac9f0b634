//! Whether a history of one register is linearizable (R10): a small search after Wing, Gong and
//! Lowe.
//!
//! An operation takes effect at one moment between its call and its return. One whose outcome is
//! unknown may take effect at any time after its call, or never.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use coord_api::{Value, Version};

/// An operation and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// A read, and what it found.
    Get(Option<(Value, Version)>),
    /// A write, and its version; `None` where the outcome is unknown.
    Set(Value, Option<Version>),
    /// A compare-and-set that expected a version, and its answer: its own version, or the one
    /// found; `None` where the outcome is unknown.
    CompareAndSet(Version, Value, Option<Result<Version, Version>>),
    /// A deletion, and whether the key existed; `None` where the outcome is unknown.
    Delete(Option<bool>),
    /// A compare-and-delete that expected a version, and its answer: whether the key existed, or
    /// the version found; `None` where the outcome is unknown.
    CompareAndDelete(Version, Option<Result<bool, Version>>),
}

impl Op {
    /// Whether nobody knows if it took effect.
    fn is_unknown(&self) -> bool {
        matches!(
            self,
            Op::Set(_, None)
                | Op::CompareAndSet(_, _, None)
                | Op::Delete(None)
                | Op::CompareAndDelete(_, None)
        )
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value: &Value| String::from_utf8_lossy(value).into_owned();
        match self {
            Op::Get(None) => f.write_str("get -> absent"),
            Op::Get(Some((value, version))) => write!(f, "get -> {} @ {version}", text(value)),
            Op::Set(value, Some(version)) => write!(f, "set {} -> @ {version}", text(value)),
            Op::Set(value, None) => write!(f, "set {} -> unknown", text(value)),
            Op::CompareAndSet(expected, value, answer) => {
                write!(f, "compare-and-set @ {expected} to {} -> ", text(value))?;
                match answer {
                    Some(Ok(version)) => write!(f, "@ {version}"),
                    Some(Err(current)) => write!(f, "conflict with @ {current}"),
                    None => f.write_str("unknown"),
                }
            }
            Op::Delete(Some(existed)) => write!(f, "delete -> {existed}"),
            Op::Delete(None) => f.write_str("delete -> unknown"),
            Op::CompareAndDelete(expected, answer) => {
                write!(f, "compare-and-delete @ {expected} -> ")?;
                match answer {
                    Some(Ok(existed)) => write!(f, "{existed}"),
                    Some(Err(current)) => write!(f, "conflict with @ {current}"),
                    None => f.write_str("unknown"),
                }
            }
        }
    }
}

/// An operation with the moments of its call and return.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    op: Op,
    called: u64,
    /// `u64::MAX` where the outcome is unknown.
    returned: u64,
}

impl Call {
    /// An operation that was called at one moment and returned at another, by any count that rises.
    pub fn new(op: Op, called: u64, returned: u64) -> Self {
        let returned = if op.is_unknown() { u64::MAX } else { returned };
        Call { op, called, returned }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (called at {}", self.op, self.called)?;
        if self.returned == u64::MAX {
            f.write_str(")")
        } else {
            write!(f, ", returned at {})", self.returned)
        }
    }
}

/// Counts moments, so that calls can be put in order without a clock.
#[derive(Debug, Default)]
pub struct Moments {
    next: AtomicU64,
}

impl Moments {
    /// The next moment.
    pub fn next(&self) -> u64 {
        self.next.fetch_add(1, Ordering::SeqCst)
    }

    /// Runs an operation and notes when it was called and when it returned. One that is known to
    /// have had no effect and no answer is `None`, and no part of a history.
    pub async fn record(&self, op: impl Future<Output = Option<Op>>) -> Option<Call> {
        let called = self.next();
        let op = op.await?;
        Some(Call::new(op, called, self.next()))
    }
}

/// Why a history does not count as linearizable, with the calls that were left where the search
/// came furthest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotLinearizable {
    /// There is no order of its calls that explains their answers.
    Proven {
        /// The calls that were left.
        stuck: Vec<Call>,
    },
    /// None was found within the budget. It counts as a failure: nothing was proven.
    Undecided {
        /// The steps that were made.
        budget: usize,
        /// The calls that were left.
        stuck: Vec<Call>,
    },
}

impl fmt::Display for NotLinearizable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stuck = match self {
            NotLinearizable::Proven { stuck } => {
                f.write_str("not linearizable")?;
                stuck
            }
            NotLinearizable::Undecided { budget, stuck } => {
                write!(f, "undecided after {budget} steps")?;
                stuck
            }
        };
        write!(f, "; {} calls were left where the search came furthest:", stuck.len())?;
        stuck.iter().take(12).try_for_each(|call| write!(f, "\n    {call}"))
    }
}

/// What the register holds: a value, with its version where it is known; and the greatest version
/// that it ever had.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Register {
    held: Option<(Value, Option<Version>)>,
    greatest: Version,
}

/// What is left of the history, as one bit for each call, and the register there.
type Node = (Vec<u64>, Register);

/// Checks the history of one key that starts absent. Written values are unique.
///
/// # Errors
///
/// When it is not linearizable, or when that was not found out within `budget` steps: the calls
/// that could not be put in order.
pub fn check(mut history: Vec<Call>, budget: usize) -> Result<(), NotLinearizable> {
    history.sort_by_key(|call| call.called);
    let certain = resolve(&mut history);
    let mut all = vec![0_u64; history.len().div_ceil(64)];
    let mut certain_bits = all.clone();
    for (index, certain) in certain.iter().enumerate() {
        set(&mut all, index, true);
        set(&mut certain_bits, index, *certain);
    }
    let certain_left = |left: &[u64]| {
        left.iter().zip(&certain_bits).map(|(left, certain)| (left & certain).count_ones()).sum::<u32>()
    };
    let mut seen: HashSet<Node> = HashSet::new();
    let mut open: Vec<Node> = vec![(all, Register { held: None, greatest: Version::ZERO })];
    let mut fewest = u32::MAX;
    let mut stuck = Vec::new();
    while let Some((left, register)) = open.pop() {
        let rest: Vec<(usize, &Call)> =
            history.iter().enumerate().filter(|(index, _)| get(&left, *index)).collect();
        let certain = certain_left(&left);
        if certain == 0 {
            return Ok(());
        }
        if certain < fewest {
            fewest = certain;
            stuck = rest
                .iter()
                .filter(|(index, _)| get(&certain_bits, *index))
                .map(|(_, call)| (*call).clone())
                .collect();
        }
        let mut ways = ways(&rest, &left, &register, &certain_bits);
        // Taken from the end: what is known to have happened is tried before what may never have.
        ways.sort_by_key(|(left, _)| std::cmp::Reverse(certain_left(left)));
        open.extend(ways.into_iter().filter(|node| seen.insert(node.clone())));
        if seen.len() > budget {
            return Err(NotLinearizable::Undecided { budget, stuck });
        }
    }
    Err(NotLinearizable::Proven { stuck })
}

/// Says of each call whether it has surely taken effect: it returned, or what it wrote was read. In
/// the second case its version is known too.
fn resolve(history: &mut [Call]) -> Vec<bool> {
    let read: HashMap<Value, Version> = history
        .iter()
        .filter_map(|call| match &call.op {
            Op::Get(found) => found.clone(),
            _ => None,
        })
        .collect();
    let resolved = history.iter_mut().map(|call| {
        match &mut call.op {
            Op::Set(value, version @ None) => *version = read.get(value).copied(),
            Op::CompareAndSet(_, value, answer @ None) => {
                *answer = read.get(value).map(|version| Ok(*version))
            }
            _ => {}
        }
        !call.op.is_unknown()
    });
    resolved.collect()
}

/// Every call that can be the next, with what is left then.
fn ways(rest: &[(usize, &Call)], left: &[u64], register: &Register, certain: &[u64]) -> Vec<Node> {
    // Only a call that began before every other one had returned can be the next.
    let horizon = rest.iter().map(|(_, call)| call.returned).min().unwrap_or(u64::MAX);
    // Versions only rise, so that what belongs to the smallest one left comes before any greater
    // one is written.
    let smallest = rest.iter().filter_map(|(_, call)| version_of(&call.op)).min();
    // Writes that nobody read and that expect the same are as good as each other: one of them is
    // enough to try.
    let mut alike: HashSet<(bool, Option<Version>)> = HashSet::new();
    let mut ways = Vec::new();
    for (index, call) in rest.iter().filter(|(_, call)| call.called < horizon) {
        if is_write(&call.op) && version_of(&call.op).is_some_and(|version| Some(version) > smallest) {
            continue;
        }
        let kind = match &call.op {
            Op::Delete(_) => (true, None),
            Op::CompareAndDelete(expected, _) => (true, Some(*expected)),
            Op::CompareAndSet(expected, _, _) => (false, Some(*expected)),
            _ => (false, None),
        };
        if !get(certain, *index) && !alike.insert(kind) {
            continue;
        }
        let Some(next) = apply(register, &call.op) else { continue };
        let mut left = left.to_vec();
        set(&mut left, *index, false);
        if next == *register {
            if get(certain, *index) {
                // It changes nothing, so that it may as well come now.
                return vec![(left, next)];
            }
            continue;
        }
        ways.push((left, next));
    }
    ways
}

/// The register after `op`, or `None` where its answer could not have come from this one.
fn apply(register: &Register, op: &Op) -> Option<Register> {
    let present = register.held.as_ref();
    let written = |value: &Value, version: Option<Version>| {
        let fresh = version.is_none_or(|version| version > register.greatest);
        let greatest = version.unwrap_or(register.greatest);
        fresh.then(|| Register { held: Some((value.clone(), version)), greatest })
    };
    match op {
        Op::Get(None) => present.is_none().then(|| register.clone()),
        Op::Get(Some((value, version))) => {
            found(register, *version).filter(|_| present.is_some_and(|(held, _)| held == value))
        }
        Op::Set(value, version) => written(value, *version),
        Op::CompareAndSet(expected, _, Some(Err(current)))
        | Op::CompareAndDelete(expected, Some(Err(current))) => {
            if *current == Version::ZERO {
                (present.is_none() && *expected != Version::ZERO).then(|| register.clone())
            } else {
                found(register, *current).filter(|_| expected != current)
            }
        }
        Op::CompareAndSet(expected, value, answer) => {
            if holds(register, *expected) {
                written(value, answer.and_then(Result::ok))
            } else {
                None
            }
        }
        Op::CompareAndDelete(expected, answer) => {
            let told = answer.and_then(Result::ok).is_none_or(|existed| existed == present.is_some());
            (told && holds(register, *expected)).then(|| Register { held: None, greatest: register.greatest })
        }
        Op::Delete(existed) => existed
            .is_none_or(|existed| existed == present.is_some())
            .then(|| Register { held: None, greatest: register.greatest }),
    }
}

/// Whether the register's version is the expected one.
fn holds(register: &Register, expected: Version) -> bool {
    match &register.held {
        None => expected == Version::ZERO,
        Some((_, version)) => *version == Some(expected),
    }
}

/// The register once it is known that what it holds has this version.
fn found(register: &Register, version: Version) -> Option<Register> {
    match &register.held {
        Some((value, None)) if version > register.greatest => {
            Some(Register { held: Some((value.clone(), Some(version))), greatest: version })
        }
        Some((_, Some(held))) if *held == version => Some(register.clone()),
        _ => None,
    }
}

/// The version that an operation wrote or found.
fn version_of(op: &Op) -> Option<Version> {
    match op {
        Op::Get(found) => found.as_ref().map(|(_, version)| *version),
        Op::Set(_, version) => *version,
        Op::CompareAndSet(_, _, Some(Ok(version))) => Some(*version),
        Op::CompareAndSet(_, _, Some(Err(current))) | Op::CompareAndDelete(_, Some(Err(current))) => {
            Some(*current).filter(|current| *current != Version::ZERO)
        }
        Op::CompareAndSet(_, _, None) | Op::Delete(_) | Op::CompareAndDelete(..) => None,
    }
}

fn is_write(op: &Op) -> bool {
    matches!(op, Op::Set(..) | Op::CompareAndSet(_, _, None | Some(Ok(_))))
}

fn get(bits: &[u64], index: usize) -> bool {
    bits.get(index / 64).is_some_and(|word| word & (1 << (index % 64)) != 0)
}

fn set(bits: &mut [u64], index: usize, to: bool) {
    if let Some(word) = bits.get_mut(index / 64) {
        let bit = 1 << (index % 64);
        *word = if to { *word | bit } else { *word & !bit };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(called: u64, returned: u64, op: Op) -> Call {
        Call { op, called, returned }
    }

    fn value(text: &'static str) -> Value {
        Value::from(text)
    }

    fn version(number: u64) -> Version {
        Version::new(number)
    }

    #[test]
    fn one_after_the_other_is_linearizable() {
        let history = vec![
            call(0, 1, Op::Get(None)),
            call(2, 3, Op::Set(value("a"), Some(version(1)))),
            call(4, 5, Op::Get(Some((value("a"), version(1))))),
            call(6, 7, Op::CompareAndSet(version(1), value("b"), Some(Ok(version(2))))),
            call(8, 9, Op::CompareAndSet(version(1), value("c"), Some(Err(version(2))))),
            call(10, 11, Op::Delete(Some(true))),
            call(12, 13, Op::Delete(Some(false))),
        ];
        assert_eq!(check(history, 1_000), Ok(()));
    }

    #[test]
    fn a_stale_read_is_not() {
        let history = vec![
            call(0, 1, Op::Set(value("a"), Some(version(1)))),
            call(2, 3, Op::Set(value("b"), Some(version(2)))),
            call(4, 5, Op::Get(Some((value("a"), version(1))))),
        ];
        assert!(check(history, 1_000).is_err());
    }

    #[test]
    fn an_overlapping_read_may_see_either() {
        for seen in [Some((value("a"), version(1))), None] {
            let history = vec![call(0, 3, Op::Set(value("a"), Some(version(1)))), call(1, 2, Op::Get(seen))];
            assert_eq!(check(history, 1_000), Ok(()));
        }
    }

    #[test]
    fn what_was_read_once_is_not_unread() {
        let history = vec![
            call(0, 9, Op::Set(value("a"), Some(version(1)))),
            call(1, 2, Op::Get(Some((value("a"), version(1))))),
            call(3, 4, Op::Get(None)),
        ];
        assert!(check(history, 1_000).is_err());
    }

    #[test]
    fn an_unknown_write_may_come_late_or_never_but_only_once() {
        let unknown = call(0, u64::MAX, Op::Set(value("a"), None));
        let seen = |at: u64, seen: Option<(Value, Version)>| call(at, at + 1, Op::Get(seen));
        assert_eq!(check(vec![unknown.clone(), seen(2, None)], 1_000), Ok(()));
        assert_eq!(
            check(vec![unknown.clone(), seen(2, None), seen(4, Some((value("a"), version(7))))], 1_000),
            Ok(())
        );
        let twice = vec![
            unknown,
            seen(2, Some((value("a"), version(7)))),
            call(4, 5, Op::Delete(Some(true))),
            seen(6, Some((value("a"), version(9)))),
        ];
        assert!(check(twice, 1_000).is_err());
    }

    #[test]
    fn two_winners_of_one_version_are_not_linearizable() {
        let history = vec![
            call(0, 1, Op::Set(value("a"), Some(version(1)))),
            call(2, 5, Op::CompareAndSet(version(1), value("b"), Some(Ok(version(2))))),
            call(3, 4, Op::CompareAndSet(version(1), value("c"), Some(Ok(version(3))))),
        ];
        assert!(check(history, 1_000).is_err());
    }

    #[test]
    fn a_lost_update_is_not_linearizable() {
        let history = vec![
            call(0, 1, Op::Set(value("a"), Some(version(1)))),
            call(2, 3, Op::CompareAndSet(version(1), value("b"), Some(Ok(version(2))))),
            call(4, 5, Op::CompareAndSet(version(1), value("c"), Some(Ok(version(3))))),
        ];
        assert!(check(history, 1_000).is_err());
    }

    #[test]
    fn what_was_said_to_be_not_applied_is_not_read() {
        // A write that is known to have had no effect is no part of the history.
        let history = vec![call(0, 1, Op::Get(Some((value("a"), version(1)))))];
        assert!(check(history, 1_000).is_err());
    }

    #[test]
    fn a_history_that_is_too_hard_for_the_budget_is_undecided() {
        let mut history: Vec<Call> =
            (0..20).map(|n| call(n, u64::MAX, Op::Set(Value::from(n.to_string()), None))).collect();
        history
            .extend((0..20).map(|n| {
                call(20, 99, Op::CompareAndSet(version(n + 1), Value::from(format!("c{n}")), None))
            }));
        history.push(call(40, 41, Op::Get(Some((value("19"), version(7))))));
        history.push(call(42, 43, Op::Get(Some((value("0"), version(6))))));
        assert!(matches!(check(history, 10), Err(NotLinearizable::Undecided { budget: 10, .. })));
    }

    #[test]
    fn versions_only_rise() {
        let history = vec![
            call(0, 1, Op::Set(value("a"), Some(version(5)))),
            call(2, 3, Op::Delete(Some(true))),
            call(4, 5, Op::Set(value("b"), Some(version(5)))),
        ];
        assert!(check(history, 1_000).is_err());
    }
}
