//! Cases of rules that are about types of the library: any backend runs them, and none provides the
//! types.

use coord_testkit::Case;

#[macro_use]
pub mod batched;
#[macro_use]
pub mod barrier;
#[macro_use]
pub mod channel;
#[macro_use]
pub mod counter;
#[macro_use]
pub mod election;
#[macro_use]
pub mod gray;
#[macro_use]
pub mod history;
#[macro_use]
pub mod inspect;
#[macro_use]
pub mod limits;
#[macro_use]
pub mod lock_set;
#[macro_use]
pub mod manager;
#[macro_use]
pub mod once;
#[macro_use]
pub mod periodic;
pub mod primitives;
#[macro_use]
pub mod queue;
#[macro_use]
pub mod semaphore;
#[macro_use]
pub mod uid;

/// The kit's cases, and those of this module.
pub fn all() -> impl Iterator<Item = &'static Case> {
    coord_testkit::cases()
        .chain(manager::CASES)
        .chain(channel::CASES)
        .chain(semaphore::CASES)
        .chain(election::CASES)
        .chain(gray::CASES)
        .chain(history::CASES)
        .chain(batched::CASES)
        .chain(once::CASES)
        .chain(periodic::CASES)
        .chain(barrier::CASES)
        .chain(counter::CASES)
        .chain(lock_set::CASES)
        .chain(queue::CASES)
        .chain(uid::CASES)
        .chain(limits::CASES)
        .chain(inspect::CASES)
}

/// Makes tests as [`coord_testkit::conformance!`] does, of the kit's cases and of those in
/// [`cases`](crate::cases).
#[macro_export]
macro_rules! conformance {
    ($ability:ident, $harness:expr) => {
        coord_testkit::conformance!($ability, $harness);
        $crate::manager_cases! { [coord_testkit::test_cases] ($crate::cases::manager::CASES) $ability }
        $crate::channel_cases! { [coord_testkit::test_cases] ($crate::cases::channel::CASES) $ability }
        $crate::semaphore_cases! { [coord_testkit::test_cases] ($crate::cases::semaphore::CASES) $ability }
        $crate::election_cases! { [coord_testkit::test_cases] ($crate::cases::election::CASES) $ability }
        $crate::gray_cases! { [coord_testkit::test_cases] ($crate::cases::gray::CASES) $ability }
        $crate::history_cases! { [coord_testkit::test_cases] ($crate::cases::history::CASES) $ability }
        $crate::batched_cases! { [coord_testkit::test_cases] ($crate::cases::batched::CASES) $ability }
        $crate::once_cases! { [coord_testkit::test_cases] ($crate::cases::once::CASES) $ability }
        $crate::periodic_cases! { [coord_testkit::test_cases] ($crate::cases::periodic::CASES) $ability }
        $crate::barrier_cases! { [coord_testkit::test_cases] ($crate::cases::barrier::CASES) $ability }
        $crate::counter_cases! { [coord_testkit::test_cases] ($crate::cases::counter::CASES) $ability }
        $crate::lock_set_cases! { [coord_testkit::test_cases] ($crate::cases::lock_set::CASES) $ability }
        $crate::queue_cases! { [coord_testkit::test_cases] ($crate::cases::queue::CASES) $ability }
        $crate::uid_cases! { [coord_testkit::test_cases] ($crate::cases::uid::CASES) $ability }
        $crate::limits_cases! { [coord_testkit::test_cases] ($crate::cases::limits::CASES) $ability }
        $crate::inspect_cases! { [coord_testkit::test_cases] ($crate::cases::inspect::CASES) $ability }
    };
}
