//! A parsed event, as the authorization rules use it.

use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UInt,
    UserId,
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
    room_version_rules::RoomVersionRules,
    state_res::Event,
};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{format::FormatError, json::field, power_levels, reference::EventReference};

/// A parsed event, without hashes, signatures, `unsigned` and its number in the store.
#[derive(Clone, Debug)]
pub struct Pdu {
    event_id: OwnedEventId,
    room_id: OwnedRoomId,
    has_room_id: bool,
    sender: OwnedUserId,
    event_type: TimelineEventType,
    state_key: Option<Box<str>>,
    content: Box<RawValue>,
    /// The content as the authorization rules read it, if that is another.
    rules_content: Option<Box<RawValue>>,
    prev_events: Box<[OwnedEventId]>,
    auth_events: Box<[OwnedEventId]>,
    origin_server_ts: MilliSecondsSinceUnixEpoch,
    depth: u64,
    redacts: Option<OwnedEventId>,
    rejected: bool,
}

/// The fields that are parsed of an event in the federation format.
#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
    content: &'a RawValue,
    #[serde(default, deserialize_with = "not_null")]
    room_id: Option<OwnedRoomId>,
    sender: OwnedUserId,
    #[serde(rename = "type")]
    event_type: TimelineEventType,
    state_key: Option<Box<str>>,
    #[serde(borrow)]
    prev_events: &'a RawValue,
    #[serde(borrow)]
    auth_events: &'a RawValue,
    #[serde(borrow)]
    origin_server_ts: &'a RawValue,
    depth: u64,
    #[serde(borrow)]
    redacts: Option<&'a RawValue>,
}

/// A field that may be absent but not null: a create event with `"room_id": null` counts as having one.
fn not_null<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}

impl Pdu {
    /// Parses an event whose id is known: one that was stored or checked. `rejected` if it failed the
    /// checks on receipt (spec: "Rejection"): rejected events authorize nothing.
    pub fn parse(
        event_id: OwnedEventId,
        json: &[u8],
        rules: &RoomVersionRules,
        rejected: bool,
    ) -> Result<Self, FormatError> {
        let malformed = |error: serde_json::Error| FormatError::Malformed(error.to_string());
        let wire: Wire<'_> = serde_json::from_slice(json).map_err(malformed)?;
        if !wire.content.get().starts_with('{') {
            return Err(FormatError::Malformed(
                "`content` is not an object".to_owned(),
            ));
        }
        let has_room_id = wire.room_id.is_some();
        let redacts = redacted_event(&wire, rules);
        let ids = |list| {
            let references = EventReference::parse_list(list, rules)?.into_iter();
            Ok::<_, FormatError>(references.map(|reference| reference.id).collect())
        };
        let rules_content = power_levels::as_integers(&wire.event_type, wire.content, rules);
        let room_id = match wire.room_id {
            Some(room_id) => room_id,
            None => room_of_create_event(&event_id, &wire.event_type, rules)?,
        };
        Ok(Self {
            redacts,
            event_id,
            room_id,
            has_room_id,
            sender: wire.sender,
            event_type: wire.event_type,
            state_key: wire.state_key,
            content: wire.content.to_owned(),
            rules_content,
            prev_events: ids(wire.prev_events)?,
            auth_events: ids(wire.auth_events)?,
            origin_server_ts: timestamp(wire.origin_server_ts, rules)?,
            depth: wire.depth,
            rejected,
        })
    }

    pub fn event_id(&self) -> &EventId {
        &self.event_id
    }

    /// For a create event without `room_id`, since room version 12, derived from its event id.
    pub fn room_id(&self) -> &RoomId {
        &self.room_id
    }

    pub fn sender(&self) -> &UserId {
        &self.sender
    }

    pub fn event_type(&self) -> &TimelineEventType {
        &self.event_type
    }

    pub fn state_key(&self) -> Option<&str> {
        self.state_key.as_deref()
    }

    /// The event's key in the room state, if it is a state event.
    pub fn state_pair(&self) -> Option<(StateEventType, &str)> {
        Some((self.event_type.to_string().into(), self.state_key()?))
    }

    /// A JSON object.
    pub fn content(&self) -> &RawValue {
        &self.content
    }

    /// The content as the authorization rules read it: power levels are integers that ruma can hold.
    pub fn rules_content(&self) -> &RawValue {
        self.rules_content.as_deref().unwrap_or(&self.content)
    }

    /// One field of the content; `None` if it is absent or of another type.
    pub fn content_field<'a, T: Deserialize<'a>>(&'a self, name: &str) -> Option<T> {
        field(&self.content, name).ok().flatten()
    }

    /// The membership in a membership event.
    pub fn membership(&self) -> Option<MembershipState> {
        (self.event_type == TimelineEventType::RoomMember && self.state_key.is_some())
            .then(|| self.content_field("membership"))?
    }

    pub fn prev_events(&self) -> &[OwnedEventId] {
        &self.prev_events
    }

    pub fn auth_events(&self) -> &[OwnedEventId] {
        &self.auth_events
    }

    /// As its server claims; not checked. In room versions that allow integers beyond canonical JSON, such
    /// a time is the nearest that ruma can hold.
    pub fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        self.origin_server_ts
    }

    /// As its server claims; not checked.
    pub fn depth(&self) -> u64 {
        self.depth
    }

    /// The target of an `m.room.redaction`, from where the room version has it. Not whether it is allowed
    /// (spec: "Handling redactions").
    pub fn redacts(&self) -> Option<&EventId> {
        self.redacts.as_deref()
    }

    /// Whether the event failed the checks on receipt.
    pub fn rejected(&self) -> bool {
        self.rejected
    }

    pub fn reject(&mut self) {
        self.rejected = true;
    }
}

/// The room id derived from a create event without `room_id`.
///
/// Source: room version 12, "Event format".
fn room_of_create_event(
    event_id: &EventId,
    event_type: &TimelineEventType,
    rules: &RoomVersionRules,
) -> Result<OwnedRoomId, FormatError> {
    if rules.event_format.require_room_create_room_id
        || *event_type != TimelineEventType::RoomCreate
    {
        return Err(FormatError::Malformed("missing `room_id`".to_owned()));
    }
    OwnedRoomId::try_from(format!("!{}", event_id.localpart()))
        .map_err(|error| FormatError::Malformed(error.to_string()))
}

/// The time of an event. ruma has no negative ones.
fn timestamp(
    json: &RawValue,
    rules: &RoomVersionRules,
) -> Result<MilliSecondsSinceUnixEpoch, FormatError> {
    let milliseconds = if rules.authorization.strict_canonical_json {
        serde_json::from_str::<UInt>(json.get())
    } else {
        let number = serde_json::from_str::<i128>(json.get());
        number.map(|number| UInt::new_saturating(u64::try_from(number.max(0)).unwrap_or(u64::MAX)))
    };
    let milliseconds = milliseconds.map_err(|error| FormatError::Malformed(error.to_string()))?;
    Ok(MilliSecondsSinceUnixEpoch(milliseconds))
}

/// Source: room version 11, "Moving the `redacts` property".
fn redacted_event(wire: &Wire<'_>, rules: &RoomVersionRules) -> Option<OwnedEventId> {
    if wire.event_type != TimelineEventType::RoomRedaction {
        None
    } else if rules.redaction.content_field_redacts {
        field(wire.content, "redacts").ok().flatten()
    } else {
        serde_json::from_str(wire.redacts?.get()).ok()
    }
}

/// For ruma's rules, a create event without `room_id` has none.
impl Event for Pdu {
    type Id = OwnedEventId;

    fn event_id(&self) -> &OwnedEventId {
        &self.event_id
    }

    fn room_id(&self) -> Option<&RoomId> {
        self.has_room_id.then_some(&*self.room_id)
    }

    fn sender(&self) -> &UserId {
        &self.sender
    }

    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        self.origin_server_ts
    }

    fn event_type(&self) -> &TimelineEventType {
        &self.event_type
    }

    fn content(&self) -> &RawValue {
        self.rules_content()
    }

    fn state_key(&self) -> Option<&str> {
        self.state_key.as_deref()
    }

    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.prev_events.iter())
    }

    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.auth_events.iter())
    }

    fn redacts(&self) -> Option<&OwnedEventId> {
        self.redacts.as_ref()
    }

    fn rejected(&self) -> bool {
        self.rejected
    }
}

#[cfg(test)]
mod tests {
    use ruma::{
        RoomVersionId, RoomVersionId::*, events::room::member::MembershipState, state_res::Event,
    };
    use serde_json::{Value, json};

    use super::Pdu;
    use crate::protocol::{FormatError, versions};

    fn parse(version: RoomVersionId, changes: Value) -> Result<Pdu, FormatError> {
        let mut event = json!({
            "auth_events": ["$a"], "content": { "body": "hi" }, "depth": 3, "hashes": {},
            "origin_server_ts": 5, "prev_events": ["$b", "$c"], "room_id": "!r:a.example",
            "sender": "@alice:a.example", "signatures": {}, "type": "m.room.message",
        });
        for (field, value) in changes.as_object().unwrap() {
            if value == "absent" {
                event.as_object_mut().unwrap().remove(field);
            } else {
                event[field] = value.clone();
            }
        }
        let id = "$id".try_into().unwrap();
        let rules = versions::rules(&version).unwrap();
        Pdu::parse(id, event.to_string().as_bytes(), rules, false)
    }

    #[test]
    fn all_fields_of_an_event_are_parsed() {
        let pdu = parse(V12, json!({ "state_key": "k" })).unwrap();
        assert_eq!(pdu.event_id(), "$id");
        assert_eq!(pdu.room_id(), "!r:a.example");
        assert_eq!(pdu.sender(), "@alice:a.example");
        assert_eq!(pdu.state_pair(), Some(("m.room.message".into(), "k")));
        assert_eq!(pdu.content().get(), r#"{"body":"hi"}"#);
        assert_eq!(pdu.prev_events(), ["$b", "$c"]);
        assert_eq!(pdu.auth_events(), ["$a"]);
        assert_eq!(
            (pdu.depth(), pdu.origin_server_ts().get()),
            (3, ruma::uint!(5))
        );
        assert!(!pdu.rejected() && pdu.redacts().is_none());
    }

    #[test]
    fn content_field_is_none_if_absent_or_of_another_type() {
        let pdu = parse(V12, json!({ "content": { "a": { "b": [1] }, "n": 4 } })).unwrap();
        assert_eq!(pdu.content_field::<u8>("n"), Some(4));
        assert_eq!(pdu.content_field::<String>("n"), None, "another type");
        assert_eq!(pdu.content_field::<u8>("absent"), None);
    }

    #[test]
    fn only_state_events_of_members_have_a_membership() {
        let content = json!({ "membership": "ban" });
        let member = |key: Value| {
            let event = json!({ "type": "m.room.member", "state_key": key, "content": content });
            parse(V12, event).unwrap().membership()
        };
        assert_eq!(member(json!("@b:b.example")), Some(MembershipState::Ban));
        assert_eq!(member(json!("absent")), None);
        let other = parse(V12, json!({ "state_key": "", "content": content })).unwrap();
        assert_eq!(other.membership(), None);
    }

    #[test]
    fn since_version_12_only_create_events_need_not_name_their_room() {
        let create = json!({ "type": "m.room.create", "room_id": "absent" });
        parse(V11, create.clone()).unwrap_err();
        parse(V12, json!({ "room_id": "absent" })).unwrap_err();
        let create = parse(V12, create).unwrap();
        assert_eq!(create.room_id(), "!id");
        assert_eq!(Event::room_id(&create), None, "for the rules it has none");
    }

    #[test]
    fn a_null_room_id_is_an_error() {
        parse(V12, json!({ "type": "m.room.create", "room_id": null })).unwrap_err();
    }

    #[test]
    fn a_redaction_names_its_target_at_the_top_and_since_version_11_in_its_content() {
        let event = json!({
            "type": "m.room.redaction", "redacts": "$top", "content": { "redacts": "$inside" },
        });
        assert_eq!(
            parse(V10, event.clone()).unwrap().redacts().unwrap(),
            "$top"
        );
        assert_eq!(parse(V11, event).unwrap().redacts().unwrap(), "$inside");
        let message = parse(V10, json!({ "redacts": "$top" })).unwrap();
        assert_eq!(message.redacts(), None, "only redactions redact");
    }

    #[test]
    fn an_invalid_event_is_an_error() {
        for changes in [
            json!({ "sender": "alice" }),
            json!({ "type": 1 }),
            json!({ "content": [] }),
            json!({ "depth": -1 }),
            json!({ "origin_server_ts": "1" }),
            json!({ "room_id": "r" }),
            json!({ "prev_events": [["$b", {}]] }),
            json!({ "auth_events": "absent" }),
        ] {
            parse(V12, changes.clone()).expect_err(&changes.to_string());
        }
    }
}
