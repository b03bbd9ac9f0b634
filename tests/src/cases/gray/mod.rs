//! Gray release: R73 to R75. `Gray` and `GrayConfig` are types of coord-recipes over any store,
//! nothing that a backend provides.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a case fails by panicking"
)]

use std::sync::Arc;

use coord_api::prelude::*;
use coord_api::{ConfigEvent, Provider, Result, Revision, Version, Watch, WatchStart, WriteOptions};
use coord_recipes::{Gray, GrayConfig, GrayIdentity, GrayTargets};
use coord_testkit::wait::within;
use coord_testkit::{Case, Fixture};

use super::primitives::{self, Primitives};

mod r73;
mod r74;
mod r75;

/// Hands the list of these cases to a macro, as [`coord_testkit::list_cases!`] says.
#[macro_export]
macro_rules! gray_cases {
    ([$($callback:tt)*] $($arguments:tt)*) => {
        $($callback)*! {
            $($arguments)*
            r73 {
                an_instance_is_named_by_its_id_or_by_a_label,
                others_never_see_it,
                a_percentage_is_of_those_whom_the_contract_says,
                raising_a_percentage_only_adds_instances,
                a_key_without_a_base_is_there_for_its_targets_alone,
                what_others_left_there_is_no_release,
                a_bad_release_is_an_invalid_argument_before_any_request,
                a_release_takes_the_place_of_the_expected_one,
                a_release_is_fenced_like_any_write,
                one_in_doubt_is_not_sent_again,
                names_that_nest_are_unrelated,
                it_is_there_after_reopening: persistent,
                nothing_of_it_shows_a_value,
            }
            r74 {
                a_promotion_never_flashes_the_old_base,
                a_promotion_is_read_as_one_change,
                a_promotion_is_one_transaction,
                a_promotion_leaves_a_record,
                of_many_promotions_exactly_one_wins,
                a_promotion_over_another_base_is_a_conflict,
                changes_of_the_base_are_told_as_they_are,
                a_change_under_a_release_tells_the_gray_value,
                a_write_after_a_release_is_not_told_as_the_base,
                a_directory_does_not_use_the_base_under_a_release,
                a_write_after_a_withdrawal_is_told,
                a_manager_and_a_directory_follow_it,
                ones_own_write_is_seen_after_waiting_for_it,
                a_change_costs_one_request,
                all_watchers_of_a_client_share_two_watches,
            }
            r75 {
                what_is_withdrawn_is_off_everywhere,
                a_manager_is_back_at_the_default_where_there_is_no_base,
                withdrawing_says_whether_there_was_one,
                a_withdrawal_while_cut_off_is_noticed,
                a_release_while_cut_off_is_noticed,
                who_reads_too_late_gets_what_is_there,
                a_watch_from_a_past_revision_tells_what_became_of_the_release,
                a_write_of_an_instance_is_one_of_the_base,
                a_compare_and_set_of_a_gray_value_is_a_conflict,
                a_watch_ends_with_the_provider,
            }
        }
    };
}

/// The cases of R73 to R75.
pub const CASES: &[Case] = gray_cases!([coord_testkit::list_cases]);

const KEY: &str = "app/limits";

/// A client for releases, and for instances that see them.
struct Centre {
    primitives: Primitives,
    provider: Arc<dyn Provider>,
    gray: Gray,
}

impl Centre {
    fn of(client: &coord_testkit::Client) -> Self {
        let primitives = Primitives::of(client);
        let provider = Arc::clone(&primitives.provider);
        Centre { gray: primitives.gray(), provider, primitives }
    }

    async fn new(cx: &Fixture) -> Self {
        Centre::of(&cx.client().await)
    }

    fn seen_by(&self, instance: &GrayIdentity) -> GrayConfig {
        self.primitives.gray_config(instance.clone())
    }

    /// The config centre as the instance `me` sees it.
    fn mine(&self) -> GrayConfig {
        self.seen_by(&me())
    }

    /// As somebody else sees it.
    fn others(&self) -> GrayConfig {
        self.seen_by(&GrayIdentity::new("other").with_label("zone", "south"))
    }

    async fn set(&self, value: u32) -> Version {
        self.provider.config().set(KEY, &value).await.unwrap()
    }

    /// Releases a value to the instance `me`.
    async fn release(&self, value: u32) -> Version {
        self.gray.release(KEY, &to_me(), &value, WriteOptions::default()).await.unwrap()
    }

    async fn promote(&self) -> Result<Version> {
        self.gray.promote(KEY, WriteOptions::default()).await
    }
}

fn me() -> GrayIdentity {
    GrayIdentity::new("me").with_label("zone", "north")
}

fn to_me() -> GrayTargets {
    GrayTargets::default().with_id("me")
}

async fn value(config: &GrayConfig) -> Option<u32> {
    config.get(KEY).await.unwrap()
}

/// The value of the key as the whole list has it.
async fn listed(config: &GrayConfig) -> Option<u32> {
    let found = config.list::<u32>("").await.unwrap();
    found.items.into_iter().find(|entry| entry.key == KEY).map(|entry| entry.value)
}

/// What a watcher was told of the key, in order.
struct Seen {
    watch: Watch<ConfigEvent<u32>>,
    /// The revision that it has come to.
    revision: Revision,
    /// Each value that it was told, `None` where the key was absent.
    values: Vec<Option<u32>>,
    resyncs: usize,
}

impl Seen {
    /// A watcher of a key, of a directory where it ends in `/`, or of everything.
    async fn from(config: &GrayConfig, key: &str, start: WatchStart) -> Self {
        let watch = match key {
            "" => config.watch_prefix::<u32>(key, start).await,
            key => config.watch::<u32>(key, start).await,
        };
        let watch = watch.unwrap();
        Seen { watch, revision: Revision::ZERO, values: Vec::new(), resyncs: 0 }
    }

    /// A watcher of the key that knows what is there.
    async fn of(config: &GrayConfig) -> Self {
        Seen::from(config, KEY, WatchStart::Snapshot).await
    }

    fn last(&self) -> Option<u32> {
        self.values.last().copied().flatten()
    }

    /// Takes the next event.
    async fn next(&mut self, cx: &Fixture) {
        let event = within(cx.soon() * 3, "an event is told", self.watch.next()).await;
        let (value, revision) = match event.expect("the watch goes on").expect("no error") {
            ConfigEvent::Put { entry, .. } if entry.key == KEY => (Some(Some(entry.value)), entry.version),
            ConfigEvent::Put { entry, .. } => (None, entry.version),
            ConfigEvent::Delete { key, version, .. } => ((key == KEY).then_some(None), version),
            ConfigEvent::Resync(state) => {
                self.resyncs += 1;
                let revision = state.revision;
                let entry = state.items.into_iter().find(|entry| entry.key == KEY);
                (Some(entry.map(|entry| entry.value)), revision)
            }
            other => panic!("{other:?}"),
        };
        assert!(revision >= self.revision, "back from {} to {revision}", self.revision);
        self.revision = revision;
        self.values.extend(value);
    }

    /// Takes events until everything up to a revision was told.
    async fn up_to(&mut self, cx: &Fixture, revision: Revision) {
        while self.revision < revision {
            self.next(cx).await;
        }
    }

    /// Takes events until this is the value.
    async fn until(&mut self, cx: &Fixture, value: Option<u32>) {
        while self.values.is_empty() || self.last() != value {
            self.next(cx).await;
        }
    }
}
