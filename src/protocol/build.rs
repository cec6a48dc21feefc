//! Building an event of this server: complete, hash, sign.

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId,
    OwnedUserId, canonical_json::to_canonical_value, events::TimelineEventType,
    room_version_rules::RoomVersionRules,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    canonical_text::{normalized_text, strict_text},
    event_object::{EventObject, MAX_DEPTH, MAX_INTEGER},
    format::{FormatError, check, not_canonical},
    json::canonical_or_null,
    pdu::Pdu,
    reference::EventReference,
    server_key::ServerKey,
};

/// The parts of an event that its sender chooses.
#[derive(Clone, Debug)]
pub struct EventDraft {
    /// `None` for the create event of a room whose id is derived from it
    /// ([`room_id_from_create_event`]).
    pub room_id: Option<OwnedRoomId>,
    /// A user of this server, which signs the event.
    pub sender: OwnedUserId,
    pub event_type: TimelineEventType,
    pub state_key: Option<String>,
    /// From [`canonical_content`].
    pub content: CanonicalJsonObject,
    /// The content with numbers that canonical JSON forbids, which are null in `content`.
    pub text: Option<Box<RawValue>>,
    /// The target of an `m.room.redaction`; may also be in the content. [`build`] moves it to where the
    /// room version has it.
    pub redacts: Option<OwnedEventId>,
}

impl EventDraft {
    /// What push rules see of an event: numbers that canonical JSON forbids are null.
    pub fn from_pdu(pdu: &Pdu) -> Result<Self, FormatError> {
        let content = serde_json::from_str(pdu.content().get()).map_err(not_canonical)?;
        Ok(Self {
            room_id: Some(pdu.room_id().to_owned()),
            sender: pdu.sender().to_owned(),
            event_type: pdu.event_type().clone(),
            state_key: pdu.state_key().map(ToOwned::to_owned),
            content: canonical_content(&canonical_or_null(content))?,
            text: None,
            redacts: pdu.redacts().map(ToOwned::to_owned),
        })
    }
}

/// The parts of an event that follow from the room's history and the clock.
#[derive(Clone, Debug)]
pub struct EventPlace {
    /// The room's extremities, 20 at most.
    pub prev_events: Vec<EventReference>,
    /// The state events at the keys of [`auth_types`](super::authorize::auth_types).
    pub auth_events: Vec<EventReference>,
    /// One more than the largest depth of the previous events. The greatest depth of the room version is
    /// not exceeded.
    pub depth: u64,
    pub origin_server_ts: MilliSecondsSinceUnixEpoch,
}

#[derive(Clone, Debug)]
pub struct BuiltEvent {
    /// Canonical JSON with hash and signature, to store and to send.
    pub json: Vec<u8>,
    /// The same, parsed.
    pub pdu: Pdu,
}

/// Whether the room's id is derived from its create event, which then has no `room_id`.
///
/// Source: room version 12, "Event format".
pub fn room_id_from_create_event(rules: &RoomVersionRules) -> bool {
    rules.authorization.room_create_event_id_as_room_id
}

/// Converts a content to an object of canonical JSON.
///
/// Source: appendices, "Canonical JSON"; for clients a violation is `M_BAD_JSON` (room version 6).
pub fn canonical_content(
    content: &(impl Serialize + ?Sized),
) -> Result<CanonicalJsonObject, FormatError> {
    match to_canonical_value(content).map_err(not_canonical)? {
        CanonicalJsonValue::Object(object) => Ok(object),
        _ => Err(FormatError::Malformed(
            "`content` is not an object".to_owned(),
        )),
    }
}

/// As [`canonical_content`], but with null for each number that canonical JSON forbids. If there is any, also the
/// content with these numbers, as Synapse writes them: before room version 6, events may have them.
pub fn content_of_client(
    sent: &RawValue,
) -> Result<(CanonicalJsonObject, Option<Box<RawValue>>), FormatError> {
    let refused = match canonical_content(sent) {
        Ok(content) => return Ok((content, None)),
        Err(error) => error,
    };
    let Ok(text) = normalized_text(sent.get().as_bytes()) else {
        return Err(refused);
    };
    let value = serde_json::from_str(&text).map_err(not_canonical)?;
    let content = canonical_content(&canonical_or_null(value))?;
    let text = RawValue::from_string(text).map_err(not_canonical)?;
    Ok((content, Some(text)))
}

/// Builds the event. [`check_by_state`](super::authorize::check_by_state) authorizes it.
///
/// Source: server-server API, "Adding hashes and signatures to outgoing events".
pub fn build(
    draft: &EventDraft,
    place: &EventPlace,
    rules: &RoomVersionRules,
    key: &ServerKey,
) -> Result<BuiltEvent, FormatError> {
    let mut object = unsigned_event(draft, place, rules)?;
    let server = draft.sender.server_name();
    object.set_event_id(server, rules)?;
    object.hash_and_sign(server, key, rules)?;
    let json = check(&object, rules)?;
    let pdu = Pdu::parse(object.event_id(rules)?, &json, rules, false)?;
    Ok(BuiltEvent { json, pdu })
}

/// Completes the event template of a resident server: from it come the event's place in the room and,
/// for a join, `join_authorised_via_users_server`, all else from `draft`.
///
/// # Errors
/// [`FormatError::Malformed`] if the template names a user of this server in that field: the signature
/// on the event would be the authorization, which is not another server's to give.
///
/// Source: server-server API, "Joining Rooms", "Leaving Rooms", "Knocking upon a room".
pub fn build_from_template(
    template: &str,
    draft: &EventDraft,
    now: MilliSecondsSinceUnixEpoch,
    rules: &RoomVersionRules,
    key: &ServerKey,
) -> Result<BuiltEvent, FormatError> {
    #[derive(Deserialize)]
    struct Template<'a> {
        #[serde(borrow)]
        auth_events: &'a RawValue,
        #[serde(borrow)]
        prev_events: &'a RawValue,
        depth: u64,
        content: Content,
    }
    #[derive(Deserialize)]
    struct Content {
        #[serde(rename = "join_authorised_via_users_server")]
        via: Option<OwnedUserId>,
    }
    let template: Template<'_> = serde_json::from_str(template).map_err(not_canonical)?;
    let mut draft = draft.clone();
    let membership = draft.content.get("membership");
    let is_join = membership.and_then(CanonicalJsonValue::as_str) == Some("join");
    if let Some(via) = template.content.via.filter(|_| is_join) {
        if via.server_name() == draft.sender.server_name() {
            let error = "the template names a user of this server who authorizes the join";
            return Err(FormatError::Malformed(error.to_owned()));
        }
        let field = "join_authorised_via_users_server".to_owned();
        draft.content.insert(field, via.as_str().into());
    }
    let place = EventPlace {
        prev_events: EventReference::parse_list(template.prev_events, rules)?,
        auth_events: EventReference::parse_list(template.auth_events, rules)?,
        depth: template.depth,
        origin_server_ts: now,
    };
    build(&draft, &place, rules, key)
}

/// The template of an event for another server to complete, hash and sign.
///
/// Source: server-server API, `GET /_matrix/federation/v1/make_join/{roomId}/{userId}`.
pub fn template(built: &BuiltEvent, rules: &RoomVersionRules) -> Result<Vec<u8>, FormatError> {
    let mut object = EventObject::parse(&built.json, rules)?;
    for field in ["event_id", "hashes", "signatures"] {
        object.remove(field);
    }
    object.to_json()
}

fn unsigned_event(
    draft: &EventDraft,
    place: &EventPlace,
    rules: &RoomVersionRules,
) -> Result<EventObject, FormatError> {
    let mut content = draft.content.clone();
    let mut object = EventObject::new();
    if draft.event_type == TimelineEventType::RoomRedaction
        && let Some(redacts) = place_redacts(draft, &mut content, rules)
    {
        object.set("redacts", &redacts)?;
    }
    let max_depth = if rules.authorization.strict_canonical_json {
        MAX_INTEGER
    } else {
        MAX_DEPTH
    };
    object.set(
        "auth_events",
        &EventReference::list(&place.auth_events, rules)?,
    )?;
    match &draft.text {
        Some(text) if rules.authorization.strict_canonical_json => {
            strict_text(text.get().as_bytes()).map_err(not_canonical)?;
        }
        Some(text) => object.set("content", text)?,
        None => object.set("content", &content)?,
    }
    object.set("depth", &place.depth.min(max_depth))?;
    object.set("origin_server_ts", &place.origin_server_ts)?;
    object.set(
        "prev_events",
        &EventReference::list(&place.prev_events, rules)?,
    )?;
    object.set("sender", &draft.sender)?;
    object.set("type", &draft.event_type)?;
    if let Some(room_id) = &draft.room_id {
        object.set("room_id", room_id)?;
    }
    if let Some(state_key) = &draft.state_key {
        object.set("state_key", state_key)?;
    }
    Ok(object)
}

/// Source: room version 11, "Moving the `redacts` property"; client-server API,
/// `PUT /rooms/{roomId}/send/{eventType}/{txnId}`. Returns what stands beside the content.
fn place_redacts(
    draft: &EventDraft,
    content: &mut CanonicalJsonObject,
    rules: &RoomVersionRules,
) -> Option<CanonicalJsonValue> {
    let in_content = content.remove("redacts");
    let of_draft = draft.redacts.as_ref().map(|id| id.as_str().into());
    let redacts = of_draft.or(in_content)?;
    if !rules.redaction.content_field_redacts {
        return Some(redacts);
    }
    content.insert("redacts".to_owned(), redacts);
    None
}

#[cfg(test)]
mod tests {
    use ruma::{
        RoomVersionId, owned_event_id,
        room_version_rules::EventIdFormatVersion,
        signatures::{PublicKeyMap, Verified, verify_event},
    };
    use serde_json::{Value, json, value::RawValue};

    use super::{
        BuiltEvent, EventDraft, EventPlace, build, build_from_template, canonical_content,
    };
    use crate::protocol::{
        FormatError, ServerKey,
        format::MAX_EVENT_BYTES,
        history::{Action, History},
        versions,
    };

    const ALICE: &str = "@alice:a.example";

    fn draft(event_type: &str, content: Value) -> EventDraft {
        EventDraft {
            room_id: Some("!r:a.example".try_into().unwrap()),
            sender: ALICE.try_into().unwrap(),
            event_type: event_type.into(),
            state_key: None,
            content: canonical_content(&content).unwrap(),
            text: None,
            redacts: None,
        }
    }

    fn place() -> EventPlace {
        EventPlace {
            prev_events: vec![owned_event_id!("$prev:a.example").into()],
            auth_events: vec![owned_event_id!("$auth:a.example").into()],
            depth: 7,
            origin_server_ts: ruma::MilliSecondsSinceUnixEpoch(ruma::uint!(1000)),
        }
    }

    fn build_in(version: RoomVersionId, draft: &EventDraft) -> Result<BuiltEvent, FormatError> {
        let rules = versions::rules(&version).unwrap();
        build(draft, &place(), rules, &History::key("a.example"))
    }

    fn json_of(built: &BuiltEvent) -> Value {
        serde_json::from_slice(&built.json).unwrap()
    }

    fn message_of_size(bytes: usize) -> EventDraft {
        let empty = build_in(
            RoomVersionId::V12,
            &draft("m.room.message", json!({ "body": "" })),
        );
        let rest = empty.unwrap().json.len();
        draft(
            "m.room.message",
            json!({ "body": "x".repeat(bytes - rest) }),
        )
    }

    #[test]
    fn an_event_is_hashed_and_signed_and_its_id_is_its_reference_hash() {
        for version in versions::SUPPORTED {
            let built = build_in(
                version.clone(),
                &draft("m.room.message", json!({ "body": "hi" })),
            );
            let (built, rules) = (built.unwrap(), versions::rules(&version).unwrap());
            let key = History::key("a.example");
            let keys = [(key.id().to_string(), key.public_key())].into();
            let keys: PublicKeyMap = [("a.example".to_owned(), keys)].into();
            let object = serde_json::from_slice(&built.json).unwrap();
            assert_eq!(verify_event(&keys, &object, rules).unwrap(), Verified::All);
            assert_eq!(
                serde_json::to_vec(&object).unwrap(),
                built.json,
                "canonical"
            );
            let id = built.pdu.event_id();
            let hash = ruma::signatures::reference_hash(&object, rules).unwrap();
            if rules.event_id_format == EventIdFormatVersion::V1 {
                assert_eq!(object["event_id"].as_str(), Some(id.as_str()));
                assert_eq!(id.server_name().unwrap(), "a.example");
            } else {
                assert_eq!(id.as_str(), format!("${hash}"));
            }
        }
    }

    fn content_from_template(membership: &str, via: &str) -> Result<Value, FormatError> {
        let mut draft = draft("m.room.member", json!({ "membership": membership }));
        draft.state_key = Some(ALICE.to_owned());
        let template = json!({
            "auth_events": ["$auth"],
            "prev_events": ["$prev"],
            "depth": 7,
            "content": { "membership": membership, "join_authorised_via_users_server": via },
        });
        let rules = versions::rules(&RoomVersionId::V10).unwrap();
        let (now, key) = (place().origin_server_ts, History::key("a.example"));
        let built = build_from_template(&template.to_string(), &draft, now, rules, &key)?;
        Ok(json_of(&built)["content"].clone())
    }

    #[test]
    fn a_template_cannot_make_this_server_authorize_a_join() {
        for local in ["@bob:a.example", ALICE] {
            let refused = content_from_template("join", local);
            assert!(matches!(refused, Err(FormatError::Malformed(_))), "{local}");
        }
        let via = "@bob:b.example";
        let content = content_from_template("join", via).unwrap();
        let expected = json!({ "membership": "join", "join_authorised_via_users_server": via });
        assert_eq!(content, expected);
    }

    #[test]
    fn only_a_join_takes_the_user_who_authorizes_it_from_a_template() {
        for membership in ["knock", "leave"] {
            for via in ["@bob:a.example", "@bob:b.example"] {
                let content = content_from_template(membership, via).unwrap();
                assert_eq!(content, json!({ "membership": membership }));
            }
        }
    }

    #[test]
    fn building_is_deterministic() {
        let draft = draft("m.room.message", json!({ "body": "hi" }));
        let one = build_in(RoomVersionId::V12, &draft).unwrap();
        assert_eq!(one.json, build_in(RoomVersionId::V12, &draft).unwrap().json);
    }

    #[test]
    fn since_version_12_the_room_id_is_derived_from_the_create_event() {
        let room = History::new(&RoomVersionId::V12, ALICE);
        let create = room.create_event();
        assert!(
            json_of(&BuiltEvent {
                json: room.events[0].json.clone(),
                pdu: create.clone()
            })
            .get("room_id")
            .is_none()
        );
        assert_eq!(
            create.room_id().as_str()[1..],
            create.event_id().as_str()[1..]
        );
        assert!(create.room_id().as_str().starts_with('!'));
    }

    #[test]
    fn since_version_12_the_create_event_is_not_in_auth_events() {
        for version in versions::SUPPORTED {
            let mut room = History::new(&version, ALICE);
            let join = room.then(Action::join(ALICE));
            let auth_events = room.events[join].pdu.auth_events();
            assert_eq!(
                auth_events.is_empty(),
                version == RoomVersionId::V12,
                "{version}"
            );
        }
    }

    #[test]
    fn redacts_is_where_the_room_version_has_it() {
        let mut by_field = draft("m.room.redaction", json!({ "reason": "spam" }));
        by_field.redacts = Some("$target".try_into().unwrap());
        let by_content = draft(
            "m.room.redaction",
            json!({ "reason": "spam", "redacts": "$target" }),
        );
        for draft in [by_field, by_content] {
            let old = build_in(RoomVersionId::V10, &draft).unwrap();
            assert_eq!(json_of(&old)["redacts"], "$target");
            assert_eq!(json_of(&old)["content"], json!({ "reason": "spam" }));
            let new = build_in(RoomVersionId::V11, &draft).unwrap();
            assert!(json_of(&new).get("redacts").is_none());
            assert_eq!(json_of(&new)["content"]["redacts"], "$target");
            for built in [old, new] {
                assert_eq!(built.pdu.redacts().unwrap(), "$target");
            }
        }
    }

    #[test]
    fn an_event_may_have_65536_bytes_and_not_one_more() {
        let largest = build_in(RoomVersionId::V12, &message_of_size(MAX_EVENT_BYTES)).unwrap();
        assert_eq!(largest.json.len(), 65_536);
        let refused = build_in(RoomVersionId::V12, &message_of_size(MAX_EVENT_BYTES + 1));
        let expected = FormatError::TooLarge {
            what: "the event",
            bytes: 65_537,
            limit: MAX_EVENT_BYTES,
        };
        assert_eq!(refused.unwrap_err(), expected);
        let huge = build_in(RoomVersionId::V12, &message_of_size(2 * MAX_EVENT_BYTES));
        assert!(matches!(huge, Err(FormatError::TooLarge { .. })));
    }

    #[test]
    fn a_state_key_or_type_may_have_255_bytes_and_not_one_more() {
        let with = |kind: &str, key: &str| {
            let mut draft = draft(kind, json!({}));
            draft.state_key = Some(key.to_owned());
            build_in(RoomVersionId::V12, &draft).map(drop)
        };
        let (fits, long) = ("x".repeat(255), "x".repeat(256));
        with(&fits, &fits).unwrap();
        let too_large = |what| {
            Err(FormatError::TooLarge {
                what,
                bytes: 256,
                limit: 255,
            })
        };
        assert_eq!(with("m.type", &long), too_large("state_key"));
        assert_eq!(with(&long, ""), too_large("type"));
        // Bytes, not characters.
        with("m.type", &"ü".repeat(128)).unwrap_err();
    }

    #[test]
    fn too_many_previous_events_are_refused() {
        let place = EventPlace {
            prev_events: vec![owned_event_id!("$p").into(); 21],
            ..place()
        };
        let rules = versions::rules(&RoomVersionId::V12).unwrap();
        let key = ServerKey::generate();
        build(&draft("m.room.message", json!({})), &place, rules, &key).unwrap_err();
    }

    #[test]
    fn events_nested_too_deep_are_refused() {
        let rules = versions::rules(&RoomVersionId::V12).unwrap();
        let key = ServerKey::generate();
        // The event and its content are two levels.
        for (depth, is_refused) in [(98, false), (99, true)] {
            let nested = (0..depth).fold(json!(1), |inner, _| json!([inner]));
            let draft = draft("m.room.message", json!({ "nested": nested }));
            let built = build(&draft, &place(), rules, &key);
            assert_eq!(matches!(built, Err(FormatError::TooDeep)), is_refused);
        }
    }

    #[test]
    fn content_must_be_canonical_json() {
        for text in [
            r#"{"a":1.5}"#,
            r#"{"a":1e3}"#,
            r#"{"a":-0}"#,
            r#"{"a":[{"b":9007199254740992}]}"#,
            r#"{"a":-9007199254740992}"#,
            r#"{"a":100000000000000000000}"#,
        ] {
            let raw: &RawValue = serde_json::from_str(text).unwrap();
            let refused = canonical_content(raw).unwrap_err();
            assert!(
                matches!(refused, FormatError::NotCanonical(_)),
                "{text}: {refused}"
            );
        }
        let limits: &RawValue =
            serde_json::from_str(r#"{"b":-9007199254740991,"a":9007199254740991}"#).unwrap();
        assert_eq!(canonical_content(limits).unwrap().len(), 2);
    }

    #[test]
    fn content_must_be_an_object() {
        for value in [json!([]), json!("text"), json!(null)] {
            assert!(matches!(
                canonical_content(&value),
                Err(FormatError::Malformed(_))
            ));
        }
    }
}
