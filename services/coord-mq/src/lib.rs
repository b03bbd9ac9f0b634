#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod config;
mod count;
mod delivery;
mod embedded;
mod engine;
mod gate;
#[cfg(feature = "kafka")]
mod kafka;
mod lane;
mod message;
mod mq;
mod name;
#[cfg(feature = "nats")]
mod nats;
mod reload;
mod subscription;
mod work;

pub use config::{EngineKind, KafkaConfig, MqConfig, NatsConfig, SaslMechanism, SecurityProtocol};
pub use delivery::{DeadLetter, Delivery, Handler, Verdict};
#[cfg(feature = "kafka")]
#[cfg_attr(docsrs, doc(cfg(feature = "kafka")))]
pub use kafka::KafkaContext;
pub use message::{MAX_HEADER_BYTES, MAX_HEADERS, MAX_ID_BYTES, MAX_KEY_BYTES, Message};
#[cfg(feature = "kafka")]
pub use mq::Kafka;
#[cfg(feature = "nats")]
pub use mq::Nats;
pub use mq::{Mq, MqComponent, Publication};
pub use subscription::Subscription;
pub use work::SubscriptionStatus;

/// What publishing is called in errors.
const PUBLISH: &str = "mq.publish";

/// What subscribing is called in errors.
const SUBSCRIBE: &str = "mq.subscribe";
