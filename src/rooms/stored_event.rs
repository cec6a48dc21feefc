//! Stored events.

use ruma::{EventId, OwnedEventId, OwnedUserId, room_version_rules::RoomVersionRules};
use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    protocol::Pdu,
    rooms::Error,
    store::{
        EventNum, Reader, RoomNum, Rows, pack_before,
        records::{EventHeader, Status},
        unpack_before,
    },
};

/// An event as it is stored.
#[derive(Clone, Debug)]
pub struct StoredEvent {
    pub num: EventNum,
    pub header: EventHeader,
    /// The JSON as received, or as redacted.
    pub json: Vec<u8>,
}

impl StoredEvent {
    fn corrupt(&self, problem: &'static str) -> Error {
        Error::corrupt("events", &self.header.id, problem)
    }

    pub fn id(&self) -> Result<OwnedEventId, Error> {
        OwnedEventId::try_from(self.header.id.as_str()).map_err(|_| self.corrupt("not an event ID"))
    }

    /// The event, parsed for the rules of its room.
    pub fn pdu(&self, rules: &RoomVersionRules) -> Result<Pdu, Error> {
        let rejected = self.header.status.is_rejected();
        Pdu::parse(self.id()?, &self.json, rules, rejected)
            .map_err(|_| self.corrupt("not an event"))
    }

    pub fn sender(&self) -> Result<OwnedUserId, Error> {
        #[derive(Deserialize)]
        struct Sender {
            sender: OwnedUserId,
        }
        Ok(self.parse::<Sender>()?.sender)
    }

    /// The state key, if it is a member event.
    pub fn member(&self) -> Result<Option<String>, Error> {
        #[derive(Deserialize)]
        struct Keyed {
            #[serde(rename = "type")]
            kind: String,
            state_key: Option<String>,
        }
        if self.header.state_key.is_none() {
            return Ok(None);
        }
        let keyed = self.parse::<Keyed>()?;
        Ok(keyed.state_key.filter(|_| keyed.kind == "m.room.member"))
    }

    /// Part of its JSON: `T` names the fields.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.json).map_err(|_| self.corrupt("not an event"))
    }
}

/// The number of the event, if it is accepted.
///
/// # Errors
/// [`Error::Missing`] if it is not here; [`Error::Forbidden`] if it is rejected, soft-failed or an
/// outlier.
pub fn accepted(r: &impl Reader, room: RoomNum, id: &EventId) -> Result<EventNum, Error> {
    let num = num_in(r, room, id)?.ok_or(Error::Missing)?;
    match header(r, num)?.status {
        Status::Accepted => Ok(num),
        _ => Err(Error::forbidden("the room does not allow it")),
    }
}

/// The event `num`.
pub fn load(r: &impl Reader, num: EventNum) -> Result<StoredEvent, Error> {
    let events = r.events()?;
    let row = events
        .get(num)?
        .ok_or_else(|| Error::corrupt("events", num, "missing"))?;
    let (header, json) = unpack_before(row.value())?;
    Ok(StoredEvent {
        num,
        header,
        json: json.to_vec(),
    })
}

/// The header of the event `num`.
pub fn header(r: &impl Reader, num: EventNum) -> Result<EventHeader, Error> {
    let events = r.events()?;
    let row = events
        .get(num)?
        .ok_or_else(|| Error::corrupt("events", num, "missing"))?;
    Ok(unpack_before(row.value())?.0)
}

/// The number of the event `id`.
pub fn num_of(r: &impl Reader, id: &EventId) -> Result<Option<EventNum>, Error> {
    Ok(r.event_nums()?.get(id.as_str())?.map(|row| row.value()))
}

/// The number of the event `id`, if it is an event of this room.
pub fn num_in(r: &impl Reader, room: RoomNum, id: &EventId) -> Result<Option<EventNum>, Error> {
    let Some(num) = num_of(r, id)? else {
        return Ok(None);
    };
    Ok((header(r, num)?.room == room).then_some(num))
}

/// Encodes a row of `events`.
pub(in crate::rooms) fn row(header: &EventHeader, json: &[u8]) -> Vec<u8> {
    pack_before(header, json)
}

/// The event id of the event `num`.
pub fn id(r: &impl Reader, num: EventNum) -> Result<OwnedEventId, Error> {
    OwnedEventId::try_from(header(r, num)?.id)
        .map_err(|_| Error::corrupt("events", num, "not an event ID"))
}
