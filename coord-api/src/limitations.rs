#![doc = include_str!("../LIMITATIONS.md")]
