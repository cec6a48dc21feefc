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
    EventId, OwnedEventId, OwnedServerName, ServerName, room_version_rules::RoomVersionRules,
    signatures::PublicKeyMap,
};
use serde_json::value::{RawValue, to_raw_value};

use super::{
    build::BuiltEvent,
    depth::{MAX_DEPTH, is_deeper_than, is_too_deep},
    event_object::EventObject,
    format::{FormatError, check, check_received, not_canonical},
    pdu::Pdu,
    reference::EventReference,
    server_key::ServerKey,
};

/// A PDU with a valid format, whose signatures have not been checked.
#[derive(Clone, Debug)]
pub struct Incoming {
    event_id: OwnedEventId,
    object: EventObject,
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
        let object = if is_too_deep(json) {
            parse_deep(json, rules)?
        } else {
            EventObject::parse(json, rules)?
        };
        let json = check_received(&object, rules)?;
        Ok(Self {
            event_id: object.event_id(rules)?,
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
        let signers = self.object.signers(self.rules);
        let signers = signers.map_err(|error| SignatureError(error.to_string()))?;
        Ok(signers.collect())
    }

    /// Adds the signature of `server`, which authorizes a join or has received an invite.
    ///
    /// Source: server-server API, "Restricted rooms", "Inviting to a room".
    pub fn sign(&mut self, server: &ServerName, key: &ServerKey) -> Result<(), FormatError> {
        self.object.sign(server, key, self.rules)?;
        self.json = check(&self.object, self.rules)?;
        Ok(())
    }

    /// The ids of the keys of the signatures by `server`, whether or not the keys are known.
    pub fn key_ids(&self, server: &str) -> impl Iterator<Item = String> + use<> {
        self.object.signatures(server).into_keys()
    }

    /// Whether keys must be valid at the event's `origin_server_ts`.
    ///
    /// Source: room version 5, "Signing key validity period".
    pub fn enforces_key_validity(&self) -> bool {
        self.rules.enforce_key_validity
    }

    /// The event ids in `field`: `auth_events` or `prev_events`.
    pub fn names(&self, field: &str) -> Vec<OwnedEventId> {
        let named: Option<&RawValue> = self.object.get(field);
        let named = named.and_then(|json| EventReference::parse_list(json, self.rules).ok());
        let named = named.into_iter().flatten();
        named.map(|reference| reference.id).collect()
    }

    pub fn origin_server_ts(&self) -> Option<i64> {
        self.object.get("origin_server_ts")
    }

    /// Checks signatures and content hash. `keys` has the keys that may sign this event, by server;
    /// signatures by other keys are ignored.
    ///
    /// Source: server-server API, "Validating hashes and signatures on received events".
    pub fn verify(mut self, keys: &PublicKeyMap) -> Result<Received, ReceiveError> {
        let matches_hash = self.object.verify(keys, self.rules);
        let redacted = !matches_hash.map_err(SignatureError)?;
        if redacted {
            self.object.redact(self.rules)?;
            self.json = self.object.to_json()?;
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
fn parse_deep(json: &[u8], rules: &RoomVersionRules) -> Result<EventObject, FormatError> {
    type Fields<'a> = BTreeMap<String, &'a RawValue>;
    let drop_deeper = |fields: &mut Fields<'_>, max_depth: usize| {
        fields.retain(|_, value| !is_deeper_than(max_depth, value.get().as_bytes()));
    };
    let mut fields: Fields<'_> = serde_json::from_slice(json).map_err(not_canonical)?;
    fields.remove("unsigned");
    let is_deep = |value: &&RawValue| is_deeper_than(MAX_DEPTH - 1, value.get().as_bytes());
    if !fields.values().any(is_deep) {
        return EventObject::from_fields(fields, rules);
    }
    let content = fields.remove("content").map_or("{}", RawValue::get);
    let mut content: Fields<'_> = serde_json::from_str(content).map_err(not_canonical)?;
    drop_deeper(&mut content, MAX_DEPTH - 2);
    drop_deeper(&mut fields, MAX_DEPTH - 1);
    let content = to_raw_value(&content).map_err(not_canonical)?;
    fields.insert("content".to_owned(), &content);
    let mut object = EventObject::from_fields(fields, rules)?;
    object.redact(rules)?;
    Ok(object)
}

#[cfg(test)]
mod tests {
    use ruma::{
        CanonicalJsonObject,
        RoomVersionId::{self, *},
        ServerName,
        canonical_json::redact,
        signatures::{PublicKeyMap, Verified, hash_and_sign_event, verify_event},
    };
    use serde_json::{Value, json};

    use super::{EventObject, Incoming, ReceiveError};
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
    fn since_version_6_numbers_that_canonical_json_forbids_are_accepted_in_unsigned_only() {
        for version in versions::SUPPORTED {
            let (room, json) = topic(&version);
            if !room.rules.authorization.strict_canonical_json {
                continue;
            }
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

    /// An event that Synapse made, in the versions whose ids differ: the id, the content hash, the signature.
    const WITH_FLOATS: [(RoomVersionId, &str, &str, &str); 3] = [
        (
            V1,
            "$1432735824:a.example",
            "q6HZprnV4nusRqfhcPQeqY8lKDXre8m8O9KB4IQ8lXc",
            "iE220c38nTiJwDLwm3AtpvGGjvjZwGKUv2Mr92IUpFuytZgfPLnzdBYW/b0BsoGuj6jKOpTtnE3cLpw3KwdcBw",
        ),
        (
            V3,
            "$o5M/FUjWWHRfrTDCO1EHfX/iw3QdlDL3Hw/P5fiXIfg",
            "onaiuESZtUxGLiBrv/KG3VlpOLkn0wDg5gAnMP5/jOc",
            "VRApAdibaBoqD2lqx9ig4Tzs0cs0ZgyfYGpLKisofyJKHz8VUohm4zxxs8yzQJ4+gLilPntbGhAd3ksJoi1xCQ",
        ),
        (
            V5,
            "$o5M_FUjWWHRfrTDCO1EHfX_iw3QdlDL3Hw_P5fiXIfg",
            "onaiuESZtUxGLiBrv/KG3VlpOLkn0wDg5gAnMP5/jOc",
            "VRApAdibaBoqD2lqx9ig4Tzs0cs0ZgyfYGpLKisofyJKHz8VUohm4zxxs8yzQJ4+gLilPntbGhAd3ksJoi1xCQ",
        ),
    ];

    fn with_floats(version: &RoomVersionId, id: &str, hash: &str, signature: &str) -> String {
        let id = match *version {
            V1 => format!(r#""event_id":"{id}","#),
            _ => String::new(),
        };
        let content = r#"{"body":"here","geo":[52.5200066,-0.0,1e-07,1e+22,0.1],"m":9007199254740993,"n":36893488147419103232}"#;
        format!(
            r#"{{"auth_events":[],"content":{content},"depth":4611686018427387904,{id}"hashes":{{"sha256":"{hash}"}},"origin":"a.example","origin_server_ts":1432735824653,"prev_events":[],"room_id":"!room:a.example","sender":"@alice:a.example","signatures":{{"a.example":{{"ed25519:test":"{signature}"}}}},"type":"m.room.message"}}"#
        )
    }

    #[test]
    fn until_version_5_floats_and_large_numbers_stay_as_they_were_signed() {
        for (version, id, hash, signature) in WITH_FLOATS {
            let json = with_floats(&version, id, hash, signature);
            let rules = versions::rules(&version).unwrap();
            let parse = |json: &str| Incoming::parse(json.as_bytes(), rules).unwrap();
            assert_eq!(parse(&json).event_id(), id);
            let received = parse(&json).verify(&keys("a.example")).unwrap();
            assert!(!received.redacted);
            assert_eq!(received.json, json.as_bytes());
            assert_eq!(received.pdu.depth(), 1 << 62);

            let changed = parse(&json.replace("0.1]", "0.10]"));
            assert!(changed.verify(&keys("a.example")).unwrap().redacted);
            let changed = parse(&json.replace("4611686018427387904", "4611686018427387905"));
            changed.verify(&keys("a.example")).unwrap_err();
            let too_deep = json.replace("4611686018427387904", "9223372036854775808");
            Incoming::parse(too_deep.as_bytes(), rules).unwrap_err();
            let infinite = json.replace("1e+22", "1e+400");
            Incoming::parse(infinite.as_bytes(), rules).unwrap_err();
            let strict = versions::rules(&V6).unwrap();
            Incoming::parse(json.as_bytes(), strict).unwrap_err();
        }
    }

    #[test]
    fn until_version_2_the_server_in_the_event_id_must_have_signed() {
        let (room, mut json) = topic(&V2);
        json["event_id"] = "$1:b.example".into();
        for field in ["hashes", "signatures"] {
            json.as_object_mut().unwrap().remove(field);
        }
        let mut object = EventObject::parse(json.to_string().as_bytes(), room.rules).unwrap();
        let both: PublicKeyMap = ["a.example", "b.example"]
            .into_iter()
            .flat_map(keys)
            .collect();
        for (server, is_received) in [("a.example", false), ("b.example", true)] {
            let name = ServerName::parse(server).unwrap();
            let key = History::key(server);
            object.hash_and_sign(&name, &key, room.rules).unwrap();
            let incoming = Incoming::parse(&object.to_json().unwrap(), room.rules).unwrap();
            assert_eq!(incoming.event_id(), "$1:b.example");
            assert_eq!(incoming.verify(&both).is_ok(), is_received);
        }
        for id in [json!("$1"), json!(1), json!(null)] {
            json["event_id"] = id;
            Incoming::parse(json.to_string().as_bytes(), room.rules).unwrap_err();
        }
    }

    #[test]
    fn events_are_hashed_and_checked_as_ruma_does_it() {
        for version in versions::SUPPORTED {
            let room = History::random(&version, 3, 30);
            let keys: PublicKeyMap = ["a.example", "b.example", "c.example"]
                .into_iter()
                .flat_map(keys)
                .collect();
            for event in &room.events {
                let object: CanonicalJsonObject = serde_json::from_slice(&event.json).unwrap();
                let verified = verify_event(&keys, &object, room.rules).unwrap();
                assert_eq!(verified, Verified::All);
                let redacted = redact(object, &room.rules.redaction, None).unwrap();
                let own = crate::protocol::redact::redact(&event.json, room.rules).unwrap();
                assert_eq!(own, serde_json::to_vec(&redacted).unwrap());
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
