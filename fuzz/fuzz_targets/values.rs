//! Typed values as JSON. See `coord_fuzz::values`.
#![cfg_attr(fuzzing, no_main)]

coord_fuzz::target!(coord_fuzz::values::check);
