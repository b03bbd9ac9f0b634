//! What others left in the store. See `coord_fuzz::records`.
#![cfg_attr(fuzzing, no_main)]

coord_fuzz::target!(coord_fuzz::records::check);
