//! Cases of rules that are about types of the library: any backend runs them, and none provides the
//! types.

use coord_testkit::Case;

#[macro_use]
pub mod channel;
#[macro_use]
pub mod manager;

/// The kit's cases, and those of this module.
pub fn all() -> impl Iterator<Item = &'static Case> {
    coord_testkit::cases().chain(manager::CASES).chain(channel::CASES)
}

/// Makes tests as [`coord_testkit::conformance!`] does, of the kit's cases and of those in
/// [`cases`](crate::cases).
#[macro_export]
macro_rules! conformance {
    ($ability:ident, $harness:expr) => {
        coord_testkit::conformance!($ability, $harness);
        $crate::manager_cases! { [coord_testkit::test_cases] ($crate::cases::manager::CASES) $ability }
        $crate::channel_cases! { [coord_testkit::test_cases] ($crate::cases::channel::CASES) $ability }
    };
}
