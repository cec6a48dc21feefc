//! Redaction.

use ruma::room_version_rules::RoomVersionRules;

use super::{event_object::EventObject, format::FormatError};

/// Redacts a stored event. The result is canonical JSON with the same event id and valid signatures.
///
/// Source: room versions, "Redactions"; client-server API, "Redactions".
pub fn redact(json: &[u8], rules: &RoomVersionRules) -> Result<Vec<u8>, FormatError> {
    let mut object = EventObject::parse(json, rules)?;
    object.redact(rules)?;
    object.to_json()
}

#[cfg(test)]
mod tests {
    use ruma::RoomVersionId;
    use serde_json::{Value, json};

    use super::redact;
    use crate::protocol::versions;

    fn redacted(version: RoomVersionId, event: Value) -> Value {
        let rules = versions::rules(&version).unwrap();
        serde_json::from_slice(&redact(event.to_string().as_bytes(), rules).unwrap()).unwrap()
    }

    fn content_of(version: RoomVersionId, event_type: &str, content: Value) -> Value {
        redacted(version, json!({ "type": event_type, "content": content }))["content"].take()
    }

    #[test]
    fn a_message_loses_its_content_and_unknown_fields() {
        let event = json!({
            "type": "m.room.message", "content": { "body": "hello" }, "sender": "@a:b",
            "room_id": "!r:b", "origin": "b", "unsigned": { "age": 1 }, "what": 1,
            "hashes": { "sha256": "x" }, "signatures": {}, "depth": 1, "prev_events": [],
            "auth_events": [], "origin_server_ts": 1,
        });
        let mut expected = event.clone();
        expected["content"] = json!({});
        for field in ["what", "unsigned"] {
            expected.as_object_mut().unwrap().remove(field);
        }
        assert_eq!(redacted(RoomVersionId::V10, event.clone()), expected);

        // Since version 11.
        expected.as_object_mut().unwrap().remove("origin");
        assert_eq!(redacted(RoomVersionId::V11, event), expected);
    }

    #[test]
    fn until_version_5_aliases_are_kept() {
        let content = json!({ "aliases": ["#a:b"], "other": 0.5 });
        let kept = |version| content_of(version, "m.room.aliases", content.clone());
        assert_eq!(kept(RoomVersionId::V1), json!({ "aliases": ["#a:b"] }));
        assert_eq!(kept(RoomVersionId::V5), json!({ "aliases": ["#a:b"] }));
    }

    #[test]
    fn since_version_11_a_create_event_keeps_its_content() {
        let content = json!({ "creator": "@a:b", "room_version": "10", "m.federate": false });
        let kept = |version| content_of(version, "m.room.create", content.clone());
        assert_eq!(kept(RoomVersionId::V10), json!({ "creator": "@a:b" }));
        assert_eq!(kept(RoomVersionId::V11), content);
        assert_eq!(kept(RoomVersionId::V12), content);
    }

    #[test]
    fn since_version_11_a_redaction_keeps_what_it_redacts() {
        let content = json!({ "redacts": "$a", "reason": "spam" });
        let kept = |version| content_of(version, "m.room.redaction", content.clone());
        assert_eq!(kept(RoomVersionId::V10), json!({}));
        assert_eq!(kept(RoomVersionId::V11), json!({ "redacts": "$a" }));
    }

    #[test]
    fn since_version_11_power_levels_keep_the_invite_level() {
        let content = json!({ "invite": 50, "ban": 50, "notifications": { "room": 50 } });
        let kept = |version| content_of(version, "m.room.power_levels", content.clone());
        assert_eq!(kept(RoomVersionId::V10), json!({ "ban": 50 }));
        assert_eq!(kept(RoomVersionId::V11), json!({ "ban": 50, "invite": 50 }));
    }

    #[test]
    fn join_rules_keep_who_is_allowed_since_version_8() {
        let content = json!({ "join_rule": "restricted", "allow": [], "other": 1 });
        let kept = |version| content_of(version, "m.room.join_rules", content.clone());
        assert_eq!(
            kept(RoomVersionId::V7),
            json!({ "join_rule": "restricted" })
        );
        assert_eq!(
            kept(RoomVersionId::V8),
            json!({ "join_rule": "restricted", "allow": [] })
        );
    }

    #[test]
    fn members_keep_what_authorizes_them() {
        let content = json!({
            "membership": "join", "displayname": "A", "join_authorised_via_users_server": "@c:d",
            "third_party_invite": { "display_name": "x", "signed": { "token": "t" } },
        });
        let kept = |version| content_of(version, "m.room.member", content.clone());
        assert_eq!(kept(RoomVersionId::V8), json!({ "membership": "join" }));
        let since_9 = json!({ "membership": "join", "join_authorised_via_users_server": "@c:d" });
        assert_eq!(kept(RoomVersionId::V9), since_9);
        let since_11 = json!({
            "membership": "join", "join_authorised_via_users_server": "@c:d",
            "third_party_invite": { "signed": { "token": "t" } },
        });
        assert_eq!(kept(RoomVersionId::V11), since_11);
    }
}
