//! How managed configuration is counted.

use coord_home::meter;

const UPDATES: &str = "coord_config_updates_total";

/// A managed configuration was updated, or was not, and at which stage that was decided.
pub(super) fn updated(result: &'static str, stage: &'static str) {
    meter::count(UPDATES, &[("result", result), ("stage", stage)], 1);
}

/// Says what there is to measure of a config manager.
pub(super) fn describe() {
    metrics::describe_counter!(
        UPDATES,
        "Updates of managed configuration, by result and by the stage that decided it"
    );
    meter::count(UPDATES, &[("result", "applied"), ("stage", "all")], 0);
    for stage in ["decode", "validate", "callback"] {
        meter::count(UPDATES, &[("result", "refused"), ("stage", stage)], 0);
    }
}
