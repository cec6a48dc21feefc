//! To-device messages (client-server API, "Send-to-Device messaging").

use ruma::api::client::to_device::send_event_to_device;

use crate::{
    api::{Api, Error, Session},
    pool::Kind,
    rooms::{event::send, servers::shared_rooms},
    store::Tx,
    users::to_device::{self, Batch, Delivery},
};

/// `PUT /_matrix/client/v3/sendToDevice/{eventType}/{txnId}`
pub async fn send_event_to_device(
    api: Api,
    session: Session,
    request: send_event_to_device::v3::Request,
) -> Result<send_event_to_device::v3::Response, Error> {
    let transaction = send::ClientTransaction {
        device: session.device,
        scope: format!("to-device {}", request.event_type),
        id: request.txn_id.to_string(),
    };
    let kind = request.event_type.clone();
    // They may have a megabyte.
    let parse = move || {
        let batch = Batch::new(request.event_type, request.messages)?;
        Ok::<_, Error>(batch.by_server())
    };
    let mut remote = api.pool.run(Kind::Parse, parse).await??;
    let local = remote.remove(api.local.server_name());
    remote.retain(|server, _| api.federation.client().may_contact(server));
    let id = format!("{:032x}", rand::random::<u128>()).into();
    let (now, now_ms) = (api.clock.timestamp(), api.clock.now_ms());
    let job = move |tx: &Tx| {
        if !send::is_new(tx, &transaction, now)? {
            return Ok(());
        }
        let sender = &session.user_id;
        let mut delivery = Delivery::default();
        if let Some(local) = &local {
            let shared = |user| Ok::<_, Error>(shared_rooms::shared_with(tx, user, sender)?);
            to_device::deliver(tx, &mut delivery, sender, &kind, local, now_ms, shared)?;
        }
        for (server, messages) in &remote {
            to_device::queue_outbound(tx, &mut delivery, server, sender, &kind, &id, messages)?;
        }
        Ok::<_, Error>(delivery.finish(sender)?)
    };
    api.store.write(job).await?;
    Ok(send_event_to_device::v3::Response::new())
}
