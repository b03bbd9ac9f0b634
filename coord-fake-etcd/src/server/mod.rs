//! etcd's services over the engine.

mod auth;
mod cluster;
mod kv;
mod lease;
mod maintenance;
mod shared;
mod watch;

use std::io;
use std::sync::Arc;

use futures_core::Stream;
use tonic::transport::Server;
use tonic::{Request, Status};

use crate::link::Link;
use crate::proto::etcdserverpb::auth_server::AuthServer;
use crate::proto::etcdserverpb::cluster_server::ClusterServer;
use crate::proto::etcdserverpb::kv_server::KvServer;
use crate::proto::etcdserverpb::lease_server::LeaseServer;
use crate::proto::etcdserverpb::maintenance_server::MaintenanceServer;
use crate::proto::etcdserverpb::watch_server::WatchServer;
use shared::MAX_MESSAGE;
pub(crate) use shared::Shared;

/// The version of etcd that it behaves like, and says that it is.
pub(crate) const VERSION: &str = "3.5.30";

/// How many requests a client may give up before they were looked at. Clients that are in a hurry
/// do, and no test is to fail for that.
const MAX_ABANDONED: usize = 100_000;

/// One server, as each of its services sees it.
#[derive(Clone, Debug)]
struct Services(Arc<Shared>);

impl Services {
    /// Takes a request, unless it is too large or to fail.
    fn take<T: prost::Message>(&self, request: Request<T>) -> Result<T, Status> {
        let request = request.into_inner();
        self.0.check_message(&request)?;
        self.0.failures.check()?;
        Ok(request)
    }
}

/// Serves on these connections until it is dropped.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    links: impl Stream<Item = io::Result<Link>>,
) -> Result<(), tonic::transport::Error> {
    let services = Services(shared);
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_service_status("", tonic_health::ServingStatus::Serving).await;
    Server::builder()
        .http2_max_pending_accept_reset_streams(Some(MAX_ABANDONED))
        .add_service(KvServer::new(services.clone()).max_decoding_message_size(MAX_MESSAGE))
        .add_service(WatchServer::new(services.clone()))
        .add_service(LeaseServer::new(services.clone()))
        .add_service(ClusterServer::new(services.clone()))
        .add_service(MaintenanceServer::new(services.clone()))
        .add_service(AuthServer::new(services))
        .add_service(health_service)
        .serve_with_incoming(links)
        .await
}

/// What the fake has nothing of.
fn not_here(what: &str) -> Status {
    Status::unimplemented(format!("the fake etcd has no {what}; test this with a real one"))
}
