//! What operators ask.

use futures_util::stream::Empty;
use tonic::{Request, Response, Status};

use super::{Services, VERSION, not_here};
use crate::proto::etcdserverpb::alarm_request::AlarmAction;
use crate::proto::etcdserverpb::maintenance_server::Maintenance;
use crate::proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmResponse, AlarmType, DefragmentRequest, DefragmentResponse,
    DowngradeRequest, DowngradeResponse, HashKvRequest, HashKvResponse, HashRequest, HashResponse,
    MoveLeaderRequest, MoveLeaderResponse, SnapshotRequest, SnapshotResponse, StatusRequest, StatusResponse,
};

impl Services {
    fn no_space(&self) -> AlarmMember {
        AlarmMember { member_id: self.0.member_id, alarm: AlarmType::Nospace.into() }
    }
}

#[tonic::async_trait]
impl Maintenance for Services {
    async fn alarm(&self, request: Request<AlarmRequest>) -> Result<Response<AlarmResponse>, Status> {
        let request = self.take(request)?;
        let (shared, asked) = (&self.0, request.alarm());
        let about_space = asked == AlarmType::Nospace;
        let listed = match request.action() {
            AlarmAction::Get => shared.has_no_space() && (about_space || asked == AlarmType::None),
            AlarmAction::Activate if about_space => {
                shared.set_no_space(true);
                true
            }
            AlarmAction::Deactivate if about_space => {
                let stood = shared.has_no_space();
                shared.set_no_space(false);
                stood
            }
            AlarmAction::Activate if asked == AlarmType::Corrupt => return Err(not_here("corruption")),
            AlarmAction::Activate | AlarmAction::Deactivate => false,
        };
        let alarms = if listed { vec![self.no_space()] } else { Vec::new() };
        Ok(Response::new(AlarmResponse { header: shared.header(None), alarms }))
    }

    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        self.take(request)?;
        let size = i64::try_from(self.0.with(|engine, _| engine.size())).unwrap_or(i64::MAX);
        let mut errors = Vec::new();
        if self.0.has_no_space() {
            errors.push(format!("memberID:{} alarm:NOSPACE ", self.0.member_id));
        }
        Ok(Response::new(StatusResponse {
            header: self.0.header(None),
            version: VERSION.to_owned(),
            db_size: size,
            leader: self.0.member_id,
            raft_index: self.0.raft_index(),
            raft_term: self.0.raft_term(),
            raft_applied_index: self.0.raft_index(),
            errors,
            db_size_in_use: size,
            is_learner: false,
        }))
    }

    // There are no gaps to close.
    async fn defragment(
        &self,
        request: Request<DefragmentRequest>,
    ) -> Result<Response<DefragmentResponse>, Status> {
        self.take(request)?;
        Ok(Response::new(DefragmentResponse::default()))
    }

    async fn hash(&self, _: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        Err(not_here("hash of its data"))
    }

    async fn hash_kv(&self, _: Request<HashKvRequest>) -> Result<Response<HashKvResponse>, Status> {
        Err(not_here("hash of its data"))
    }

    type SnapshotStream = Empty<Result<SnapshotResponse, Status>>;

    async fn snapshot(&self, _: Request<SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        Err(not_here("snapshots"))
    }

    async fn move_leader(
        &self,
        _: Request<MoveLeaderRequest>,
    ) -> Result<Response<MoveLeaderResponse>, Status> {
        Err(not_here("other member that could lead"))
    }

    async fn downgrade(&self, _: Request<DowngradeRequest>) -> Result<Response<DowngradeResponse>, Status> {
        Err(not_here("other version"))
    }
}
