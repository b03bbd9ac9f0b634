//! What is lent to the body of a call, and comes back however the body ends.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use parking_lot::Mutex;

/// A connection, or a transaction, for the time of one call of [`Db`](crate::Db): the connection of
/// sqlx is reached as `&mut *lent`.
///
/// It goes back when it is dropped, so let it go with the future that it was given to.
pub struct Lent<T> {
    /// Taken when it goes back.
    inner: Option<T>,
    back: Back<T>,
}

/// Where what was lent comes back to.
pub(crate) struct Back<T>(Arc<Mutex<Option<T>>>);

impl<T> Clone for Back<T> {
    fn clone(&self) -> Self {
        Back(Arc::clone(&self.0))
    }
}

impl<T> Back<T> {
    /// What has come back.
    pub(crate) fn take(&self) -> Option<T> {
        self.0.lock().take()
    }
}

/// Lends something.
pub(crate) fn lend<T>(inner: T) -> (Lent<T>, Back<T>) {
    let back = Back(Arc::new(Mutex::new(None)));
    (Lent { inner: Some(inner), back: back.clone() }, back)
}

impl<T> Drop for Lent<T> {
    fn drop(&mut self) {
        *self.back.0.lock() = self.inner.take();
    }
}

impl<T: Deref> Deref for Lent<T> {
    type Target = T::Target;

    #[expect(clippy::expect_used, reason = "it is taken by `drop` alone")]
    fn deref(&self) -> &T::Target {
        self.inner.as_ref().expect("it is here until it is dropped")
    }
}

impl<T: DerefMut> DerefMut for Lent<T> {
    #[expect(clippy::expect_used, reason = "it is taken by `drop` alone")]
    fn deref_mut(&mut self) -> &mut T::Target {
        self.inner.as_mut().expect("it is here until it is dropped")
    }
}

impl<T: fmt::Debug> fmt::Debug for Lent<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_back_when_it_is_dropped_be_it_by_a_panic() {
        let (lent, back) = lend(Box::new(7));
        assert_eq!((*lent, back.take()), (7, None));
        drop(lent);
        assert_eq!(back.take(), Some(Box::new(7)));
        let (lent, back) = lend(Box::new(7));
        let panicked = std::thread::spawn(move || {
            let _lent = lent;
            std::panic::resume_unwind(Box::new(()));
        });
        assert!(panicked.join().is_err());
        assert_eq!(back.take(), Some(Box::new(7)));
    }
}
