//! Handles that are a [`LeasedEntry`](coord_core::session::LeasedEntry) and something around it.

/// Makes a [`Leased`](coord_api::handle::Leased) of a type that has its entry in the field `entry`.
macro_rules! leased_by_entry {
    ($handle:ty) => {
        $crate::handle::leased_by_entry!($handle, fence);
    };
    // With the method of the entry that gives its fence.
    ($handle:ty, $fence:ident) => {
        #[async_trait::async_trait]
        impl coord_api::handle::Leased for $handle {
            fn fencing_token(&self) -> coord_api::FencingToken {
                self.entry.fencing_token()
            }

            fn fence(&self) -> coord_api::Fence {
                self.entry.$fence()
            }

            fn state(&self) -> coord_api::HandleState {
                self.entry.state()
            }

            fn ttl(&self) -> std::time::Duration {
                self.entry.ttl()
            }

            fn lost(&self) -> coord_api::Lost {
                self.entry.lost()
            }

            async fn release(&self) -> coord_api::Result<()> {
                self.entry.release().await
            }
        }
    };
}

pub(crate) use leased_by_entry;
