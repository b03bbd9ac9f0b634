//! Leases.

use std::pin::Pin;

use futures_core::Stream;
use futures_util::StreamExt;
use tonic::{Request, Response, Status, Streaming};

use super::{Services, Shared};
use crate::proto::etcdserverpb::lease_server::Lease;
use crate::proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest,
    LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseStatus, LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse, ResponseHeader,
};
use crate::refusal::Refusal;

#[tonic::async_trait]
impl Lease for Services {
    async fn lease_grant(
        &self,
        request: Request<LeaseGrantRequest>,
    ) -> Result<Response<LeaseGrantResponse>, Status> {
        let request = self.take(request)?;
        self.0.check_space(&request)?;
        let response = self.0.propose(|engine, now| {
            if request.id != 0 {
                return engine.grant(now, request.id, request.ttl);
            }
            loop {
                let granted = engine.grant(now, fastrand::i64(1..), request.ttl);
                if granted != Err(Refusal::LeaseExists) {
                    return granted;
                }
            }
        })?;
        Ok(Response::new(LeaseGrantResponse { header: self.0.header(response.header), ..response }))
    }

    async fn lease_revoke(
        &self,
        request: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        let request = self.take(request)?;
        let revision = self.0.propose(|engine, _| {
            engine.revoke(request.id)?;
            Ok::<_, Refusal>(engine.revision())
        })?;
        let header = Some(ResponseHeader { revision, ..ResponseHeader::default() });
        Ok(Response::new(LeaseRevokeResponse { header: self.0.header(header) }))
    }

    type LeaseKeepAliveStream = Pin<Box<dyn Stream<Item = Result<LeaseKeepAliveResponse, Status>> + Send>>;

    async fn lease_keep_alive(
        &self,
        requests: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        self.0.failures.check()?;
        let services = self.clone();
        let answers = requests.into_inner().map(move |request| Ok(keep_alive(&services.0, request?.id)));
        Ok(Response::new(answers.boxed()))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        let request = self.take(request)?;
        let response = self.0.with(|engine, now| engine.time_to_live(now, request.id, request.keys));
        Ok(Response::new(LeaseTimeToLiveResponse { header: self.0.header(response.header), ..response }))
    }

    async fn lease_leases(
        &self,
        request: Request<LeaseLeasesRequest>,
    ) -> Result<Response<LeaseLeasesResponse>, Status> {
        self.take(request)?;
        let leases = self.0.with(|engine, _| engine.leases());
        let leases = leases.into_iter().map(|id| LeaseStatus { id }).collect();
        Ok(Response::new(LeaseLeasesResponse { header: self.0.header(None), leases }))
    }
}

/// Starts a lease's TTL anew. One that is gone has none.
fn keep_alive(shared: &Shared, id: i64) -> LeaseKeepAliveResponse {
    let (revision, ttl) = shared.with(|engine, now| (engine.revision(), engine.renew(now, id)));
    let header = Some(ResponseHeader { revision, ..ResponseHeader::default() });
    LeaseKeepAliveResponse { header: shared.header(header), id, ttl: ttl.unwrap_or_default() }
}
