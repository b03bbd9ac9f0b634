//! Members: one, for ever.

use tonic::{Request, Response, Status};

use super::{Services, not_here};
use crate::proto::etcdserverpb::cluster_server::Cluster;
use crate::proto::etcdserverpb::{
    Member, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse, MemberPromoteRequest,
    MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse, MemberUpdateRequest,
    MemberUpdateResponse, ResponseHeader,
};

const MEMBERS: &str = "members beside itself";

#[tonic::async_trait]
impl Cluster for Services {
    async fn member_list(
        &self,
        request: Request<MemberListRequest>,
    ) -> Result<Response<MemberListResponse>, Status> {
        self.take(request)?;
        let member = Member {
            id: self.0.member_id,
            name: self.0.options.name.clone(),
            // It has no peers; clients expect that there is one.
            peer_ur_ls: vec![self.0.url.clone()],
            client_ur_ls: vec![self.0.url.clone()],
            is_learner: false,
        };
        // Of members etcd says no revision.
        let header = self.0.header(Some(ResponseHeader::default()));
        Ok(Response::new(MemberListResponse { header, members: vec![member] }))
    }

    async fn member_add(&self, _: Request<MemberAddRequest>) -> Result<Response<MemberAddResponse>, Status> {
        Err(not_here(MEMBERS))
    }

    async fn member_remove(
        &self,
        _: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        Err(not_here(MEMBERS))
    }

    async fn member_update(
        &self,
        _: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        Err(not_here(MEMBERS))
    }

    async fn member_promote(
        &self,
        _: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        Err(not_here(MEMBERS))
    }
}
