//! Events in the client format.
//!
//! Everything is borrowed from the stored bytes: only the outermost object is parsed, and values are
//! copied as text into the response.

use std::{borrow::Cow, collections::BTreeMap};

use ruma::{
    EventId, RoomId, TransactionId, UserId, events::room::member::MembershipState,
    room_version_rules::RoomVersionRules, serde::Raw,
};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::json::field;

/// An event in the client format.
///
/// Source: client-server API, "Room event format" (`ClientEvent`, `ClientEventWithoutRoomID`).
#[derive(Clone, Debug, Serialize)]
pub struct ClientEvent<'a> {
    content: Cow<'a, RawValue>,
    event_id: &'a EventId,
    origin_server_ts: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    redacts: Option<&'a RawValue>,
    /// `None` if the response has it elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room_id: Option<&'a RoomId>,
    sender: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_key: Option<&'a RawValue>,
    #[serde(rename = "type")]
    event_type: &'a RawValue,
    #[serde(skip_serializing_if = "Unsigned::is_empty")]
    pub unsigned: Unsigned<'a>,
}

/// Data that the server adds to an event.
///
/// Source: client-server API, "Room event format" (`UnsignedData`).
#[derive(Clone, Debug, Default, Serialize)]
pub struct Unsigned<'a> {
    /// Milliseconds since the event was sent; negative if its server's clock is ahead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age: Option<i64>,
    /// The membership of the requesting user at the event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub membership: Option<MembershipState>,
    /// The content of the state event that this one replaced, if the user may see it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prev_content: Option<Cow<'a, RawValue>>,
    /// The sender of the state event that this one replaced. Not in the spec; clients read it
    /// where they read `prev_content`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prev_sender: Option<&'a UserId>,
    /// The redaction of this event, as a client event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redacted_because: Option<Cow<'a, RawValue>>,
    /// The bundled aggregations.
    #[serde(rename = "m.relations", skip_serializing_if = "Option::is_none")]
    pub relations: Option<Box<RawValue>>,
    /// The state event that this one replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaces_state: Option<&'a EventId>,
    /// Only for the device that sent the event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transaction_id: Option<&'a TransactionId>,
}

impl Unsigned<'_> {
    fn is_empty(&self) -> bool {
        let Self {
            age,
            membership,
            prev_content,
            prev_sender,
            redacted_because,
            relations,
            replaces_state,
            transaction_id,
        } = self;
        age.is_none()
            && membership.is_none()
            && prev_content.is_none()
            && prev_sender.is_none()
            && redacted_because.is_none()
            && relations.is_none()
            && replaces_state.is_none()
            && transaction_id.is_none()
    }
}

/// The fields of a stored event that clients get.
#[derive(Deserialize)]
struct Stored<'a> {
    #[serde(borrow)]
    content: &'a RawValue,
    #[serde(borrow)]
    origin_server_ts: &'a RawValue,
    #[serde(borrow)]
    redacts: Option<&'a RawValue>,
    #[serde(borrow)]
    sender: &'a RawValue,
    #[serde(borrow)]
    state_key: Option<&'a RawValue>,
    #[serde(borrow, rename = "type")]
    event_type: &'a RawValue,
}

impl<'a> ClientEvent<'a> {
    /// A stored event without `room_id` and `unsigned`. Fails only if the bytes are not an event.
    pub fn new(
        event_id: &'a EventId,
        json: &'a [u8],
        rules: &RoomVersionRules,
    ) -> serde_json::Result<Self> {
        let stored: Stored<'a> = serde_json::from_slice(json)?;
        let (content, redacts) = if stored.event_type.get() == r#""m.room.redaction""# {
            both_redacts(&stored, rules)?
        } else {
            (Cow::Borrowed(stored.content), None)
        };
        Ok(Self {
            content,
            event_id,
            origin_server_ts: stored.origin_server_ts,
            redacts,
            room_id: None,
            sender: stored.sender,
            state_key: stored.state_key,
            event_type: stored.event_type,
            unsigned: Unsigned::default(),
        })
    }

    pub fn to_json(&self) -> serde_json::Result<Box<RawValue>> {
        to_raw_value(self)
    }

    pub fn to_raw<T>(&self) -> serde_json::Result<Raw<T>> {
        self.to_json().map(Raw::from_json)
    }
}

/// A redaction's content and top-level `redacts`, both with the target: older clients read the top
/// level, newer ones the content. The target is read from where the room version has it.
///
/// Source: room version 11, "Moving the `redacts` property".
fn both_redacts<'a>(
    stored: &Stored<'a>,
    rules: &RoomVersionRules,
) -> serde_json::Result<(Cow<'a, RawValue>, Option<&'a RawValue>)> {
    let content = stored.content;
    if rules.redaction.content_field_redacts {
        return Ok((Cow::Borrowed(content), field(content, "redacts")?));
    }
    let Some(redacts) = stored.redacts else {
        return Ok((Cow::Borrowed(content), None));
    };
    let mut fields: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_str(content.get())?;
    fields.insert("redacts".into(), redacts);
    Ok((Cow::Owned(to_raw_value(&fields)?), Some(redacts)))
}

/// Source: client-server API, "Stripped state".
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct StrippedEvent<'a> {
    #[serde(borrow)]
    content: &'a RawValue,
    #[serde(borrow)]
    sender: &'a RawValue,
    #[serde(borrow)]
    state_key: &'a RawValue,
    #[serde(borrow, rename = "type")]
    event_type: &'a RawValue,
}

impl<'a> StrippedEvent<'a> {
    /// Strips a state event, stored or from another server. Fails if one of the four fields is missing or
    /// of the wrong type.
    pub fn new(json: &'a [u8]) -> serde_json::Result<Self> {
        let event: Self = serde_json::from_slice(json)?;
        let strings = [event.sender, event.state_key, event.event_type];
        if event.content.get().starts_with('{')
            && strings.iter().all(|value| value.get().starts_with('"'))
        {
            Ok(event)
        } else {
            Err(serde::de::Error::custom(
                "a field of a state event has the wrong type",
            ))
        }
    }

    pub fn to_raw<T>(&self) -> serde_json::Result<Raw<T>> {
        to_raw_value(self).map(Raw::from_json)
    }
}

#[cfg(test)]
mod tests {
    use ruma::{
        RoomVersionId::{self, *},
        event_id,
        events::room::member::MembershipState,
        room_id,
    };
    use serde_json::{Value, json, value::to_raw_value};

    use super::{ClientEvent, Cow, StrippedEvent};
    use crate::protocol::versions;

    fn stored() -> Value {
        json!({
            "auth_events": ["$a"], "content": { "body": "hi" }, "depth": 3, "event_id": "$forged",
            "hashes": {}, "origin": "a.example", "origin_server_ts": 5, "prev_events": ["$b"],
            "room_id": "!r:a.example", "sender": "@alice:a.example", "signatures": {},
            "type": "m.room.message", "unsigned": { "age": 1 }, "prev_content": {},
        })
    }

    fn client_event(version: RoomVersionId, stored: &Value) -> Value {
        let json = stored.to_string();
        let rules = versions::rules(&version).unwrap();
        let event = ClientEvent::new(event_id!("$id"), json.as_bytes(), rules).unwrap();
        serde_json::from_str(event.to_json().unwrap().get()).unwrap()
    }

    #[test]
    fn a_client_event_has_no_federation_fields() {
        let expected = json!({
            "content": { "body": "hi" }, "event_id": "$id", "origin_server_ts": 5,
            "sender": "@alice:a.example", "type": "m.room.message",
        });
        assert_eq!(client_event(V12, &stored()), expected);
    }

    #[test]
    fn an_empty_state_key_is_kept() {
        let mut state = stored();
        state["state_key"] = "".into();
        assert_eq!(client_event(V12, &state)["state_key"], "");
    }

    #[test]
    fn room_id_is_included_if_set() {
        let (json, rules) = (stored().to_string(), versions::rules(&V12).unwrap());
        let mut event = ClientEvent::new(event_id!("$id"), json.as_bytes(), rules).unwrap();
        event.room_id = Some(room_id!("!made:from.create"));
        assert_eq!(
            serde_json::to_value(&event).unwrap()["room_id"],
            "!made:from.create"
        );
    }

    #[test]
    fn unsigned_has_only_the_fields_that_are_set() {
        let (json, rules) = (stored().to_string(), versions::rules(&V12).unwrap());
        let mut event = ClientEvent::new(event_id!("$id"), json.as_bytes(), rules).unwrap();
        event.unsigned.age = Some(-7);
        event.unsigned.membership = Some(MembershipState::Join);
        event.unsigned.transaction_id = Some("txn".into());
        event.unsigned.replaces_state = Some(event_id!("$old"));
        event.unsigned.prev_content = Some(Cow::Owned(to_raw_value(&json!({ "a": 1 })).unwrap()));
        let expected = json!({
            "age": -7, "membership": "join", "transaction_id": "txn", "replaces_state": "$old",
            "prev_content": { "a": 1 },
        });
        assert_eq!(serde_json::to_value(&event).unwrap()["unsigned"], expected);
    }

    fn redaction(top: Option<&str>, inside: Option<&str>) -> Value {
        let mut event = stored();
        event["type"] = "m.room.redaction".into();
        if let Some(id) = top {
            event["redacts"] = id.into();
        }
        if let Some(id) = inside {
            event["content"]["redacts"] = id.into();
        }
        event
    }

    #[test]
    fn a_redaction_has_its_target_at_the_top_level_and_in_the_content() {
        for (version, event) in [
            (V10, redaction(Some("$t"), None)),
            (V11, redaction(None, Some("$t"))),
        ] {
            let shown = client_event(version, &event);
            assert_eq!(shown["redacts"], "$t");
            assert_eq!(shown["content"], json!({ "body": "hi", "redacts": "$t" }));
        }
    }

    #[test]
    fn the_target_of_a_redaction_is_read_from_where_the_room_version_has_it() {
        let event = redaction(Some("$top"), Some("$inside"));
        for (version, target) in [(V10, "$top"), (V11, "$inside")] {
            let shown = client_event(version, &event);
            assert_eq!(
                (&shown["redacts"], &shown["content"]["redacts"]),
                (&target.into(), &target.into())
            );
        }
    }

    #[test]
    fn a_redacted_redaction_has_no_target() {
        let shown = client_event(V10, &redaction(None, None));
        assert!(shown.get("redacts").is_none() && shown["content"].get("redacts").is_none());
    }

    #[test]
    fn only_redactions_have_a_redacts() {
        let mut message = stored();
        message["redacts"] = "$t".into();
        assert!(client_event(V10, &message).get("redacts").is_none());
    }

    #[test]
    fn a_stripped_event_has_four_fields() {
        let mut state = stored();
        state["state_key"] = "".into();
        let json = state.to_string();
        let stripped = StrippedEvent::new(json.as_bytes()).unwrap();
        let expected = json!({
            "content": { "body": "hi" }, "sender": "@alice:a.example", "state_key": "",
            "type": "m.room.message",
        });
        assert_eq!(serde_json::to_value(&stripped).unwrap(), expected);
    }

    #[test]
    fn an_event_without_a_valid_state_key_cannot_be_stripped() {
        assert!(
            StrippedEvent::new(stored().to_string().as_bytes()).is_err(),
            "no state key"
        );
        for field in ["content", "sender", "state_key", "type"] {
            let mut state = stored();
            state["state_key"] = "".into();
            state[field] = 1.into();
            assert!(
                StrippedEvent::new(state.to_string().as_bytes()).is_err(),
                "{field}"
            );
        }
    }
}
