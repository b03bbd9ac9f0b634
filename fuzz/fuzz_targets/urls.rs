//! The URL of a store. See `coord_fuzz::urls`.
#![cfg_attr(fuzzing, no_main)]

coord_fuzz::target!(coord_fuzz::urls::check);
