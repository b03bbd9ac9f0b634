//! The two ids of a trace.

use std::fmt;
use std::num::{NonZeroU64, NonZeroU128};
use std::str::FromStr;

use super::error::TraceparentError;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// The id of a whole trace: 16 bytes, never all zero. Shown as 32 lowercase hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TraceId(NonZeroU128);

/// The id of one step of a trace, which W3C calls `parent-id`: 8 bytes, never all zero. Shown as
/// 16 lowercase hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpanId(NonZeroU64);

impl TraceId {
    /// A new id. It is random, and no secret: the generator is not made for keys.
    pub fn random() -> Self {
        loop {
            if let Some(id) = NonZeroU128::new(fastrand::u128(..)) {
                return TraceId(id);
            }
        }
    }

    /// The id of these bytes, or `None` where all of them are zero.
    pub fn from_bytes(bytes: [u8; 16]) -> Option<Self> {
        NonZeroU128::new(u128::from_be_bytes(bytes)).map(TraceId)
    }

    /// Its bytes.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.get().to_be_bytes()
    }

    /// Its digits.
    pub(crate) fn to_hex(self) -> [u8; 32] {
        let mut hex = [0; 32];
        write_hex(&self.to_bytes(), &mut hex);
        hex
    }
}

impl SpanId {
    /// A new id. It is random, and no secret.
    pub fn random() -> Self {
        loop {
            if let Some(id) = NonZeroU64::new(fastrand::u64(..)) {
                return SpanId(id);
            }
        }
    }

    /// The id of these bytes, or `None` where all of them are zero.
    pub fn from_bytes(bytes: [u8; 8]) -> Option<Self> {
        NonZeroU64::new(u64::from_be_bytes(bytes)).map(SpanId)
    }

    /// Its bytes.
    pub fn to_bytes(self) -> [u8; 8] {
        self.0.get().to_be_bytes()
    }

    /// Its digits.
    pub(crate) fn to_hex(self) -> [u8; 16] {
        let mut hex = [0; 16];
        write_hex(&self.to_bytes(), &mut hex);
        hex
    }
}

/// Writes two digits for each byte.
fn write_hex(bytes: &[u8], hex: &mut [u8]) {
    let digit = |nibble: u8| HEX.get(usize::from(nibble)).copied().unwrap_or(b'0');
    for (byte, digits) in bytes.iter().zip(hex.chunks_exact_mut(2)) {
        if let [high, low] = digits {
            *high = digit(byte >> 4);
            *low = digit(byte & 0x0f);
        }
    }
}

/// Whether `text` is `len` lowercase hexadecimal digits and nothing else.
pub(super) fn is_hex(text: &str, len: usize) -> bool {
    text.len() == len && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

impl FromStr for TraceId {
    type Err = TraceparentError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let id = is_hex(text, 32).then(|| u128::from_str_radix(text, 16).ok()).flatten();
        id.and_then(NonZeroU128::new).map(TraceId).ok_or(TraceparentError::TraceId)
    }
}

impl FromStr for SpanId {
    type Err = TraceparentError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let id = is_hex(text, 16).then(|| u64::from_str_radix(text, 16).ok()).flatten();
        id.and_then(NonZeroU64::new).map(SpanId).ok_or(TraceparentError::ParentId)
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TraceId({self})")
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpanId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_zeros_do_not_exist() {
        assert_eq!(TraceId::from_bytes([0; 16]), None);
        assert_eq!(SpanId::from_bytes([0; 8]), None);
        assert_eq!("0".repeat(32).parse::<TraceId>(), Err(TraceparentError::TraceId));
        assert_eq!("0".repeat(16).parse::<SpanId>(), Err(TraceparentError::ParentId));
    }

    #[test]
    fn digits_are_lowercase_and_of_full_length() {
        let trace = TraceId::from_bytes([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xAB, 1]).unwrap();
        assert_eq!(trace.to_string(), "0000000000000000000000000000ab01");
        assert_eq!(trace.to_hex(), *b"0000000000000000000000000000ab01");
        assert_eq!(trace.to_string().parse(), Ok(trace));
        let span = SpanId::from_bytes([0, 0, 0, 0, 0, 0, 0xF0, 0x0F]).unwrap();
        assert_eq!(span.to_string(), "000000000000f00f");
        assert_eq!(span.to_hex(), *b"000000000000f00f");
        for bad in ["000000000000F00F", "+00000000000f00f", "00000000000f00f", "000000000000f00g", ""] {
            assert!(bad.parse::<SpanId>().is_err(), "{bad}");
        }
    }
}
