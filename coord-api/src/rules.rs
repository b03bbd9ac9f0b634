#![doc = include_str!("../CONTRACT.md")]

/// The text of this page, for tools that read the rules: each begins a line, as in
/// `- R12 Compare-and-set. Succeeds iff …`.
pub const TEXT: &str = include_str!("../CONTRACT.md");
