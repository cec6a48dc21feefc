//! Parsing and verifying a PDU of another server: steps 1 to 3 of "Checks performed on receipt of a
//! PDU" (server-server API).
//!
//! 1. [`Incoming::parse`] checks the format.
//! 2. The caller fetches the signing keys of [`Incoming::signers`]. [`Incoming::verify`] checks the
//!    signatures.
//! 3. It also checks the content hash, and redacts the event if that does not match.
//!
//! A PDU that fails 1 or 2 is dropped, not rejected.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, OwnedEventId, OwnedServerName, ServerName,
    room_version_rules::RoomVersionRules,
    signatures::{
        PublicKeyMap, Verified, required_server_signatures_to_verify_event, sign_json, verify_event,
    },
};
use serde_json::value::RawValue;

use super::{
    build::BuiltEvent,
    depth::{MAX_DEPTH, is_deeper_than, is_too_deep},
    format::{FormatError, check, check_received, event_id, not_canonical},
    json::object_without,
    pdu::Pdu,
    redact::redact_object,
    server_key::ServerKey,
};

/// A PDU with a valid format, whose signatures have not been checked.
#[derive(Clone, Debug)]
pub struct Incoming {
    event_id: OwnedEventId,
    object: CanonicalJsonObject,
    json: Vec<u8>,
    rules: &'static RoomVersionRules,
}

/// A PDU with valid signatures.
#[derive(Clone, Debug)]
pub struct Received {
    /// The bytes to store: canonical JSON without `unsigned`, which holds only at the sending server.
    pub json: Vec<u8>,
    /// The same, parsed.
    pub pdu: Pdu,
    /// Whether the content did not match its hash, so that the event was redacted.
    pub redacted: bool,
}

impl From<BuiltEvent> for Received {
    fn from(built: BuiltEvent) -> Self {
        Self {
            json: built.json,
            pdu: built.pdu,
            redacted: false,
        }
    }
}

/// A required signature is missing or invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not validly signed: {0}")]
pub struct SignatureError(String);

/// Why a PDU is dropped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiveError {
    #[error(transparent)]
    Format(#[from] FormatError),
    #[error(transparent)]
    Signature(#[from] SignatureError),
}

impl Incoming {
    /// Parses a PDU of a room with these rules and computes its id. A PDU that is nested deeper than
    /// [`MAX_DEPTH`] is redacted. `unsigned` is not read and does not count for size and depth: each server
    /// that relays the event has its own.
    ///
    /// Source: server-server API, "Checks performed on receipt of a PDU", 1.
    pub fn parse(json: &[u8], rules: &'static RoomVersionRules) -> Result<Self, FormatError> {
        let mut object = if is_too_deep(json) {
            parse_deep(json, rules)?
        } else {
            object_without(json, "unsigned").map_err(not_canonical)?
        };
        let json = check_received(&mut object, rules)?;
        Ok(Self {
            event_id: event_id(&object, rules)?,
            object,
            json,
            rules,
        })
    }

    pub fn event_id(&self) -> &EventId {
        &self.event_id
    }

    /// Canonical JSON without `unsigned`.
    pub fn json(&self) -> &[u8] {
        &self.json
    }

    /// The event, though its signatures have not been checked.
    pub fn unverified_pdu(&self) -> Result<Pdu, FormatError> {
        Pdu::parse(self.event_id.clone(), &self.json, self.rules, false)
    }

    /// The servers whose signatures the event needs.
    ///
    /// Source: server-server API, "Validating hashes and signatures on received events".
    pub fn signers(&self) -> Result<BTreeSet<OwnedServerName>, SignatureError> {
        required_server_signatures_to_verify_event(&self.object, &self.rules.signatures)
            .map_err(|error| SignatureError(error.to_string()))
    }

    /// Adds the signature of `server`, which authorizes a join or has received an invite.
    ///
    /// Source: server-server API, "Restricted rooms", "Inviting to a room".
    pub fn sign(&mut self, server: &ServerName, key: &ServerKey) -> Result<(), FormatError> {
        let mut redacted = self.object.clone();
        redact_object(&mut redacted, self.rules)?;
        sign_json(server.as_str(), key, &mut redacted)
            .map_err(|error| FormatError::Malformed(error.to_string()))?;
        self.object.extend(redacted.remove_entry("signatures"));
        self.json = check(&mut self.object, self.rules)?;
        Ok(())
    }

    /// The ids of the keys of the signatures by `server`, whether or not the keys are known.
    pub fn key_ids<'a>(&'a self, server: &str) -> impl Iterator<Item = &'a str> {
        let signatures = self
            .object
            .get("signatures")
            .and_then(|value| value.as_object());
        let keys = signatures
            .and_then(|of| of.get(server))
            .and_then(|value| value.as_object());
        keys.into_iter()
            .flat_map(|keys| keys.keys().map(String::as_str))
    }

    /// Whether keys must be valid at the event's `origin_server_ts`.
    ///
    /// Source: room version 5, "Signing key validity period".
    pub fn enforces_key_validity(&self) -> bool {
        self.rules.enforce_key_validity
    }

    /// The event ids in `field`: `auth_events` or `prev_events`.
    pub fn names(&self, field: &str) -> Vec<OwnedEventId> {
        let named = self.object.get(field).and_then(|value| value.as_array());
        let named = named.into_iter().flatten();
        named
            .filter_map(|id| OwnedEventId::try_from(id.as_str()?).ok())
            .collect()
    }

    pub fn origin_server_ts(&self) -> Option<i64> {
        Some(self.object.get("origin_server_ts")?.as_integer()?.into())
    }

    /// Checks signatures and content hash. `keys` has the keys that may sign this event, by server;
    /// signatures by other keys are ignored.
    ///
    /// Source: server-server API, "Validating hashes and signatures on received events".
    pub fn verify(mut self, keys: &PublicKeyMap) -> Result<Received, ReceiveError> {
        let verified = verify_event(keys, &self.object, self.rules)
            .map_err(|error| SignatureError(error.to_string()))?;
        let redacted = verified == Verified::Signatures;
        if redacted {
            redact_object(&mut self.object, self.rules)?;
            self.json = serde_json::to_vec(&self.object).map_err(not_canonical)?;
        }
        let pdu = Pdu::parse(self.event_id, &self.json, self.rules, false)?;
        Ok(Received {
            json: self.json,
            pdu,
            redacted,
        })
    }
}

/// Parses a PDU that is nested too deep, and redacts it unless only `unsigned` is too deep. Fields that are
/// too deep are left out; if redaction keeps such a field, the event id becomes another and the signatures do
/// not match.
fn parse_deep(json: &[u8], rules: &RoomVersionRules) -> Result<CanonicalJsonObject, FormatError> {
    type Fields<'a> = BTreeMap<String, &'a RawValue>;
    let parse = |fields: Fields<'_>, max_depth: usize| {
        let fields = fields.into_iter();
        let readable =
            fields.filter(|(_, value)| !is_deeper_than(max_depth, value.get().as_bytes()));
        let parsed = readable.map(|(name, value)| {
            let value: CanonicalJsonValue =
                serde_json::from_str(value.get()).map_err(not_canonical)?;
            Ok((name, value))
        });
        parsed.collect::<Result<CanonicalJsonObject, FormatError>>()
    };
    let mut fields: Fields<'_> = serde_json::from_slice(json).map_err(not_canonical)?;
    fields.remove("unsigned");
    let is_deep = |value: &&RawValue| is_deeper_than(MAX_DEPTH - 1, value.get().as_bytes());
    if !fields.values().any(is_deep) {
        return parse(fields, MAX_DEPTH);
    }
    let content = fields.remove("content").map_or("{}", RawValue::get);
    let content: Fields<'_> = serde_json::from_str(content).map_err(not_canonical)?;
    let mut object = parse(fields, MAX_DEPTH - 1)?;
    let content = parse(content, MAX_DEPTH - 2)?;
    object.insert("content".to_owned(), content.into());
    redact_object(&mut object, rules)?;
    Ok(object)
}

#[cfg(test)]
mod tests {
    use ruma::{
        RoomVersionId::*,
        signatures::{PublicKeyMap, hash_and_sign_event},
    };
    use serde_json::{Value, json};

    use super::{Incoming, ReceiveError};
    use crate::protocol::{
        FormatError,
        history::{Action, History},
        versions,
    };

    const ALICE: &str = "@alice:a.example";

    fn keys(server: &str) -> PublicKeyMap {
        let key = History::key(server);
        [(
            server.to_owned(),
            [(key.id().to_string(), key.public_key())].into(),
        )]
        .into()
    }

    /// A room of Alice's with a topic, and the topic event as JSON.
    fn topic(version: &ruma::RoomVersionId) -> (History, Value) {
        let mut room = History::public(version, ALICE);
        let topic = Action::state(ALICE, "m.room.topic", "", json!({ "topic": "birds" }));
        let index = room.then(topic);
        let json = serde_json::from_slice(&room.events[index].json).unwrap();
        (room, json)
    }

    #[test]
    fn every_event_of_a_room_is_received_unchanged() {
        for version in versions::SUPPORTED {
            let (room, _) = topic(&version);
            for event in &room.events {
                let incoming = Incoming::parse(&event.json, room.rules).unwrap();
                assert_eq!(incoming.event_id(), event.pdu.event_id());
                let servers: Vec<_> = incoming.signers().unwrap().into_iter().collect();
                assert_eq!(servers, ["a.example"]);
                assert_eq!(
                    incoming.key_ids("a.example").collect::<Vec<_>>(),
                    ["ed25519:test"]
                );
                assert_eq!(incoming.key_ids("b.example").count(), 0);
                let received = incoming.verify(&keys("a.example")).unwrap();
                assert!(!received.redacted);
                assert_eq!(received.json, event.json);
            }
        }
    }

    #[test]
    fn numbers_that_canonical_json_forbids_are_accepted_in_unsigned_only() {
        for version in versions::SUPPORTED {
            let (room, json) = topic(&version);
            let event = room.events.last().unwrap();
            let parse = |json: &Value| Incoming::parse(json.to_string().as_bytes(), room.rules);
            for number in [json!(0.5), json!(1_u64 << 53)] {
                let mut with_unsigned = json.clone();
                with_unsigned["unsigned"] = json!({ "age": number });
                let received = parse(&with_unsigned).unwrap().verify(&keys("a.example"));
                assert_eq!(received.unwrap().json, event.json);
                for field in ["depth", "origin_server_ts", "content"] {
                    let mut invalid = json.clone();
                    invalid[field] = number.clone();
                    parse(&invalid).unwrap_err();
                }
            }
        }
    }

    #[test]
    fn an_event_whose_content_does_not_match_its_hash_is_redacted() {
        let (room, mut json) = topic(&V12);
        json["content"]["topic"] = "fish".into();
        let incoming = Incoming::parse(json.to_string().as_bytes(), room.rules).unwrap();
        assert_eq!(
            incoming.event_id(),
            room.events.last().unwrap().pdu.event_id()
        );
        let received = incoming.verify(&keys("a.example")).unwrap();
        assert!(received.redacted);
        assert_eq!(received.pdu.content().get(), "{}");
    }

    #[test]
    fn an_event_changed_in_a_field_that_redaction_keeps_is_dropped() {
        let (room, mut json) = topic(&V12);
        json["state_key"] = "other".into();
        let incoming = Incoming::parse(json.to_string().as_bytes(), room.rules).unwrap();
        let dropped = incoming.verify(&keys("a.example")).unwrap_err();
        assert!(matches!(dropped, ReceiveError::Signature(_)), "{dropped}");
    }

    #[test]
    fn an_event_without_the_signature_of_its_server_is_dropped() {
        let (room, json) = topic(&V12);
        let incoming = Incoming::parse(json.to_string().as_bytes(), room.rules).unwrap();
        incoming.clone().verify(&keys("b.example")).unwrap_err();
        incoming.clone().verify(&PublicKeyMap::new()).unwrap_err();
        let mut wrong = keys("b.example");
        let keys = wrong.remove("b.example").unwrap();
        incoming
            .verify(&[("a.example".to_owned(), keys)].into())
            .unwrap_err();
    }

    #[test]
    fn a_join_through_a_restricted_rule_needs_the_signature_of_who_authorized_it_since_version_8() {
        let signers = |version| {
            let mut room = History::public(&version, ALICE);
            let content =
                json!({ "membership": "join", "join_authorised_via_users_server": "@c:c.example" });
            let join = Action::state("@bob:b.example", "m.room.member", "@bob:b.example", content);
            let index = room.append(&[room.events.len() - 1], join);
            let incoming = Incoming::parse(&room.events[index].json, room.rules).unwrap();
            incoming
                .signers()
                .unwrap()
                .into_iter()
                .map(|name| name.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(signers(V7), ["b.example"]);
        assert_eq!(signers(V8), ["b.example", "c.example"]);
    }

    #[test]
    fn unsigned_is_removed() {
        let (room, mut json) = topic(&V12);
        json["unsigned"] = json!({ "age": 1, "big": "x".repeat(70_000) });
        let incoming = Incoming::parse(json.to_string().as_bytes(), room.rules).unwrap();
        let received = incoming.verify(&keys("a.example")).unwrap();
        assert!(!received.redacted);
        assert_eq!(received.json, room.events.last().unwrap().json);
    }

    #[test]
    fn malformed_events_are_dropped() {
        let (room, json) = topic(&V12);
        let parse = |json: &Value| Incoming::parse(json.to_string().as_bytes(), room.rules);
        let mut large = json.clone();
        large["content"]["body"] = "x".repeat(65_536).into();
        assert!(matches!(parse(&large), Err(FormatError::TooLarge { .. })));
        let mut float = json.clone();
        float["content"]["body"] = json!(0.5);
        assert!(matches!(parse(&float), Err(FormatError::NotCanonical(_))));
        for (field, value) in [
            ("sender", json!(1)),
            ("type", json!(null)),
            ("depth", json!(-1)),
            ("auth_events", json!(vec!["$x"; 11])),
            ("prev_events", json!({})),
            ("room_id", json!("x".repeat(256))),
            ("auth_events", json!([["$x", {}]])),
        ] {
            let mut broken = json.clone();
            broken[field] = value;
            parse(&broken).expect_err(field);
        }
        for text in ["", "[]", "1", "{", "{}"] {
            Incoming::parse(text.as_bytes(), room.rules).expect_err(text);
        }
    }

    #[test]
    fn an_event_nested_too_deep_is_redacted_and_keeps_its_id() {
        for version in versions::SUPPORTED {
            let (room, json) = topic(&version);
            let id = room.events.last().unwrap().pdu.event_id();
            let content = json["content"].to_string();
            for depth in [99, 120, 5000] {
                let nested = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
                let deep = format!(r#"{{"deep":{nested},{}"#, &content[1..]);
                let json = json.to_string().replace(&content, &deep);
                let incoming = Incoming::parse(json.as_bytes(), room.rules).unwrap();
                assert_eq!(incoming.event_id(), id);
                let received = incoming.verify(&keys("a.example")).unwrap();
                assert!(received.redacted);
                assert_eq!(received.pdu.content().get(), "{}", "version {version}");
            }
        }
    }

    #[test]
    fn an_event_whose_unsigned_is_nested_too_deep_is_not_redacted() {
        let (room, json) = topic(&V12);
        let nested = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
        let json = format!(r#"{{"unsigned":{nested},{}"#, &json.to_string()[1..]);
        let incoming = Incoming::parse(json.as_bytes(), room.rules).unwrap();
        assert!(!incoming.verify(&keys("a.example")).unwrap().redacted);
    }

    #[test]
    fn an_event_that_is_too_deep_even_when_redacted_is_refused() {
        for version in versions::SUPPORTED {
            let (room, mut json) = topic(&version);
            json["type"] = json!("m.room.power_levels");
            // Two levels around it.
            for (depth, is_received) in [(98, true), (99, false), (119, false)] {
                let nested = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
                json["content"] =
                    json!({ "users": serde_json::from_str::<Value>(&nested).unwrap() });
                let object = serde_json::from_value(json.clone()).unwrap();
                let mut object: ruma::CanonicalJsonObject = object;
                let key = History::key("a.example");
                hash_and_sign_event("a.example", &key, &mut object, &room.rules.redaction).unwrap();
                let signed = serde_json::to_vec(&object).unwrap();
                let incoming = Incoming::parse(&signed, room.rules);
                let verified = incoming.map(|incoming| incoming.verify(&keys("a.example")));
                let verified = matches!(verified, Ok(Ok(_)));
                assert_eq!(verified, is_received, "version {version}, depth {depth}");
            }
        }
    }

    #[test]
    fn random_histories_handed_in_by_peers_are_received_and_judged_as_they_were_made() {
        let keys: PublicKeyMap = ["a.example", "b.example", "c.example"]
            .into_iter()
            .flat_map(keys)
            .collect();
        for version in versions::SUPPORTED {
            let room = History::random(&version, 5, 50);
            for event in &room.events {
                let incoming = Incoming::parse(&event.json, room.rules).unwrap();
                let received = incoming.verify(&keys).unwrap();
                assert!(!received.redacted);
                assert_eq!(received.pdu.event_id(), event.pdu.event_id());
                let allowed = room.allows(&received.pdu, &event.state_before).is_ok();
                assert_eq!(allowed, !event.pdu.rejected(), "version {version}");
            }
        }
    }

    #[test]
    fn since_version_12_the_create_event_must_not_be_cited() {
        let (room, mut json) = topic(&V12);
        let create = room.create_event().event_id().as_str();
        json["auth_events"]
            .as_array_mut()
            .unwrap()
            .push(create.into());
        let refused = Incoming::parse(json.to_string().as_bytes(), room.rules);
        assert!(matches!(refused, Err(FormatError::Malformed(_))));
    }
}
