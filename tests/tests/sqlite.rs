//! The kit on the store over SQLite, whose clients have nothing in common but the file.

coord_tests::conformance!(persistent, coord_tests::harness::sqlite::File::start());
