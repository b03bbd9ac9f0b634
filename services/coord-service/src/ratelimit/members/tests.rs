use proptest::prelude::*;

use super::*;

fn members(own: &str, at: Instant) -> Members {
    Members::new(own.to_owned(), 1, at + FIRST_ANSWER)
}

fn all(ids: &[&str]) -> Membership {
    Membership::All(ids.iter().map(|id| (*id).to_owned()).collect())
}

fn came(id: &str) -> Membership {
    Membership::Came(id.to_owned())
}

fn went(id: &str) -> Membership {
    Membership::Went(id.to_owned())
}

fn count(instances: u32, rank: u32) -> Count {
    Count { instances, rank }
}

const MILLISECOND: Duration = Duration::from_millis(1);

#[test]
fn who_has_come_settles_for_a_second() {
    let start = Instant::now();
    let mut b = members("b", start);
    assert_eq!(b.next(), Some(start + FIRST_ANSWER));
    assert!(b.take(all(&["a", "b", "c"]), start), "its buckets are emptied");
    assert_eq!((b.standing(), b.count()), (Standing::Settling { until: start + SETTLING }, count(3, 1)));
    assert_eq!((b.next(), b.live()), (Some(start + SETTLING), Some(3)));
    b.advance(start + SETTLING - MILLISECOND);
    assert_eq!(b.standing(), Standing::Settling { until: start + SETTLING });
    b.advance(start + SETTLING);
    assert_eq!((b.standing(), b.next()), (Standing::Member, None));
    assert!(!b.take(all(&["a", "b", "c"]), start), "what changes nothing");
}

#[test]
fn a_share_shrinks_at_once_and_grows_late() {
    let start = Instant::now();
    let mut b = members("b", start);
    assert!(b.take(all(&["b"]), start));
    b.advance(start + SETTLING);
    let at = start + 2 * SETTLING;
    assert!(!b.take(came("a"), at));
    assert_eq!(b.count(), count(2, 1));
    assert!(!b.take(came("c"), at));
    assert_eq!(b.count(), count(3, 1));
    assert!(!b.take(went("a"), at));
    assert_eq!((b.count(), b.live()), (count(3, 1), Some(2)));
    let later = at + Duration::from_millis(500);
    assert!(!b.take(went("c"), later));
    b.advance(at + GROWTH_DELAY - MILLISECOND);
    assert_eq!(b.count(), count(3, 1));
    b.advance(at + GROWTH_DELAY);
    assert_eq!((b.count(), b.next()), (count(2, 0), Some(later + GROWTH_DELAY)));
    b.advance(later + GROWTH_DELAY);
    assert_eq!((b.count(), b.next()), (count(1, 0), None));
}

#[test]
fn who_has_gone_goes_on_for_a_second() {
    let start = Instant::now();
    let mut b = members("b", start);
    assert!(b.take(all(&["a", "b"]), start));
    b.advance(start + SETTLING);
    let at = start + 2 * SETTLING;
    assert!(b.take(went("b"), at), "its buckets are emptied");
    assert_eq!((b.standing(), b.count()), (Standing::Leaving { until: at + SETTLING }, count(2, 1)));
    b.advance(at + SETTLING);
    assert_eq!(b.standing(), Standing::Outside);
    assert!(b.take(came("b"), at + SETTLING), "it comes back empty");
    assert_eq!(b.standing(), Standing::Settling { until: at + 2 * SETTLING });
    assert!(!b.take(went("b"), at + SETTLING), "it had nothing yet");
    assert_eq!(b.standing(), Standing::Outside);
}

#[test]
fn one_that_is_not_registered_stays_outside() {
    let start = Instant::now();
    let mut b = members("b", start);
    assert!(!b.take(all(&["a"]), start));
    assert_eq!((b.standing(), b.next()), (Standing::Outside, None));
    assert!(!b.take(all(&[]), start));
    assert_eq!((b.standing(), b.count().instances, b.live()), (Standing::Outside, 1, Some(0)));
}

#[test]
fn a_registry_that_says_nothing_is_done_without() {
    let start = Instant::now();
    let mut b = Members::new("b".to_owned(), 4, start + FIRST_ANSWER);
    b.advance(start + FIRST_ANSWER - MILLISECOND);
    assert_eq!(b.standing(), Standing::Waiting { until: start + FIRST_ANSWER });
    assert!(!b.take(Membership::Registered, start), "that says nothing of the others");
    b.advance(start + FIRST_ANSWER);
    assert_eq!((b.standing(), b.count(), b.live()), (Standing::Assumed, count(4, 0), None));
    b.wait(start + 2 * FIRST_ANSWER);
    assert_eq!(b.next(), Some(start + 2 * FIRST_ANSWER), "started late");
    b.advance(start + 2 * FIRST_ANSWER);
    let at = start + 2 * FIRST_ANSWER;
    assert!(b.take(all(&["a", "b"]), at), "it comes then");
    assert_eq!((b.standing(), b.count()), (Standing::Settling { until: at + SETTLING }, count(2, 1)));
    b.wait(at + FIRST_ANSWER);
    assert_eq!(b.standing(), Standing::Settling { until: at + SETTLING });
    assert_eq!(Members::assumed(0, start).count(), count(1, 0));
}

#[test]
fn an_id_of_another_process_is_no_membership() {
    let start = Instant::now();
    let mut b = members("b", start);
    assert!(b.take(all(&["a", "b"]), start));
    b.advance(start + SETTLING);
    let at = start + 2 * SETTLING;
    assert!(b.take(Membership::Superseded, at));
    assert!(!b.take(came("c"), at));
    assert_eq!(b.standing(), Standing::Leaving { until: at + SETTLING });
    assert!(b.take(Membership::Registered, at));
    assert_eq!(b.standing(), Standing::Settling { until: at + SETTLING });
}

proptest! {
    /// Against the plain sense of it: the greatest count of the last 1.1 s, and the last place.
    #[test]
    fn it_goes_by_the_most_that_were_there_of_late(
        steps in prop::collection::vec((0..6_u8, any::<bool>(), 0..600_u64), 1..200),
    ) {
        let start = Instant::now();
        let mut own = members("m3", start);
        let mut there: BTreeSet<String> = ["m3".to_owned()].into();
        let _ = own.take(Membership::All(there.clone()), start);
        let mut seen = vec![(start, there.clone())];
        let mut now = start;
        for (id, comes, pause) in steps {
            now += Duration::from_millis(pause);
            let id = format!("m{id}");
            let change = if comes { Membership::Came(id.clone()) } else { Membership::Went(id.clone()) };
            if comes { there.insert(id) } else { there.remove(&id) };
            let _ = own.take(change, now);
            seen.push((now, there.clone()));
            // Each set counts until a while after the next one took its place.
            let lasting = seen.iter().enumerate().filter(|(index, _)| {
                seen.get(index + 1).is_none_or(|(until, _)| *until + GROWTH_DELAY > now)
            });
            let counts = lasting.map(|(_, (_, ids))| {
                let rank = ids.iter().filter(|id| id.as_str() < "m3").count();
                count(u32::try_from(ids.len().max(1)).unwrap(), u32::try_from(rank).unwrap())
            });
            let expected = counts.reduce(Count::max).unwrap();
            prop_assert_eq!(own.count(), expected);
            prop_assert!(own.next().is_none_or(|next| next > now));
        }
    }
}

#[test]
fn what_is_kept_of_earlier_counts_is_bounded() {
    let start = Instant::now();
    let mut own = members("z", start);
    let ids: BTreeSet<String> = (0..5_000).map(|id| format!("{id:04}")).chain(["z".to_owned()]).collect();
    let _ = own.take(Membership::All(ids.clone()), start);
    for id in ids.iter().take(5_000) {
        let _ = own.take(Membership::Went(id.clone()), start);
    }
    assert!(own.earlier.len() <= MAX_COUNTS);
    assert_eq!((own.count(), own.live()), (count(5_001, 5_000), Some(1)));
    own.advance(start + GROWTH_DELAY);
    assert_eq!(own.count(), count(1, 0));
}
