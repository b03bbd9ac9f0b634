//! What a case is, and the macros that turn a list of cases into data and into tests.

use futures_util::future::LocalBoxFuture;

use crate::fixture::Fixture;

/// A case: one sentence of the contract, and the program that proves it.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// The rule, in lower case: `r12`, `s4`.
    pub rule: &'static str,
    /// What is true of a backend that keeps the rule, as an identifier.
    pub sentence: &'static str,
    /// What not every backend has.
    pub need: Option<Need>,
    #[doc(hidden)]
    pub program: fn(Fixture) -> LocalBoxFuture<'static, ()>,
}

/// What a case needs and not every backend has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(non_camel_case_types, reason = "written as it stands in the lists of cases and in `conformance!`")]
pub enum Need {
    /// A store that keeps its data when its process dies.
    persistent,
}

/// Turns a list of cases into data: a slice of [`Case`]s.
///
/// The kit's own lists go through it, and so may those for a contract of your own: a macro that
/// hands its list to whatever it is told to, first to this one and then to
/// [`test_cases!`](crate::test_cases). Each case is a function `rule::sentence` that takes a
/// [`Fixture`](crate::Fixture), or names another one that does: several promises may be one program
/// with other parameters.
///
/// ```
/// use coord_testkit::{Case, Fixture, Need};
///
/// mod r99 {
///     pub(super) async fn a_promise_of_your_own_is_kept(_: coord_testkit::Fixture) {}
///     pub(super) async fn it_is_kept_across_reopening(_: coord_testkit::Fixture) {}
/// }
///
/// async fn holds(_: Fixture, times: u32) {}
///
/// macro_rules! my_cases {
///     ([$($callback:tt)*] $($arguments:tt)*) => {
///         $($callback)*! {
///             $($arguments)*
///             r99 {
///                 a_promise_of_your_own_is_kept,
///                 it_is_kept_across_reopening: persistent,
///                 it_is_kept_twice => |fixture| holds(fixture, 2),
///             }
///         }
///     };
/// }
///
/// const CASES: &[Case] = my_cases!([coord_testkit::list_cases]);
/// assert_eq!((CASES[1].rule, CASES[1].need), ("r99", Some(Need::persistent)));
/// // In a test: my_cases! { [coord_testkit::test_cases] (CASES) volatile }
/// ```
#[macro_export]
macro_rules! list_cases {
    ($( $rule:ident { $( $name:ident $(: $need:ident)? $(=> $program:expr)? ),* $(,)? } )*) => {
        &[$($( $crate::Case {
            rule: stringify!($rule),
            sentence: stringify!($name),
            need: $crate::list_cases!(@need $($need)?),
            program: |fixture| ::std::boxed::Box::pin($crate::list_cases!(@program fixture $rule $name $(=> $program)?)),
        } ),*),*]
    };
    (@program $fixture:ident $rule:ident $name:ident) => { $rule::$name($fixture) };
    (@program $fixture:ident $rule:ident $name:ident => $program:expr) => { ($program)($fixture) };
    (@need) => { ::core::option::Option::None };
    (@need $need:ident) => { ::core::option::Option::Some($crate::Need::$need) };
}

/// Makes one `#[test]` of every case of the kit: `conformance!(persistent, harness)` or
/// `conformance!(volatile, harness)`.
///
/// The harness is an expression that makes a [`Harness`](crate::Harness) with a fresh, empty store;
/// it may await. The tests are named `rule::sentence`. What a volatile store cannot show is there
/// as an ignored test that says why, so that nobody takes it for proven.
///
/// It expands to one module for each rule; call it at the root of an integration test, or in a
/// module of its own for each harness.
#[macro_export]
macro_rules! conformance {
    ($ability:ident, $harness:expr) => {
        async fn coord_testkit_fresh() -> ::std::sync::Arc<dyn $crate::Harness> {
            ::std::sync::Arc::new($harness)
        }
        fn coord_testkit_harness() -> ::std::pin::Pin<
            ::std::boxed::Box<
                dyn ::std::future::Future<Output = ::std::sync::Arc<dyn $crate::Harness>>
                    + ::std::marker::Send,
            >,
        > {
            ::std::boxed::Box::pin(async {
                $crate::repeatable(coord_testkit_fresh().await, coord_testkit_harness)
            })
        }
        $crate::general_cases! { [$crate::test_cases] ($crate::cases()) $ability }
        $crate::session_cases! { [$crate::test_cases] ($crate::cases()) $ability }
        $crate::config_cases! { [$crate::test_cases] ($crate::cases()) $ability }
        $crate::watch_cases! { [$crate::test_cases] ($crate::cases()) $ability }
        $crate::lock_cases! { [$crate::test_cases] ($crate::cases()) $ability }
        $crate::registry_cases! { [$crate::test_cases] ($crate::cases()) $ability }
        $crate::ids_cases! { [$crate::test_cases] ($crate::cases()) $ability }
        $crate::stores_cases! { [$crate::test_cases] ($crate::cases()) $ability }
    };
}

/// Turns a list of cases into tests, beside a call of [`conformance!`](crate::conformance), whose
/// harness they use. See [`list_cases!`](crate::list_cases).
#[macro_export]
macro_rules! test_cases {
    (($cases:expr) $ability:ident $( $rule:ident { $( $name:ident $(: $need:ident)? $(=> $program:expr)? ),* $(,)? } )*) => {
        $(mod $rule {
            $( $crate::test_case! { ($cases) $ability $($need)?, $rule $name } )*
        })*
    };
}

/// Turns one case into a test; into an ignored one where a volatile store is all there is and the
/// case needs more.
#[doc(hidden)]
#[macro_export]
macro_rules! test_case {
    (($cases:expr) volatile persistent, $rule:ident $name:ident) => {
        #[test]
        #[ignore = "NOT RUN: a volatile store has nothing to open again"]
        fn $name() {
            $crate::test($cases, stringify!($rule), stringify!($name), super::coord_testkit_harness());
        }
    };
    (($cases:expr) $ability:ident $($need:ident)?, $rule:ident $name:ident) => {
        #[test]
        fn $name() {
            $crate::test($cases, stringify!($rule), stringify!($name), super::coord_testkit_harness());
        }
    };
}
