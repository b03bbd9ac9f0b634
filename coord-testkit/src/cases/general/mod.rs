//! The rules of every contract: R1 to R8.

use std::sync::Arc;
use std::time::Duration;

use coord_api::prelude::*;
use coord_api::store::{Entry, Range, Store};
use coord_api::{
    IdOptions, LockOptions, RegisterOptions, Result, ServiceInstance, Value, Version, Wait, WatchStart,
};
use futures_util::future::BoxFuture;

use super::handle;
use crate::case::Case;
use crate::handle::{Ids, Locks, Registrations};

mod closing;
mod r1;
mod r1_shown;
mod r2;
mod r2_leased;
mod r3;
mod r4;
mod r5;
mod r6;
mod r7;
mod r8;

/// The list of these cases, for a macro that makes something of it.
#[doc(hidden)]
#[macro_export]
macro_rules! general_cases {
    ([$($callback:tt)*] $($arguments:tt)*) => {
        $($callback)*! {
            $($arguments)*
            r1 {
                the_same_precondition_has_the_same_kind,
                what_the_store_refuses_keeps_its_kind,
                out_of_reach_is_transient,
                a_failed_read_is_never_in_doubt,
                an_error_names_its_operation_and_shows_no_value,
                an_error_names_what_it_was_about_as_its_caller_did => r1_shown::an_error_names_what_it_was_about_as_its_caller_did,
                an_error_names_no_other_key_than_its_own => r1_shown::an_error_names_no_other_key_than_its_own,
                no_refusal_shows_a_value_or_what_others_keep => r1_shown::no_refusal_shows_a_value_or_what_others_keep,
                no_failure_shows_a_value_or_what_others_keep => r1_shown::no_failure_shows_a_value_or_what_others_keep,
                no_doubt_shows_a_value_or_what_others_keep => r1_shown::no_doubt_shows_a_value_or_what_others_keep,
                what_is_no_record_at_all_is_not_quoted => r1_shown::what_is_no_record_at_all_is_not_quoted,
                no_end_shows_a_value_or_what_others_keep => r1_shown::no_end_shows_a_value_or_what_others_keep,
                what_does_not_decode_is_not_quoted => r1_shown::what_does_not_decode_is_not_quoted,
                what_does_not_decode_is_not_quoted_by_a_watch => r1_shown::what_does_not_decode_is_not_quoted_by_a_watch,
                no_handle_shows_what_it_stands_for => r1_shown::no_handle_shows_what_it_stands_for,
                no_handle_that_is_over_shows_what_it_stood_for => r1_shown::no_handle_that_is_over_shows_what_it_stood_for,
            }
            r2 {
                a_refused_write_is_not_applied,
                a_write_whose_answer_was_lost_is_unknown_or_settled,
                a_write_that_was_lost_is_unknown_or_settled,
                a_write_that_comes_late_is_unknown_or_settled,
                not_applied_is_told_only_where_it_is_true,
                no_plain_write_is_sent_again_after_unknown,
                no_compare_and_set_is_sent_again_after_unknown,
                no_doubt_shows_as_a_conflict,
                a_doubtful_acquire_leaves_one_grant_or_none,
                a_doubtful_registration_leaves_one_entry_or_none,
                a_doubtful_id_is_held_once_or_free,
                a_write_that_was_fenced_off_never_arrives,
                a_write_in_doubt_that_comes_after_the_release_leaves_nothing,
                writes_that_met_the_fence_are_sent_again,
                a_dropped_write_is_whole_or_not_at_all,
                what_is_said_of_a_write_that_close_cuts_off_is_true => closing::by_close,
                what_is_said_of_a_write_that_a_crash_cuts_off_is_true => closing::by_a_crash,
                what_a_provider_says_of_a_write_that_close_cuts_off_is_true => closing::by_close_of_a_provider,
            }
            r3 {
                a_further_client_sees_what_the_others_see,
                a_provider_out_of_reach_keeps_trying,
                a_provider_that_hangs_at_first_keeps_trying,
            }
            r4 {
                a_bad_key_is_an_invalid_argument_before_any_io,
                a_bad_prefix_is_an_invalid_argument_before_any_io,
                a_bad_name_is_an_invalid_argument_before_any_io,
                a_bad_instance_is_an_invalid_argument_before_any_io,
                unusual_keys_are_good_keys,
                one_leading_slash_is_ignored,
                one_leading_slash_of_a_prefix_is_ignored,
                keys_are_not_normalized_or_folded,
            }
            r5 {
                two_namespaces_share_nothing,
                a_namespace_is_a_directory,
                keys_come_back_relative,
                a_prefix_is_a_directory_and_sees_no_neighbour,
                nothing_is_written_outside_a_namespace,
                a_watch_stays_in_its_namespace,
                no_key_leads_out_of_a_namespace,
            }
            r6 {
                a_value_over_1_mib_is_an_invalid_argument_before_any_io,
                a_value_of_1_mib_is_kept,
                the_empty_value_is_a_value,
                a_value_is_bytes_and_comes_back_as_it_was,
                what_is_told_and_listed_is_what_was_written,
            }
            r7 {
                a_bad_ttl_is_an_invalid_argument_before_any_io,
                fractions_of_a_second_are_rounded_up,
                the_longest_ttl_is_legal,
                every_call_has_the_ttl_that_it_asks_for,
                a_crashed_clients_things_last_their_ttl_and_no_longer,
            }
            r8 {
                closing_twice_is_ok,
                closing_at_once_is_ok,
                after_it_every_call_is_closed_without_io,
                what_was_held_is_free_when_it_returns,
                every_handle_is_told,
                every_lost_of_a_lock_fires => handle::every_lost_fires_when_it_is_closed::<Locks>,
                every_lost_of_a_registration_fires => handle::every_lost_fires_when_it_is_closed::<Registrations>,
                every_lost_of_an_id_fires => handle::every_lost_fires_when_it_is_closed::<Ids>,
                waiting_calls_end_with_closed,
                calls_that_hang_end_with_closed,
                nothing_heals_after_it,
                it_leaves_other_clients_alone,
                out_of_reach_it_is_unavailable_and_closed_all_the_same,
                it_may_be_dropped_and_finished_later,
                handles_can_be_used_and_dropped_after_it,
                a_closed_store_client_is_closed_and_revokes_nothing,
                a_stream_that_is_waited_for_ends_with_its_client => closing::waiting_streams,
                what_it_says_of_a_write_that_it_cuts_off_is_true => closing::by_close,
            }
        }
    };
}

pub(crate) const CASES: &[Case] = general_cases!([crate::list_cases]);

/// A call of a contract with a key, a prefix or a name in it.
type KeyedCall = (&'static str, for<'a> fn(&'a Arc<dyn Provider>, &'a str) -> BoxFuture<'a, Result<()>>);

/// The calls that take a key.
const WITH_KEYS: [KeyedCall; 7] = [
    ("config.get", |provider, key| Box::pin(async move { provider.config().get_raw(key).await.map(drop) })),
    ("config.set", |provider, key| {
        Box::pin(async move { provider.config().set_raw(key, Value::from("v")).await.map(drop) })
    }),
    ("config.compare_and_set", |provider, key| {
        Box::pin(async move {
            provider.config().compare_and_set_raw(key, Value::from("v"), Version::ZERO).await.map(drop)
        })
    }),
    ("config.delete", |provider, key| Box::pin(async move { provider.config().delete(key).await.map(drop) })),
    ("config.compare_and_delete", |provider, key| {
        Box::pin(async move { provider.config().compare_and_delete(key, Version::new(1)).await.map(drop) })
    }),
    ("lock.acquire", |provider, key| {
        Box::pin(async move { provider.lock().acquire_with(key, LockOptions::default()).await.map(drop) })
    }),
    ("lock.try_acquire", |provider, key| {
        Box::pin(async move {
            provider.lock().acquire_with(key, LockOptions::default().with_wait(Wait::Never)).await.map(drop)
        })
    }),
];

/// The calls that take a key or a prefix: a trailing `/`, or nothing at all, means something to
/// them.
const WITH_PREFIXES: [KeyedCall; 3] = [
    ("config.list", |provider, prefix| {
        Box::pin(async move { provider.config().list_raw(prefix).await.map(drop) })
    }),
    ("config.watch_prefix", |provider, prefix| {
        Box::pin(async move { provider.config().watch_prefix_raw(prefix, WatchStart::Now).await.map(drop) })
    }),
    ("config.watch", |provider, key| {
        Box::pin(async move { provider.config().watch_raw(key, WatchStart::Snapshot).await.map(drop) })
    }),
];

/// The calls that take a name of one segment.
const WITH_NAMES: [KeyedCall; 5] = [
    ("registry.register", |provider, name| {
        let instance = ServiceInstance::new(name, "id", "localhost", 80);
        Box::pin(async move {
            provider.registry().register_with(instance, RegisterOptions::default()).await.map(drop)
        })
    }),
    ("registry.register", |provider, id| {
        let instance = ServiceInstance::new("name", id, "localhost", 80);
        Box::pin(async move {
            provider.registry().register_with(instance, RegisterOptions::default()).await.map(drop)
        })
    }),
    ("registry.discover", |provider, name| {
        Box::pin(async move { provider.registry().discover(name).await.map(drop) })
    }),
    ("registry.watch", |provider, name| {
        Box::pin(async move { provider.registry().watch(name).await.map(drop) })
    }),
    ("allocator.acquire_id", |provider, name| {
        Box::pin(
            async move { provider.allocator().acquire_id_with(name, IdOptions::default()).await.map(drop) },
        )
    }),
];

/// Every call that a provider has, with its name.
fn all_calls() -> impl Iterator<Item = KeyedCall> {
    WITH_KEYS.into_iter().chain(WITH_PREFIXES).chain(WITH_NAMES)
}

/// Everything that is in a store.
async fn contents(store: &dyn Store) -> Vec<Entry> {
    store.range(Range::prefix("")).await.expect("a bare client of the store works").entries
}

/// One of everything that is leased, held by a provider.
struct Held {
    guard: coord_api::LockGuard,
    registration: coord_api::Registration,
    id: coord_api::InstanceId,
}

impl Held {
    async fn new(provider: &Arc<dyn Provider>, ttl: Duration) -> Self {
        let instance = ServiceInstance::new("held", "i", "localhost", 80);
        Held {
            guard: provider.lock().acquire("held", ttl).await.expect("the lock is free"),
            registration: provider
                .registry()
                .register_with(instance, RegisterOptions::default().with_ttl(ttl))
                .await
                .expect("a registration"),
            id: provider
                .allocator()
                .acquire_id_with("held", IdOptions::default().with_range(1..=1).with_ttl(ttl))
                .await
                .expect("the id is free"),
        }
    }

    fn any_held(&self) -> bool {
        self.guard.is_held() || self.registration.state().is_held() || self.id.is_held()
    }

    fn lost(&self) -> [coord_api::Lost; 3] {
        [self.guard.lost(), self.registration.lost(), self.id.lost()]
    }
}

/// Which of the things that [`Held`] stands for are held by anyone, as a stranger sees it: the
/// lock, the registration, the id.
async fn held_by_anyone(provider: &Arc<dyn Provider>, ttl: Duration) -> [bool; 3] {
    let lock = provider.lock().try_acquire("held", ttl).await;
    let found = provider.registry().discover("held").await.expect("discovery works");
    let id = provider
        .allocator()
        .acquire_id_with("held", IdOptions::default().with_range(1..=1).with_ttl(ttl))
        .await;
    let held = [lock.is_err(), !found.items.is_empty(), id.is_err()];
    if let Ok(guard) = lock {
        guard.unlock().await.expect("the lock was taken");
    }
    if let Ok(id) = id {
        id.release().await.expect("the id was taken");
    }
    held
}
