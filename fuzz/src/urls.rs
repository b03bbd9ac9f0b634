//! The URL of a store.

use coord::{ErrorKind, Source};
use futures_executor::block_on;

/// What stands where somebody may have put a password.
const SECRET: &str = "hunter2";

/// A URL is taken or `InvalidArgument`. What is taken is displayed as a URL that is taken for the
/// same; what is refused is not repeated.
///
/// Nothing is opened but stores in memory: a cluster is connected to by a client, of which there is
/// none here, and what names a directory or a file is left out.
///
/// # Panics
///
/// Where that does not hold.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let names_a_file = ["_file", "ca=", "cert=", "key="].iter().any(|name| text.contains(name));
    let names_a_directory = text.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("sled:"));
    if names_a_file || names_a_directory {
        return;
    }
    match block_on(Source::open(text)) {
        Ok(source) => {
            let shown = source.to_string();
            let again = block_on(Source::open(&shown)).unwrap_or_else(|error| {
                panic!("{text:?} is taken and shown as {shown:?}, which is not: {error}")
            });
            assert_eq!(again.to_string(), shown, "from {text:?}");
            assert!(text.is_ascii() && shown.is_ascii(), "{text:?}");
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{text:?}: {error}");
            assert!(!format!("{error} {error:?}").contains(SECRET), "{text:?} is repeated: {error:?}");
        }
    }
}
