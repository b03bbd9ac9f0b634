//! Who a cluster is, and that a member answers.

use coord_api::ErrorKind;
use coord_api::store::StoreStatus;

use crate::connection::Connection;
use crate::error::Fault;

/// Asks one member. It need not have a leader.
pub(crate) async fn status(connection: &Connection) -> Result<StoreStatus, Fault> {
    let asked = connection.run(|client| {
        let mut maintenance = client.maintenance_client();
        async move { Ok(maintenance.status().await?.0) }
    });
    match asked.await {
        Ok(status) => Ok(told(status.header.map(|header| header.cluster_id), &status.version)),
        // Newer servers tell their state to administrators alone, but everyone what a transaction that does nothing is answered with.
        Err(fault) if fault.kind == ErrorKind::PermissionDenied => {
            let nothing = connection.run(|client| {
                let mut kv = client.kv_client();
                async move { Ok(kv.txn(etcd_client::Txn::new()).await?.0) }
            });
            Ok(told(nothing.await?.header.map(|header| header.cluster_id), ""))
        }
        Err(fault) => Err(fault),
    }
}

fn told(cluster: Option<u64>, version: &str) -> StoreStatus {
    StoreStatus { store_id: format!("{:x}", cluster.unwrap_or_default()), version: format!("etcd {version}").trim_end().to_owned() }
}
