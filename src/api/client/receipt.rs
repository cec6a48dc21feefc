//! Read receipts and the fully read marker (client-server API, "Receipts", "Read and unread
//! markers").
//!
//! They are stored with the next commit, at the latest after a second: a commit of its own would cost each
//! as much disk wear as a message.

use ruma::{
    OwnedEventId, OwnedRoomId,
    api::client::{
        read_marker::set_read_marker,
        receipt::create_receipt::{self, v3::ReceiptType},
    },
    events::receipt::{ReceiptThread, ReceiptType as Kind},
};

use crate::{
    api::{Api, Error, Session},
    federation::EphemeralEdu,
    rooms::unread::receipts::{self, ReceiptKey},
    store::RoomNum,
};

/// `POST /_matrix/client/v3/rooms/{roomId}/receipt/{receiptType}/{eventId}`
pub async fn create_receipt(
    api: Api,
    session: Session,
    request: create_receipt::v3::Request,
) -> Result<create_receipt::v3::Response, Error> {
    let mut updates = ReceiptUpdates::default();
    match request.receipt_type {
        ReceiptType::Read => updates.add(Kind::Read, &request.thread, request.event_id)?,
        ReceiptType::ReadPrivate => {
            updates.add(Kind::ReadPrivate, &request.thread, request.event_id)?;
        }
        ReceiptType::FullyRead if request.thread != ReceiptThread::Unthreaded => {
            return Err(Error::invalid_param(
                "thread_id must be absent for m.fully_read",
            ));
        }
        ReceiptType::FullyRead => updates.fully_read = Some(request.event_id),
        _ => {
            return Err(Error::invalid_param(
                "receiptType must be m.read, m.read.private or m.fully_read",
            ));
        }
    }
    updates.store(&api, session, request.room_id).await?;
    Ok(create_receipt::v3::Response::new())
}

/// `POST /_matrix/client/v3/rooms/{roomId}/read_markers`
pub async fn set_read_marker(
    api: Api,
    session: Session,
    request: set_read_marker::v3::Request,
) -> Result<set_read_marker::v3::Response, Error> {
    let mut updates = ReceiptUpdates {
        fully_read: request.fully_read,
        ..ReceiptUpdates::default()
    };
    let read = [
        (Kind::Read, request.read_receipt),
        (Kind::ReadPrivate, request.private_read_receipt),
    ];
    for (kind, event) in read {
        if let Some(event) = event {
            updates.add(kind, &ReceiptThread::Unthreaded, event)?;
        }
    }
    updates.store(&api, session, request.room_id).await?;
    Ok(set_read_marker::v3::Response::new())
}

/// Receipts and markers of one request.
#[derive(Default)]
struct ReceiptUpdates {
    receipts: Vec<(ReceiptKey, OwnedEventId)>,
    fully_read: Option<OwnedEventId>,
}

impl ReceiptUpdates {
    fn add(
        &mut self,
        kind: Kind,
        thread: &ReceiptThread,
        event: OwnedEventId,
    ) -> Result<(), Error> {
        let key = ReceiptKey::new(kind, thread);
        let key =
            key.ok_or_else(|| Error::invalid_param("thread_id must be an event id or main"))?;
        self.receipts.push((key, event));
        Ok(())
    }

    async fn store(
        mut self,
        api: &Api,
        session: Session,
        room_id: OwnedRoomId,
    ) -> Result<(), Error> {
        let room = api.joined_room(&session, &room_id)?;
        api.store.read(|s| {
            let is_visible = |event: &_| receipts::is_visible(s, room, &session.user_id, event);
            // NOTSPEC: a receipt for an event that is not here is accepted, as by Synapse, and has no effect.
            for (key, event) in std::mem::take(&mut self.receipts) {
                if is_visible(&event)? {
                    self.receipts.push((key, event));
                }
            }
            match &self.fully_read {
                Some(event) if !is_visible(event)? => Err(receipts::NO_EVENT),
                _ => Ok(()),
            }
        })?;
        let store_and_send = self.store_and_send(api.clone(), session, room, room_id);
        // The receipts are committed even if the client hangs up meanwhile; then they have to be sent.
        let done = api.federation.run_to_completion(store_and_send).await;
        done.ok_or(Error::Internal("a panic while receipts were stored"))?
    }

    async fn store_and_send(
        self,
        api: Api,
        session: Session,
        room: RoomNum,
        room_id: OwnedRoomId,
    ) -> Result<(), Error> {
        let (user, now_ms) = (session.user, api.clock.now_ms());
        let write = api.store.write_deferred(move |tx| {
            let mut moved = Vec::new();
            for (key, event) in &self.receipts {
                if receipts::put(tx, room, user, key, event, now_ms)? {
                    moved.push((key.clone(), event.clone()));
                }
            }
            if let Some(event) = &self.fully_read {
                receipts::put_fully_read(tx, room, user, event)?;
            }
            Ok::<_, crate::rooms::Error>(moved)
        });
        for (key, event) in write.await? {
            if key.kind == Kind::Read {
                let read = EphemeralEdu::Receipt {
                    room: room_id.clone(),
                    user: session.user_id.clone(),
                    thread: key.thread(),
                    event,
                    ts: api.clock.timestamp(),
                };
                api.federation.send_edu_to_room(room, read).await?;
            }
        }
        Ok(())
    }
}
