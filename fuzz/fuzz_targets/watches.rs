//! What a store's watch may answer. See `coord_fuzz::watches`.
#![cfg_attr(fuzzing, no_main)]

coord_fuzz::target!(coord_fuzz::watches::check);
