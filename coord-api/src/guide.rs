#![doc = include_str!("../GUIDE.md")]

/// The text of this page, for the test that compares its examples with code that runs.
pub const TEXT: &str = include_str!("../GUIDE.md");
