//! How the engine follows its configuration (K1).

use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use coord::{Coord, Result};
use coord_service::live::{Change, Reload};
use tokio::sync::watch;

use crate::config::{EngineKind, MqConfig};
use crate::embedded::Embedded;
use crate::engine::Engine;

/// The configuration in use, for those who look at it at each call.
#[derive(Clone, Debug)]
pub(crate) struct InUse {
    pub(crate) config: Arc<ArcSwap<MqConfig>>,
    /// Kept apart, so that those who wait are told.
    pub(crate) concurrency: watch::Sender<usize>,
}

impl InUse {
    pub(crate) fn new() -> Self {
        let config = MqConfig::default();
        InUse {
            concurrency: watch::Sender::new(config.concurrency),
            config: Arc::new(ArcSwap::from_pointee(config)),
        }
    }

    fn set(&self, config: &MqConfig) {
        self.config.store(Arc::new(config.clone()));
        self.concurrency.send_if_modified(|concurrency| {
            let changed = *concurrency != config.concurrency;
            *concurrency = config.concurrency;
            changed
        });
    }
}

/// Makes the engine that the configuration names.
pub(crate) struct Engines {
    pub(crate) coord: Coord,
    pub(crate) in_use: InUse,
}

/// Whether a configuration can be used at all. No I/O.
///
/// # Errors
///
/// The text names the field and what it may be, without secrets.
pub(crate) fn check(config: &MqConfig) -> Result<(), String> {
    config.check()?;
    #[cfg(feature = "kafka")]
    if config.engine == EngineKind::Kafka {
        crate::kafka::check(config)?;
    }
    Ok(())
}

#[async_trait]
impl Reload for Engines {
    type Config = MqConfig;
    type Client = Box<dyn Engine>;

    fn plan(&self, old: &MqConfig, new: &MqConfig) -> Change {
        match () {
            () if old.engine != new.engine => Change::Restart("engine"),
            () if old.space != new.space => Change::Restart("space"),
            () if !old.has_client_of(new) => Change::Rebuild,
            () => Change::InPlace,
        }
    }

    async fn build(&self, config: &MqConfig) -> Result<Box<dyn Engine>> {
        let engine: Box<dyn Engine> = match config.engine {
            EngineKind::Embedded => {
                Box::new(Embedded::new(&self.coord, config, Arc::clone(&self.in_use.config)))
            }
            #[cfg(feature = "nats")]
            EngineKind::Nats => {
                Box::new(crate::nats::NatsEngine::connect(config, Arc::clone(&self.in_use.config)).await?)
            }
            #[cfg(feature = "kafka")]
            EngineKind::Kafka => Box::new(crate::kafka::KafkaEngine::new(
                &self.coord,
                config,
                Arc::clone(&self.in_use.config),
            )?),
            #[cfg(not(all(feature = "nats", feature = "kafka")))]
            _ => {
                return Err(coord::Error::invalid_argument(
                    "mq.build",
                    "this program was built without the feature of that engine",
                ));
            }
        };
        self.in_use.set(config);
        Ok(engine)
    }

    async fn probe(&self, engine: &Box<dyn Engine>) -> Result<()> {
        engine.probe().await
    }

    fn apply(&self, _: &Box<dyn Engine>, config: &MqConfig) -> Result<()> {
        self.in_use.set(config);
        Ok(())
    }

    async fn retire(&self, engine: &Box<dyn Engine>) {
        engine.close().await;
    }
}
