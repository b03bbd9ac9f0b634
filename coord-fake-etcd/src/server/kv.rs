//! Keys and values.

use tonic::{Request, Response, Status};

use super::Services;
use crate::engine::check::{check_key, check_put, check_txn, is_read_only, puts};
use crate::proto::etcdserverpb::kv_server::Kv;
use crate::proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse,
    RangeRequest, RangeResponse, TxnRequest, TxnResponse,
};

#[tonic::async_trait]
impl Kv for Services {
    async fn range(&self, request: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        let request = self.take(request)?;
        check_key(&request.key)?;
        let response = self.0.with(|engine, _| engine.range(&request))?;
        Ok(Response::new(RangeResponse { header: self.0.header(response.header), ..response }))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let request = self.take(request)?;
        check_put(&request)?;
        self.0.check_space(&request)?;
        self.0.check_request(&request)?;
        let response = self.0.propose(|engine, _| engine.put(&request))?;
        Ok(Response::new(PutResponse { header: self.0.header(response.header), ..response }))
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        let request = self.take(request)?;
        check_key(&request.key)?;
        self.0.check_request(&request)?;
        let response = self.0.propose(|engine, _| engine.delete_range(&request));
        Ok(Response::new(DeleteRangeResponse { header: self.0.header(response.header), ..response }))
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        let request = self.take(request)?;
        check_txn(&request, self.0.options.max_txn_ops)?;
        let response = if is_read_only(&request) {
            self.0.with(|engine, _| engine.txn(&request))?
        } else {
            if puts(&request) {
                self.0.check_space(&request)?;
            }
            self.0.check_request(&request)?;
            self.0.propose(|engine, _| engine.txn(&request))?
        };
        Ok(Response::new(TxnResponse { header: self.0.header(response.header), ..response }))
    }

    async fn compact(
        &self,
        request: Request<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        let request = self.take(request)?;
        self.0.propose(|engine, _| engine.compact(request.revision))?;
        Ok(Response::new(CompactionResponse { header: self.0.header(None) }))
    }
}
