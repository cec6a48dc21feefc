//! Stored events in the client format, with the `unsigned` data for one user and device.

use std::borrow::Cow;

use ruma::{
    EventId, OwnedRoomId, OwnedUserId, TransactionId, UserId,
    events::room::member::MembershipState, room_version_rules::RoomVersionRules,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::history_visibility::UserVisibility;
use crate::{
    protocol::client_event::{ClientEvent, StrippedEvent, Unsigned},
    rooms::{
        Error,
        event::{self, StoredEvent},
        room, state,
    },
    store::{DeviceNum, EventNum, Reader, RoomNum, records::Membership},
};

/// Whether an event has its `room_id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoomIdField {
    Include,
    /// As in `/sync`, whose response has the room id elsewhere.
    Omit,
}

/// Formats the events of one room for one device. It caches what it read for the last event, so events
/// are best formatted in order.
#[derive(Clone, Debug)]
pub struct Formatter {
    room: RoomNum,
    room_id: OwnedRoomId,
    rules: &'static RoomVersionRules,
    device: Option<DeviceNum>,
    now_ms: u64,
    room_id_field: RoomIdField,
    pub visibility: UserVisibility,
}

/// The state event that another one replaced.
#[derive(Deserialize)]
struct Replaced {
    sender: OwnedUserId,
    content: Box<RawValue>,
}

#[derive(Deserialize)]
struct Sent {
    origin_server_ts: u64,
}

impl Formatter {
    /// Without a device no event has a transaction id.
    pub fn new(
        r: &impl Reader,
        room: RoomNum,
        user: &UserId,
        device: Option<DeviceNum>,
        now_ms: u64,
        room_id_field: RoomIdField,
    ) -> Result<Self, Error> {
        Ok(Self {
            room,
            room_id: room::id(r, room)?,
            rules: room::rules(r, room)?,
            device,
            now_ms,
            room_id_field,
            visibility: UserVisibility::new(r, room, user)?,
        })
    }

    pub fn room(&self) -> RoomNum {
        self.room
    }

    /// The event in the client format ([client-server API, "Room event format"]).
    ///
    /// [client-server API, "Room event format"]: https://spec.matrix.org/v1.19/client-server-api/#room-event-format
    pub fn format(
        &mut self,
        r: &impl Reader,
        stored: &StoredEvent,
    ) -> Result<Box<RawValue>, Error> {
        self.format_with_relations(r, stored, None)
    }

    /// The event in the client format, with its bundled aggregations.
    pub fn format_with_relations(
        &mut self,
        r: &impl Reader,
        stored: &StoredEvent,
        relations: Option<Box<RawValue>>,
    ) -> Result<Box<RawValue>, Error> {
        let visible = self.visibility.visible_state(r, stored)?;
        let stored = &*visible;
        let replaced_num = self.replaced(r, stored)?;
        let replaced = match replaced_num {
            Some(num) => {
                let mut replaced = event::load(r, num)?;
                self.visibility.redact_if_erased(r, &mut replaced)?;
                Some((replaced.id()?, replaced.parse::<Replaced>()?))
            }
            None => None,
        };
        let redaction = match stored.header.redacted_by {
            Some(num) => self.redaction(r, num)?,
            None => None,
        };
        let (id, sent) = (stored.id()?, stored.parse::<Sent>()?);
        let membership = self.visibility.membership_at(r, stored)?;
        let mut formatted = self.without_unsigned(&id, &stored.json)?;
        formatted.unsigned = Unsigned {
            age: Some(self.now_ms as i64 - sent.origin_server_ts as i64),
            membership: Some(membership_state(membership)),
            prev_content: replaced
                .as_ref()
                .map(|(_, event)| Cow::Borrowed(&*event.content)),
            prev_sender: replaced.as_ref().map(|(_, event)| &*event.sender),
            redacted_because: redaction.map(Cow::Owned),
            relations,
            replaces_state: replaced.as_ref().map(|(id, _)| &**id),
            transaction_id: self.transaction_id(stored),
        };
        formatted
            .to_json()
            .map_err(|_| Error::not_serializable("an event"))
    }

    fn without_unsigned<'a>(
        &'a self,
        id: &'a EventId,
        json: &'a [u8],
    ) -> Result<ClientEvent<'a>, Error> {
        let mut event = ClientEvent::new(id, json, self.rules)
            .map_err(|_| Error::corrupt("events", id, "not an event"))?;
        event.room_id = (self.room_id_field == RoomIdField::Include).then_some(&*self.room_id);
        Ok(event)
    }

    /// The state event that `stored` replaced.
    fn replaced(&self, r: &impl Reader, stored: &StoredEvent) -> Result<Option<EventNum>, Error> {
        match stored.header.state_key {
            Some(key) => state::get(r, self.room, stored.header.state_before, key),
            None => Ok(None),
        }
    }

    /// The redaction `num`, if the user may see it: not if it came after the user left.
    fn redaction(
        &mut self,
        r: &impl Reader,
        num: EventNum,
    ) -> Result<Option<Box<RawValue>>, Error> {
        let Some(redaction) = self.visibility.visible(r, event::load(r, num)?)? else {
            return Ok(None);
        };
        let (id, sent) = (redaction.id()?, redaction.parse::<Sent>()?);
        let mut formatted = self.without_unsigned(&id, &redaction.json)?;
        formatted.unsigned.age = Some(self.now_ms as i64 - sent.origin_server_ts as i64);
        let json = formatted.to_json();
        json.map(Some)
            .map_err(|_| Error::not_serializable("an event"))
    }

    fn transaction_id<'a>(&self, stored: &'a StoredEvent) -> Option<&'a TransactionId> {
        let (device, id) = stored.header.sent_by.as_ref()?;
        (Some(*device) == self.device).then(|| id.as_str().into())
    }
}

pub fn membership_state(membership: Membership) -> MembershipState {
    match membership {
        Membership::Leave => MembershipState::Leave,
        Membership::Join => MembershipState::Join,
        Membership::Invite => MembershipState::Invite,
        Membership::Knock => MembershipState::Knock,
        Membership::Ban => MembershipState::Ban,
    }
}

/// Source: [client-server API, "Stripped state"](https://spec.matrix.org/v1.19/client-server-api/#stripped-state).
pub fn stripped(r: &impl Reader, num: EventNum) -> Result<Box<RawValue>, Error> {
    let stored = event::load(r, num)?;
    StrippedEvent::new(&stored.json)
        .and_then(|event| serde_json::value::to_raw_value(&event))
        .map_err(|_| Error::corrupt("events", num, "not a state event"))
}
