//! What a key, a prefix, a name and an address may be. See `coord_fuzz::keys`.
#![cfg_attr(fuzzing, no_main)]

coord_fuzz::target!(coord_fuzz::keys::check);
