#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod certificates;
mod choice;
mod cluster;
mod connection;
mod credentials;
mod dial;
mod error;
mod flight;
mod identity;
mod kv;
mod lease;
mod members;
mod options;
mod probe;
mod provider;
mod recorder;
mod report;
mod resolver;
mod status;
mod store;
mod survey;
mod target;
mod tls;
mod watch;
mod wire;

pub use certificates::{Certificate, CertificateReport, ServerCertificates};
pub use coord_recipes::Home;
pub use credentials::Credentials;
pub use options::{Discovery, EtcdOptions};
pub use provider::EtcdProvider;
pub use report::{Alarm, AlarmKind, ClusterReport, MemberReport, MemberState};
pub use resolver::EtcdResolver;
pub use store::EtcdStore;
pub use tls::EtcdTls;
