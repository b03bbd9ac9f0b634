//! Sessions and dropped handles: R9 and R9a.

use super::handle;
use crate::case::Case;
use crate::handle::{Ids, Locks, Registrations};
use crate::histories::{Workload, uphold};

mod r9;
mod r9a;

/// The list of these cases, for a macro that makes something of it.
#[doc(hidden)]
#[macro_export]
macro_rules! session_cases {
    ([$($callback:tt)*] $($arguments:tt)*) => {
        $($callback)*! {
            $($arguments)*
            r9 {
                a_dropped_guard_frees_the_lock => handle::is_free_once_dropped::<Locks>,
                a_dropped_registration_is_gone => handle::is_free_once_dropped::<Registrations>,
                a_dropped_id_is_free => handle::is_free_once_dropped::<Ids>,
                a_guard_may_be_dropped_outside_a_runtime => handle::may_be_dropped_outside_a_runtime::<Locks>,
                a_registration_may_be_dropped_outside_a_runtime => handle::may_be_dropped_outside_a_runtime::<Registrations>,
                an_id_may_be_dropped_outside_a_runtime => handle::may_be_dropped_outside_a_runtime::<Ids>,
                a_provider_may_be_dropped_outside_a_runtime,
                a_provider_may_be_dropped_before_its_guards => handle::may_be_dropped_after_its_provider::<Locks>,
                a_provider_may_be_dropped_before_its_registrations => handle::may_be_dropped_after_its_provider::<Registrations>,
                a_provider_may_be_dropped_before_its_ids => handle::may_be_dropped_after_its_provider::<Ids>,
                a_drop_of_a_guard_never_blocks_on_a_store_that_hangs => handle::a_drop_never_blocks_on_a_store_that_hangs::<Locks>,
                a_drop_of_a_registration_never_blocks_on_a_store_that_hangs => handle::a_drop_never_blocks_on_a_store_that_hangs::<Registrations>,
                a_drop_of_an_id_never_blocks_on_a_store_that_hangs => handle::a_drop_never_blocks_on_a_store_that_hangs::<Ids>,
                a_release_of_a_guard_that_failed_is_repeated => handle::a_release_that_failed_is_repeated_once_dropped::<Locks>,
                a_release_of_a_registration_that_failed_is_repeated => handle::a_release_that_failed_is_repeated_once_dropped::<Registrations>,
                a_release_of_an_id_that_failed_is_repeated => handle::a_release_that_failed_is_repeated_once_dropped::<Ids>,
                many_releases_that_failed_are_repeated,
                a_pending_release_harms_no_successor,
                a_pending_release_is_not_done_by_an_earlier_one_of_the_same_key,
                a_late_release_does_not_do_that_of_a_later_handle,
                no_dropped_guard_is_held_for_ever => handle::nothing_dropped_is_held_for_ever::<Locks>,
                no_dropped_registration_is_held_for_ever => handle::nothing_dropped_is_held_for_ever::<Registrations>,
                after_random_histories_nothing_dropped_is_held => |cx| uphold(cx, Workload::Mixed),
                no_dropped_id_is_held_for_ever => handle::nothing_dropped_is_held_for_ever::<Ids>,
            }
            r9a {
                everything_of_one_ttl_shares_one_lease,
                n_registrations_of_one_ttl_share_one_lease,
                ttls_that_round_up_to_the_same_share_one_lease,
                every_ttl_has_a_lease_of_its_own,
                a_session_has_a_key_of_its_own,
                first_acquires_at_once_share_one_grant,
                after_the_first_of_its_ttl_an_acquire_is_one_request,
                after_the_first_of_its_ttl_a_try_is_one_request,
                an_unlock_is_one_request,
                the_cost_does_not_grow_with_what_is_held,
                a_lease_that_carried_nothing_for_one_ttl_is_revoked,
                a_lease_whose_registrations_and_ids_are_gone_is_revoked,
                a_handle_that_is_over_keeps_no_lease,
                a_lease_that_is_used_again_in_time_lives_on,
                releasing_one_handle_never_revokes_the_lease,
                losing_the_lease_loses_every_handle_on_it,
                a_lost_lease_is_replaced,
                close_revokes_every_lease,
                after_its_deadline_a_lease_is_revoked_and_never_renewed,
                after_a_hang_a_lease_is_revoked_and_never_renewed,
                after_random_histories_no_idle_lease_is_renewed => |cx| uphold(cx, Workload::Mixed),
            }
        }
    };
}

pub(crate) const CASES: &[Case] = session_cases!([crate::list_cases]);
