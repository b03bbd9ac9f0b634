#![doc = include_str!("../WHEN-LOST.md")]
