//! Who a cluster is, and that a member answers.

use coord_api::ErrorKind;
use coord_api::store::StoreStatus;
use etcd_client::proto::PbResponseHeader;
use etcd_client::{Client, StatusResponse, TxnResponse};

use crate::connection::{MemberConnection, kv, nothing};
use crate::error::Fault;

/// What a member says of itself.
#[derive(Clone, Debug)]
pub(crate) struct MemberStatus {
    pub(crate) header: Option<PbResponseHeader>,
    version: String,
}

/// Asks one member, of whatever cluster. It need not have a leader.
pub(crate) async fn ask(connection: &MemberConnection) -> Result<MemberStatus, Fault> {
    let status = connection
        .ask_anybody(Client::maintenance_client, |mut maintenance| async move { maintenance.status().await });
    match status.await {
        Ok(StatusResponse(status)) => Ok(MemberStatus { header: status.header, version: status.version }),
        // Newer servers tell their state to administrators alone, and some proxies nobody.
        Err(fault) if fault.kind == ErrorKind::PermissionDenied => {
            let TxnResponse(answer) = connection.ask_anybody(kv, nothing).await?;
            Ok(MemberStatus { header: answer.header, version: String::new() })
        }
        Err(fault) => Err(fault),
    }
}

/// Asks one member of the cluster.
pub(crate) async fn status(connection: &MemberConnection) -> Result<StoreStatus, Fault> {
    let told = ask(connection).await?;
    connection.recognise(told.header.as_ref())?;
    let cluster = told.header.map(|header| header.cluster_id).unwrap_or_default();
    Ok(StoreStatus {
        store_id: format!("{cluster:x}"),
        version: format!("etcd {}", told.version).trim_end().to_owned(),
    })
}
