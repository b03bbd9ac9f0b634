//! What a failure of Redis means to us.

use coord::{Error, ErrorKind, Outcome};
use redis::RedisError;

/// Our error for what the client said.
///
/// A server's text may quote what it was sent, so only its code is taken over.
pub(super) fn failed(operation: &'static str, error: &RedisError) -> Error {
    use redis::ErrorKind as Theirs;
    match error.kind() {
        Theirs::Io if error.is_timeout() => {
            Error::new(ErrorKind::Timeout, operation, "Redis did not answer in time")
        }
        Theirs::Io => lost(operation).with_source(Reason(error.to_string())),
        // What came was no answer of Redis; the client gives the connection up.
        Theirs::Parse => lost(operation),
        Theirs::AuthenticationFailed => Error::new(ErrorKind::Unauthenticated, operation, REFUSED),
        Theirs::Server(_) | Theirs::Extension => answered(operation, error.code().unwrap_or("ERR")),
        Theirs::UnexpectedReturnType => {
            Error::new(ErrorKind::Codec, operation, "Redis answered with another type")
        }
        Theirs::InvalidClientConfig => {
            Error::new(ErrorKind::InvalidArgument, operation, "the client cannot be configured so")
        }
        _ => Error::new(ErrorKind::Internal, operation, "the client of Redis failed"),
    }
}

const REFUSED: &str = "Redis refuses the user or the password; set redis.username and redis.password";

fn lost(operation: &'static str) -> Error {
    Error::new(ErrorKind::Unavailable, operation, "the connection to Redis failed")
}

/// What an answer of this code means.
fn answered(operation: &'static str, code: &str) -> Error {
    let (kind, message) = match code {
        "NOAUTH" | "WRONGPASS" => (ErrorKind::Unauthenticated, REFUSED),
        "NOPERM" => (ErrorKind::PermissionDenied, "Redis does not allow this user to do that"),
        "OOM" => (ErrorKind::Exhausted, "Redis is out of memory; raise maxmemory, or let it evict"),
        "WRONGTYPE" => (ErrorKind::Codec, "what Redis has there is no string"),
        "LOADING" | "BUSY" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "READONLY" | "MISCONF" => {
            (ErrorKind::Unavailable, "Redis cannot do that now")
        }
        "MOVED" | "ASK" | "CROSSSLOT" => {
            (ErrorKind::Unavailable, "this Redis is a cluster, which is not supported")
        }
        _ => (ErrorKind::Internal, "Redis refused the command"),
    };
    Error::new(kind, operation, format!("{message} ({})", known(code)))
}

/// A code as it may be shown. One that is no word of capitals is not one.
fn known(code: &str) -> &str {
    if !code.is_empty() && code.len() <= 16 && code.bytes().all(|byte| byte.is_ascii_uppercase()) {
        code
    } else {
        "ERR"
    }
}

/// What a write has done that failed so: a server that answered has not done it.
pub(super) fn outcome(error: &RedisError) -> Outcome {
    match error.kind() {
        redis::ErrorKind::Server(_) | redis::ErrorKind::Extension => Outcome::NotApplied,
        _ => Outcome::Unknown,
    }
}

/// Why a connection failed, in the words of the system.
#[derive(Debug)]
struct Reason(String);

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Reason {}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(answer: &str) -> Error {
        let value = redis::parse_redis_value(format!("-{answer}\r\n").as_bytes()).unwrap();
        failed("t", &value.extract_error().unwrap_err())
    }

    #[test]
    fn an_answer_says_what_to_do_and_quotes_nothing() {
        for (answer, kind) in [
            ("WRONGPASS invalid hunter2", ErrorKind::Unauthenticated),
            ("NOAUTH hunter2", ErrorKind::Unauthenticated),
            ("NOPERM hunter2", ErrorKind::PermissionDenied),
            ("OOM hunter2", ErrorKind::Exhausted),
            ("WRONGTYPE hunter2", ErrorKind::Codec),
            ("LOADING hunter2", ErrorKind::Unavailable),
            ("READONLY hunter2", ErrorKind::Unavailable),
            ("MOVED 1 hunter2", ErrorKind::Unavailable),
            ("ERR unknown command `hunter2`", ErrorKind::Internal),
            ("hunter2 hunter2", ErrorKind::Internal),
        ] {
            let error = server(answer);
            assert_eq!(error.kind(), kind, "{answer}");
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        }
        assert!(server("OOM x").to_string().ends_with("(OOM)"), "{}", server("OOM x"));
    }

    #[test]
    fn what_the_system_says_is_told() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let error = failed("t", &RedisError::from(refused));
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(std::error::Error::source(&error).unwrap().to_string().contains("refused"));
        let late = std::io::Error::from(std::io::ErrorKind::TimedOut);
        assert_eq!(failed("t", &RedisError::from(late)).kind(), ErrorKind::Timeout);
    }
}
