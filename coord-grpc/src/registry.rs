//! Channels to the services of a registry (R40).

use std::sync::Arc;

use coord_api::{Result, ServiceRegistry, key};

use crate::channel::Channel;
use crate::discovery::{OPERATION, RegistryDiscovery};
use crate::options::ChannelOptions;

/// Channels from any registry.
pub trait RegistryChannelExt {
    /// A channel to the instances of a service, with the default [`ChannelOptions`].
    ///
    /// # Errors
    ///
    /// Those of [`channel_with`](Self::channel_with).
    fn channel(&self, service: &str) -> Result<Channel> {
        self.channel_with(service, ChannelOptions::default())
    }

    /// A channel to the instances of a service, which follows the registry (R40):
    ///
    /// - A change among the instances reaches the channel within a second; endpoints that stay keep
    ///   their connections.
    /// - Only a set that the registry says is empty empties the channel. While the registry is out
    ///   of reach the last set stays in use, and [`ChannelState::age`](crate::ChannelState::age)
    ///   says how old it is; it stays in use also after the provider is closed.
    /// - A first read that fails is tried again, for as long as it takes.
    /// - Without an endpoint calls fail at once with `Unavailable`, or wait until their deadline if
    ///   asked to ([`Readiness`](crate::Readiness)).
    /// - An instance whose address is none, or is another's, is skipped;
    ///   [`ChannelState::skipped`](crate::ChannelState::skipped) says why.
    ///
    /// The call itself does no I/O. The channel keeps the registry alive, and owns the task that
    /// follows it.
    ///
    /// # Errors
    ///
    /// `InvalidArgument` for a bad name of a service (R4); and those of [`Channel::fixed`].
    fn channel_with(&self, service: &str, options: ChannelOptions) -> Result<Channel>;
}

impl<R: ServiceRegistry + ?Sized> RegistryChannelExt for Arc<R> {
    fn channel_with(&self, service: &str, options: ChannelOptions) -> Result<Channel> {
        key::check_segment(OPERATION, service)?;
        let mut options = options;
        options.name.get_or_insert_with(|| service.to_owned());
        Channel::with(options, |pool| RegistryDiscovery::start(Arc::clone(self), service, pool).map(Some))
    }
}
