//! The kit on the store over SQLite, by the clock on the wall, as it will live.

coord_tests::conformance!(persistent, coord_tests::harness::sqlite::File::in_real_time());
