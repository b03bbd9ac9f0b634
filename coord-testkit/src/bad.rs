//! Input that no backend may take (R4, R6, R7), and bytes that no contract wrote.

use std::time::Duration;

use coord_api::key::{MAX_KEY_BYTES, MAX_VALUE_BYTES};

/// Keys that break R4: empty, over-long, with an empty segment, with `.` or `..`, with control
/// characters.
pub fn keys() -> Vec<String> {
    let mut bad: Vec<String> = [
        "", "/", "//a", "a//b", "a/", ".", "..", "../a", "a/..", "a/../b", "a/./b", "a\nb", "a\0b",
        "a\u{7f}", "a\u{85}b",
    ]
    .map(str::to_owned)
    .into();
    bad.push("k".repeat(MAX_KEY_BYTES + 1));
    bad.push("é".repeat(MAX_KEY_BYTES / 2 + 1));
    bad
}

/// Keys that lie where those of the config centre do, and that no call of it takes: what breaks R4,
/// what would be taken for another key, and what is not UTF-8.
pub fn foreign_keys() -> Vec<Vec<u8>> {
    let mut keys: Vec<Vec<u8>> = keys().into_iter().map(String::into_bytes).collect();
    keys.extend([
        b"/a".to_vec(),
        b"d/".to_vec(),
        b"d//x".to_vec(),
        GARBAGE.to_vec(),
        [b"d/", GARBAGE].concat(),
    ]);
    keys
}

/// Prefixes that break R4. The empty one and one trailing `/` are legal.
pub fn prefixes() -> Vec<String> {
    keys().into_iter().filter(|key| !["", "/", "a/"].contains(&key.as_str())).collect()
}

/// Names that are not one good segment: service names, instance ids.
pub fn segments() -> Vec<String> {
    let mut bad = keys();
    bad.extend(["a/b", "/a"].map(str::to_owned));
    bad
}

/// Addresses under which nobody can be reached (R34): of each kind at least one.
pub const ADDRESSES: [&str; 36] = [
    "",
    " ",
    "a b",
    "a\nb",
    "a\0",
    "10.0.0.1 ",
    "0.0.0.0",
    "0.0.0.1",
    "::",
    "0:0:0:0:0:0:0:0",
    "::ffff:0.0.0.0",
    "224.0.0.1",
    "255.255.255.255",
    "ff02::1",
    "fe80::1",
    "fe80::1%eth0",
    "[::1]",
    "[::1]:80",
    "10.0.0.1:80",
    "a:80",
    "http://a",
    "me:secret@a",
    "a/b",
    "a?b",
    "256.1.1.1",
    "1.2.3",
    "1.2.3.4.5",
    "010.0.0.1",
    "2130706433",
    "0x7f000001",
    "a..b",
    "-a",
    "*.example.com",
    "ü.example.com",
    "2001:db8::g",
    "10.0.0.1,10.0.0.2",
];

/// TTLs that break R7.
pub const TTLS: [Duration; 3] = [Duration::ZERO, Duration::from_secs(9_000_000_001), Duration::MAX];

/// A value that breaks R6: one byte over 1 MiB.
pub fn value() -> Vec<u8> {
    vec![b'x'; MAX_VALUE_BYTES + 1]
}

/// Bytes that are neither UTF-8 nor JSON.
pub const GARBAGE: &[u8] = b"\xff\xfe{";
