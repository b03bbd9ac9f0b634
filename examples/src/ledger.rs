//! What a lock guards, doing its own part: it refuses a fencing token older than one that it has
//! seen (R25).

use coord::FencingToken;

/// A list of pages that only the present holder of a lock may add to.
#[derive(Debug, Default)]
pub struct Ledger {
    newest: Option<FencingToken>,
    pages: Vec<String>,
}

/// A write came with an old token: its sender has lost the lock, whether it knows that or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("token {given} is older than {newest}")]
pub struct StaleToken {
    /// The token of the write.
    pub given: FencingToken,
    /// The newest one that was seen.
    pub newest: FencingToken,
}

impl Ledger {
    /// Adds a page.
    ///
    /// # Errors
    ///
    /// [`StaleToken`] when a newer holder has written before.
    pub fn write(&mut self, token: FencingToken, page: &str) -> Result<(), StaleToken> {
        match self.newest {
            Some(newest) if token < newest => Err(StaleToken { given: token, newest }),
            _ => {
                self.newest = Some(token);
                self.pages.push(page.to_owned());
                Ok(())
            }
        }
    }

    /// The pages.
    pub fn pages(&self) -> &[String] {
        &self.pages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_token_is_refused_and_an_equal_one_is_not() {
        let mut ledger = Ledger::default();
        let (old, new) = (FencingToken::new(1), FencingToken::new(2));
        ledger.write(old, "a").unwrap();
        ledger.write(old, "b").unwrap();
        ledger.write(new, "c").unwrap();
        assert_eq!(ledger.write(old, "d"), Err(StaleToken { given: old, newest: new }));
        assert_eq!(ledger.pages(), ["a", "b", "c"]);
    }
}
