//! The rest of a store around another one.

/// Writes those methods of a [`Store`](crate::store::Store) that a store around another one hands
/// on as they are.
///
/// First the word `self` and the store inside, as an expression of it; then the methods. They are
/// named one by one, so that one that is added to the trait some day is not handed on by accident:
/// whoever wraps stores decides anew, as the compiler says which one is missing. The future is that
/// of the store inside, and not another one around it.
///
/// # Examples
///
/// ```
/// use async_trait::async_trait;
/// use coord_api::store::{Range, RangeReply, Store};
/// use coord_api::{Error, Result};
///
/// /// A store that can be written and not read.
/// #[derive(Debug)]
/// struct WriteOnly<S>(S);
///
/// #[async_trait]
/// impl<S: Store> Store for WriteOnly<S> {
///     async fn range(&self, _range: Range) -> Result<RangeReply> {
///         Err(Error::invalid_argument("store.range", "this store is not read"))
///     }
///
///     coord_api::forward_store! {
///         self => self.0;
///         txn, watch, grant_lease, keep_alive, lease, revoke_lease, status, close
///     }
/// }
/// ```
#[macro_export]
macro_rules! forward_store {
    ($this:ident => $inner:expr; $($request:ident),+ $(,)?) => {
        $($crate::__forward_request! { $request $this $inner })+
    };
}

/// One method of [`forward_store`], with what `#[async_trait]` makes of an `async fn` written out.
#[doc(hidden)]
#[macro_export]
macro_rules! __forward_request {
    (range $($rest:tt)*) => {
        $crate::__forward_request! { @ range(range: $crate::store::Range) -> $crate::store::RangeReply, $($rest)* }
    };
    (txn $($rest:tt)*) => {
        $crate::__forward_request! { @ txn(txn: $crate::store::Txn) -> $crate::store::TxnReply, $($rest)* }
    };
    (watch $($rest:tt)*) => {
        $crate::__forward_request! {
            @ watch(span: $crate::store::Span, after: ::core::option::Option<$crate::Revision>)
                -> $crate::store::StoreWatch, $($rest)*
        }
    };
    (grant_lease $($rest:tt)*) => {
        $crate::__forward_request! {
            @ grant_lease(ttl: ::core::time::Duration) -> $crate::store::Lease, $($rest)*
        }
    };
    (keep_alive $($rest:tt)*) => {
        $crate::__forward_request! { @ keep_alive(id: $crate::LeaseId) -> ::core::time::Duration, $($rest)* }
    };
    (lease $($rest:tt)*) => {
        $crate::__forward_request! {
            @ lease(id: $crate::LeaseId) -> ::core::option::Option<$crate::store::LeaseInfo>, $($rest)*
        }
    };
    (revoke_lease $($rest:tt)*) => {
        $crate::__forward_request! { @ revoke_lease(id: $crate::LeaseId) -> (), $($rest)* }
    };
    (status $($rest:tt)*) => {
        $crate::__forward_request! { @ status() -> $crate::store::StoreStatus, $($rest)* }
    };
    (close $($rest:tt)*) => {
        $crate::__forward_request! { @ close() -> (), $($rest)* }
    };
    (@ $request:ident($($argument:ident: $kind:ty),*) -> $answer:ty, $this:ident $inner:expr) => {
        fn $request<'a, 'r>(
            &'a $this,
            $($argument: $kind),*
        ) -> ::core::pin::Pin<
            ::std::boxed::Box<dyn ::core::future::Future<Output = $crate::Result<$answer>> + Send + 'r>,
        >
        where
            'a: 'r,
            Self: 'r,
        {
            $crate::store::Store::$request(&$inner, $($argument),*)
        }
    };
}
