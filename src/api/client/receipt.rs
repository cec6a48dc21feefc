//! Read receipts and the fully read marker (client-server API, "Receipts", "Read and unread
//! markers").
//!
//! They are stored with the next commit that something else asks for, at the latest after a
//! second: alone, each would cost the card as much as a message.

use ruma::{
    OwnedEventId, RoomId,
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
};

/// `POST /_matrix/client/v3/rooms/{roomId}/receipt/{receiptType}/{eventId}`
pub async fn create_receipt(
    api: Api,
    who: Session,
    request: create_receipt::v3::Request,
) -> Result<create_receipt::v3::Response, Error> {
    let mut moves = Moves::default();
    match request.receipt_type {
        ReceiptType::Read => moves.receipt(Kind::Read, &request.thread, request.event_id)?,
        ReceiptType::ReadPrivate => {
            moves.receipt(Kind::ReadPrivate, &request.thread, request.event_id)?;
        }
        ReceiptType::FullyRead if request.thread != ReceiptThread::Unthreaded => {
            return Err(Error::invalid_param("a read marker is of no thread"));
        }
        ReceiptType::FullyRead => moves.fully_read = Some(request.event_id),
        _ => return Err(Error::invalid_param("there is no such type of receipt")),
    }
    moves.store(&api, &who, &request.room_id).await?;
    Ok(create_receipt::v3::Response::new())
}

/// `POST /_matrix/client/v3/rooms/{roomId}/read_markers`
pub async fn set_read_marker(
    api: Api,
    who: Session,
    request: set_read_marker::v3::Request,
) -> Result<set_read_marker::v3::Response, Error> {
    let mut moves = Moves {
        fully_read: request.fully_read,
        ..Moves::default()
    };
    let read = [
        (Kind::Read, request.read_receipt),
        (Kind::ReadPrivate, request.private_read_receipt),
    ];
    for (kind, event) in read {
        if let Some(event) = event {
            moves.receipt(kind, &ReceiptThread::Unthreaded, event)?;
        }
    }
    moves.store(&api, &who, &request.room_id).await?;
    Ok(set_read_marker::v3::Response::new())
}

/// What moves where.
#[derive(Default)]
struct Moves {
    receipts: Vec<(ReceiptKey, OwnedEventId)>,
    fully_read: Option<OwnedEventId>,
}

impl Moves {
    fn receipt(
        &mut self,
        kind: Kind,
        thread: &ReceiptThread,
        event: OwnedEventId,
    ) -> Result<(), Error> {
        let of = ReceiptKey::new(kind, thread);
        let of = of.ok_or_else(|| Error::invalid_param("thread_id is no thread"))?;
        self.receipts.push((of, event));
        Ok(())
    }

    async fn store(self, api: &Api, who: &Session, room_id: &RoomId) -> Result<(), Error> {
        let room = api.joined_room(who, room_id)?;
        let (user, now_ms) = (who.user, api.clock.now_ms());
        let write = api.store.write_deferred(move |tx| {
            let mut moved = Vec::new();
            for (of, event) in &self.receipts {
                if receipts::put(tx, room, user, of, event, now_ms)? {
                    moved.push((of.clone(), event.clone()));
                }
            }
            if let Some(event) = &self.fully_read {
                receipts::put_fully_read(tx, room, user, event)?;
            }
            Ok::<_, crate::rooms::Error>(moved)
        });
        for (of, event) in write.await? {
            if of.kind == Kind::Read {
                let read = EphemeralEdu::Receipt {
                    room: room_id.to_owned(),
                    user: who.user_id.clone(),
                    thread: of.thread(),
                    event,
                    ts: api.clock.timestamp(),
                };
                api.federation.send_edu_to_room(room, &read)?;
            }
        }
        Ok(())
    }
}
