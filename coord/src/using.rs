#![doc = include_str!("../USING.md")]
