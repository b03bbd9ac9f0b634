//! An error with all that caused it, in one line.

use std::error::Error;
use std::fmt;

/// Displays an error and its sources, one after the other.
pub(crate) struct Causes<'a>(pub(crate) &'a (dyn Error + 'static));

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use coord::{Error, ErrorKind};

    use super::*;

    #[test]
    fn each_cause_is_told() {
        let cause = Error::new(ErrorKind::Timeout, "probe", "silent");
        let error = Error::new(ErrorKind::Unavailable, "build", "no pool").with_source(cause.clone());
        assert_eq!(Causes(&error).to_string(), format!("{error}: {cause}"));
    }
}
