//! Which servers have stored EDUs or leave events to receive.

use std::collections::BTreeSet;

use super::{
    queues::{Changes, Queues},
    stored_edus::StoredEdus,
};
use crate::{
    rooms::{self, membership::pending_leaves, servers},
    store::ServerNum,
    users::to_device,
};

/// How many servers are looked at in one scan.
const BATCH: usize = 50;

/// The servers that `changes` concern.
pub async fn find(queues: &Queues, changes: Changes) -> Result<BTreeSet<ServerNum>, rooms::Error> {
    let mut found = BTreeSet::new();
    if changes.all {
        let queued = |s: &_| Ok(to_device::servers_with_outbound(s)?);
        found.extend(
            queues
                .scan("servers with to-device messages", queued)
                .await?,
        );
        let leaves = queues.scan("servers with leave events", pending_leaves::servers);
        found.extend(leaves.await?);
        let all = queues.scan("other servers", servers::all).await?;
        let all: Vec<_> = all.into_iter().map(|(server, _)| server).collect();
        for batch in all.chunks(BATCH) {
            found.extend(with_device_list_updates(queues, batch.to_vec()).await?);
        }
    }
    for user in changes.users {
        let scan = move |s: &_| servers::sharing_rooms(s, user);
        found.extend(
            queues
                .scan("servers for a device-list update", scan)
                .await?,
        );
    }
    Ok(found)
}

async fn with_device_list_updates(
    queues: &Queues,
    servers: Vec<ServerNum>,
) -> Result<Vec<ServerNum>, rooms::Error> {
    let scan = move |s: &_| {
        let mut found = Vec::new();
        for server in servers {
            if StoredEdus::next(s, server, 1, false)?.advances() {
                found.push(server);
            }
        }
        Ok(found)
    };
    queues
        .scan("servers without device-list updates", scan)
        .await
}
