//! Receiving the PDUs of a transaction: steps 1 to 3, then either [`process`](super::process) at once
//! or, if something is missing, the room's [`queue`](super::queue).

use std::collections::{BTreeMap, VecDeque};

use ruma::{OwnedEventId, OwnedRoomId, RoomId, ServerName};
use serde::Deserialize;

use super::{
    error::Error,
    event_fetcher::is_processed,
    event_source::{EventSource, PDUS_PER_SLICE, RawPdu},
    receiver::{PduOutcome, PduReceiver, wrong_room},
    room::Room,
};
use crate::{
    executor::Slices,
    protocol::receive::Incoming,
    rooms::{self, servers},
};

impl<S: EventSource> PduReceiver<S> {
    /// Receives the PDUs of a transaction of `origin`. Returns the outcome by event id; an error is a
    /// text for `origin`. A PDU that fails step 1 has no event id and is left out.
    ///
    /// # Errors
    /// If this server cannot store a PDU now, because its disk is full for one. An error for the PDU
    /// would be its end, as `origin` does not send it again; so it repeats the transaction.
    pub async fn receive(
        &self,
        origin: &ServerName,
        pdus: Vec<RawPdu>,
    ) -> Result<BTreeMap<OwnedEventId, Result<PduOutcome, String>>, rooms::Error> {
        let mut results = BTreeMap::new();
        let mut by_room: BTreeMap<OwnedRoomId, Vec<RawPdu>> = BTreeMap::new();
        let mut slices = Slices::of(PDUS_PER_SLICE);
        for pdu in pdus {
            if let Some(room) = room_id_of(&pdu) {
                by_room.entry(room).or_default().push(pdu);
            }
            slices.step().await;
        }
        for (id, pdus) in by_room {
            let received = match self.find_room(origin, &id) {
                Ok((room, may_enqueue)) => {
                    self.receive_in_room(origin, &room, pdus, may_enqueue).await
                }
                Err(rooms::Error::UnknownRoom) => self.receive_out_of_band(origin, &id, pdus).await,
                Err(error) => Err(error.into()),
            };
            match received {
                Ok(received) => results.extend(received),
                Err(Error::Rooms(error)) if is_transient(&error) => return Err(error),
                Err(error) => {
                    log::debug!("dropped the PDUs of room {id} that {origin} sent: {error}");
                }
            }
        }
        Ok(results)
    }

    /// The room, if a local user is joined and its server ACL allows `origin`; and whether `origin` is
    /// in it, so that its events may be queued.
    fn find_room(&self, origin: &ServerName, id: &RoomId) -> Result<(Room, bool), rooms::Error> {
        self.store().read(|s| {
            let num = self.server_acls().open_to(s, id, origin)?;
            Ok((Room::load(s, num)?, servers::is_in(s, num, origin)?))
        })
    }

    pub(super) async fn receive_in_room(
        &self,
        origin: &ServerName,
        room: &Room,
        pdus: Vec<RawPdu>,
        may_enqueue: bool,
    ) -> Result<BTreeMap<OwnedEventId, Result<PduOutcome, String>>, Error> {
        let mut results = BTreeMap::new();
        // Step 1.
        let mut ids = Vec::new();
        let mut events = Vec::new();
        let mut slices = Slices::of(PDUS_PER_SLICE);
        for pdu in pdus {
            slices.step().await;
            let Ok(event) = Incoming::parse(pdu.get().as_bytes(), room.rules) else {
                continue;
            };
            let id = event.event_id().to_owned();
            match self.store().read(|s| is_processed(s, &id)) {
                Ok(true) => drop(results.insert(id, Ok(PduOutcome::Processed))),
                Ok(false) => {
                    ids.push(id);
                    events.push(event);
                }
                Err(error) if is_transient(&error) => return Err(error.into()),
                Err(error) => drop(results.insert(id, Err(error.to_string()))),
            }
        }
        // Steps 2 and 3.
        let mut valid = VecDeque::new();
        let verified = self.source().verify(events).await;
        for (id, verified) in ids.into_iter().zip(verified) {
            let error = match verified {
                Ok(event) if event.pdu.room_id() == room.id => {
                    valid.push_back(event);
                    continue;
                }
                Ok(event) => wrong_room(event.pdu.room_id(), &room.id).to_string(),
                Err(error) => error.to_string(),
            };
            results.insert(id, Err(error));
        }
        // Steps 4 to 6.
        while !valid.is_empty() {
            // After an error the first event is processed alone, so that the error is reported for
            // the event that causes it.
            let chain = self.process_chain(room, valid.make_contiguous()).await;
            let chain = chain.unwrap_or(0);
            for event in valid.drain(..chain) {
                let id = event.pdu.event_id().to_owned();
                results.insert(id, Ok(PduOutcome::Processed));
            }
            if chain == 0
                && let Some(event) = valid.pop_front()
            {
                let id = event.pdu.event_id().to_owned();
                let outcome = match self.process(room, event.clone(), None).await {
                    Ok(()) => Ok(PduOutcome::Processed),
                    Err(Error::Rooms(
                        rooms::Error::Missing | rooms::Error::Pool(_) | rooms::Error::Stale,
                    )) if may_enqueue => {
                        let enqueued = self.enqueue(origin, room, event).await;
                        enqueued.map(|()| PduOutcome::Queued(room.num))
                    }
                    Err(error) => Err(error),
                };
                let outcome = match outcome {
                    Err(Error::Rooms(error)) if is_transient(&error) => return Err(error.into()),
                    outcome => outcome,
                };
                results.insert(id, outcome.map_err(|error| error.to_string()));
            }
        }
        Ok(results)
    }
}

/// Whether the same PDU may be stored later.
fn is_transient(error: &rooms::Error) -> bool {
    match error {
        rooms::Error::Store(error) => !error.is_caused_by_data(),
        rooms::Error::Pool(_) => true,
        _ => false,
    }
}

fn room_id_of(pdu: &RawPdu) -> Option<OwnedRoomId> {
    #[derive(Deserialize)]
    struct WithRoomId {
        room_id: OwnedRoomId,
    }
    let pdu: WithRoomId = serde_json::from_str(pdu.get()).ok()?;
    Some(pdu.room_id)
}
