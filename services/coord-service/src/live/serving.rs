//! A client that serves, and the moment from which nobody uses it any more.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use arc_swap::Guard;
use tokio_util::sync::{CancellationToken, DropGuard};

/// A client in use. Whoever uses it keeps this; the worker keeps the client alone, so that the end
/// of the last use is known.
pub(super) struct Serving<C> {
    client: Arc<C>,
    _unused: DropGuard,
}

/// A client that the worker will retire.
pub(super) struct Retiring<C> {
    pub(super) client: Arc<C>,
    /// Cancelled once nobody uses the client.
    pub(super) unused: CancellationToken,
}

impl<C> Serving<C> {
    pub(super) fn new(client: C) -> (Self, Retiring<C>) {
        let (client, unused) = (Arc::new(client), CancellationToken::new());
        let serving = Serving { client: Arc::clone(&client), _unused: unused.clone().drop_guard() };
        (serving, Retiring { client, unused })
    }
}

/// The client that serves at the moment, for one use.
///
/// As long as this is kept, the client is not retired, up to the time that
/// [`LiveOptions::drain`](super::LiveOptions::drain) gives. So take it anew for each use, and keep
/// it until the use is over, an answer that is waited for included; a clone of the native client
/// that outlives it stops working when the client is retired.
pub struct Current<C>(Guard<Option<Arc<Serving<C>>>>);

impl<C> Current<C> {
    pub(super) fn new(guard: Guard<Option<Arc<Serving<C>>>>) -> Option<Self> {
        guard.is_some().then_some(Current(guard))
    }
}

impl<C> Deref for Current<C> {
    type Target = C;

    #[inline]
    #[expect(clippy::expect_used, reason = "`new` is the only way to make one, and looks")]
    fn deref(&self) -> &C {
        &self.0.as_ref().expect("there is a client").client
    }
}

impl<C: fmt::Debug> fmt::Debug for Current<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
