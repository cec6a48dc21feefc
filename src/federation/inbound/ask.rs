//! What receiving asks of other servers, asked for real.

use ruma::{
    EventId, OwnedEventId, RoomId, ServerName, UInt,
    api::federation::{
        backfill::get_backfill,
        event::{get_event, get_missing_events, get_room_state, get_room_state_ids},
    },
};

use super::{EventSource, RawPdu, Told, Unavailable};
use crate::{
    federation::{Client, Error, keys::Keys},
    protocol::receive::{Incoming, ReceiveError, Received},
};

/// How many events that lead to one are asked for.
const MISSING: u32 = 50;
/// How many events of a room's history are asked for at once.
const HISTORY: u32 = 100;

/// Asks other servers.
#[derive(Clone)]
pub struct RemoteEventSource {
    pub client: Client,
    pub keys: Keys,
}

fn refused(server: &ServerName) -> impl Fn(Error) -> Unavailable {
    move |error| {
        log::debug!("{server}: {error}");
        Unavailable
    }
}

impl EventSource for RemoteEventSource {
    async fn missing_events(
        &self,
        server: &ServerName,
        room: &RoomId,
        (earliest, latest): (Vec<OwnedEventId>, Vec<OwnedEventId>),
    ) -> Result<Vec<RawPdu>, Unavailable> {
        let mut request = get_missing_events::v1::Request::new(room.to_owned(), earliest, latest);
        request.limit = UInt::from(MISSING);
        let answer = self.client.send(server, request).await;
        Ok(answer.map_err(refused(server))?.events)
    }

    async fn state_ids(
        &self,
        server: &ServerName,
        room: &RoomId,
        event: &EventId,
    ) -> Result<Told<OwnedEventId>, Unavailable> {
        let request = get_room_state_ids::v1::Request::new(event.to_owned(), room.to_owned());
        let answer = self.client.send(server, request).await;
        let answer = answer.map_err(refused(server))?;
        Ok(Told {
            state: answer.pdu_ids,
            auth_chain: answer.auth_chain_ids,
        })
    }

    async fn state(
        &self,
        server: &ServerName,
        room: &RoomId,
        event: &EventId,
    ) -> Result<Told<RawPdu>, Unavailable> {
        let request = get_room_state::v1::Request::new(event.to_owned(), room.to_owned());
        let answer = self.client.send(server, request).await;
        let answer = answer.map_err(refused(server))?;
        Ok(Told {
            state: answer.pdus,
            auth_chain: answer.auth_chain,
        })
    }

    async fn event(&self, server: &ServerName, event: &EventId) -> Result<RawPdu, Unavailable> {
        let request = get_event::v1::Request::new(event.to_owned());
        let answer = self.client.send(server, request).await;
        Ok(answer.map_err(refused(server))?.pdu)
    }

    async fn backfill(
        &self,
        server: &ServerName,
        room: &RoomId,
        upto: Vec<OwnedEventId>,
    ) -> Result<Vec<RawPdu>, Unavailable> {
        let request = get_backfill::v1::Request::new(room.to_owned(), upto, UInt::from(HISTORY));
        let answer = self.client.send(server, request).await;
        Ok(answer.map_err(refused(server))?.pdus)
    }

    async fn verify(&self, events: Vec<Incoming>) -> Vec<Result<Received, ReceiveError>> {
        self.keys.verify(events).await
    }
}
