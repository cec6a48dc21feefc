//! The contents of EDUs (server-server API, "EDUs"). Where one has entries of several users or devices, an
//! invalid entry is dropped alone, as in Synapse: ruma's types refuse all of them.

use std::collections::BTreeMap;

use ruma::{
    OwnedEventId, OwnedRoomId, OwnedTransactionId, OwnedUserId, UInt,
    api::federation::transactions::edu::{
        DeviceListUpdateContent, DirectDeviceContent, Edu, SigningKeyUpdateContent, TypingContent,
    },
    events::{ToDeviceEventType, receipt::Receipt},
    presence::PresenceState,
    serde::Raw,
};
use serde::{
    Deserialize,
    de::{DeserializeOwned, IntoDeserializer, value::Error as KeyError},
};
use serde_json::{Error, from_str, value::RawValue};

use crate::users::to_device;

/// An EDU without its invalid entries.
#[derive(Debug)]
pub enum ReceivedEdu {
    Presence(Vec<ReceivedPresence>),
    Receipts(Vec<ReceivedReceipt>),
    Typing(TypingContent),
    DeviceListUpdate(DeviceListUpdateContent),
    DirectToDevice(DirectDeviceContent),
    SigningKeyUpdate(SigningKeyUpdateContent),
}

#[derive(Debug, Deserialize)]
pub struct ReceivedPresence {
    pub user_id: OwnedUserId,
    pub presence: PresenceState,
    pub status_msg: Option<String>,
    /// NOTSPEC: optional. Synapse leaves it out for users who have never been active.
    pub last_active_ago: Option<UInt>,
}

/// An `m.read` receipt.
#[derive(Debug)]
pub struct ReceivedReceipt {
    pub room: OwnedRoomId,
    pub user: OwnedUserId,
    pub event: OwnedEventId,
    pub data: Receipt,
}

impl ReceivedEdu {
    /// `None` if the type is unknown.
    ///
    /// # Errors
    /// If the EDU is invalid beyond its entries.
    pub fn parse(edu: &Raw<Edu>) -> Result<Option<Self>, Error> {
        #[derive(Deserialize)]
        struct Envelope<'a> {
            edu_type: String,
            #[serde(borrow)]
            content: &'a RawValue,
        }
        let Envelope { edu_type, content } = from_str(edu.json().get())?;
        let json = content.get();
        Ok(Some(match &*edu_type {
            "m.presence" => Self::Presence(presence(json)?),
            "m.receipt" => Self::Receipts(receipts(content)?),
            "m.typing" => Self::Typing(from_str(json)?),
            "m.device_list_update" => Self::DeviceListUpdate(from_str(json)?),
            "m.direct_to_device" => Self::DirectToDevice(direct_to_device(json)?),
            "m.signing_key_update" => Self::SigningKeyUpdate(from_str(json)?),
            _ => return Ok(None),
        }))
    }
}

fn presence(json: &str) -> Result<Vec<ReceivedPresence>, Error> {
    #[derive(Deserialize)]
    struct Content<'a> {
        #[serde(borrow)]
        push: Vec<&'a RawValue>,
    }
    let content: Content<'_> = from_str(json)?;
    let updates = content.push.into_iter();
    Ok(updates
        .filter_map(|update| from_str(update.get()).ok())
        .collect())
}

fn receipts(content: &RawValue) -> Result<Vec<ReceivedReceipt>, Error> {
    #[derive(Deserialize)]
    struct OfRoom<'a> {
        #[serde(borrow, rename = "m.read")]
        read: &'a RawValue,
    }
    #[derive(Deserialize)]
    struct OfUser {
        data: Receipt,
        event_ids: Vec<OwnedEventId>,
    }
    let mut receipts = Vec::new();
    for (room, OfRoom { read }) in entries::<OwnedRoomId, OfRoom<'_>>(content)? {
        let of_users = entries::<OwnedUserId, OfUser>(read).unwrap_or_default();
        for (user, OfUser { data, event_ids }) in of_users {
            // More than one would be receipts for parallel branches of the room.
            let Some(event) = event_ids.into_iter().next() else {
                continue;
            };
            let room = room.clone();
            receipts.push(ReceivedReceipt {
                room,
                user,
                event,
                data,
            });
        }
    }
    Ok(receipts)
}

fn direct_to_device(json: &str) -> Result<DirectDeviceContent, Error> {
    #[derive(Deserialize)]
    struct Content<'a> {
        sender: OwnedUserId,
        #[serde(rename = "type")]
        kind: ToDeviceEventType,
        message_id: OwnedTransactionId,
        #[serde(borrow)]
        messages: &'a RawValue,
    }
    let content: Content<'_> = from_str(json)?;
    let mut parsed = DirectDeviceContent::new(content.sender, content.kind, content.message_id);
    for (user, of_user) in entries::<_, &RawValue>(content.messages)? {
        let mut messages: BTreeMap<_, _> =
            entries(of_user).unwrap_or_default().into_iter().collect();
        messages.retain(|_, message| to_device::normalize(message).is_ok());
        parsed.messages.insert(user, messages);
    }
    Ok(parsed)
}

/// The entries of `object` whose key is a `K` and whose value is a `V`.
fn entries<'a, K: DeserializeOwned, V: Deserialize<'a>>(
    object: &'a RawValue,
) -> Result<Vec<(K, V)>, Error> {
    let entries: BTreeMap<String, &RawValue> = from_str(object.get())?;
    let entries = entries.into_iter().filter_map(|(key, value)| {
        let key = K::deserialize(IntoDeserializer::<KeyError>::into_deserializer(key));
        Some((key.ok()?, from_str(value.get()).ok()?))
    });
    Ok(entries.collect())
}

#[cfg(test)]
mod tests {
    use ruma::serde::Raw;
    use serde_json::{Value, json, value::to_raw_value};

    use super::ReceivedEdu;

    fn parse(edu_type: &str, content: &Value) -> Option<ReceivedEdu> {
        let edu = json!({ "edu_type": edu_type, "content": content });
        let edu = Raw::from_json(to_raw_value(&edu).expect("JSON"));
        ReceivedEdu::parse(&edu).ok().flatten()
    }

    #[test]
    fn invalid_presence_updates_are_dropped_alone_and_last_active_ago_is_optional() {
        let update = |user: &str| json!({ "user_id": user, "presence": "online" });
        let mut active = update("@b:x");
        active["last_active_ago"] = json!(5);
        let mut malformed = update("@c:x");
        malformed["last_active_ago"] = json!("5");
        let push = json!([update("@a:x"), update("nobody"), 7, malformed, active]);
        let parsed = parse("m.presence", &json!({ "push": push }));
        let Some(ReceivedEdu::Presence(updates)) = parsed else {
            panic!("{parsed:?}");
        };
        let updates: Vec<_> = updates
            .iter()
            .map(|update| (update.user_id.as_str(), update.last_active_ago))
            .collect();
        assert_eq!(updates, [("@a:x", None), ("@b:x", Some(5_u8.into()))]);
    }

    #[test]
    fn invalid_receipts_are_dropped_alone() {
        let receipt = json!({ "data": { "ts": 1 }, "event_ids": ["$e"] });
        let parsed = parse(
            "m.receipt",
            &json!({
                "no room": { "m.read": { "@a:x": receipt } },
                "!r:x": { "m.read": {
                    "@a:x": receipt,
                    "nobody": receipt,
                    "@b:x": { "data": { "ts": "1" }, "event_ids": ["$e"] },
                    "@c:x": { "data": { "ts": 1 }, "event_ids": [] },
                    "@d:x": { "data": {}, "event_ids": ["$f"] },
                } },
                "!s:x": { "org.example.read": {} },
                "!t:x": { "m.read": 1 },
                "!u:x": { "m.read": { "@a:x": receipt } },
            }),
        );
        let Some(ReceivedEdu::Receipts(receipts)) = parsed else {
            panic!("{parsed:?}");
        };
        let receipts: Vec<_> = receipts
            .iter()
            .map(|receipt| (receipt.room.as_str(), receipt.user.as_str()))
            .collect();
        assert_eq!(
            receipts,
            [("!r:x", "@a:x"), ("!r:x", "@d:x"), ("!u:x", "@a:x")]
        );
    }

    #[test]
    fn invalid_to_device_messages_are_dropped_alone() {
        let parsed = parse(
            "m.direct_to_device",
            &json!({
                "sender": "@a:x", "type": "org.example", "message_id": "1",
                "messages": {
                    "nobody": { "D": {} },
                    "@b:x": 5,
                    "@c:x": { "D": { "n": 1 }, "E": 5, "*": {} },
                },
            }),
        );
        let Some(ReceivedEdu::DirectToDevice(content)) = parsed else {
            panic!("{parsed:?}");
        };
        let messages = serde_json::to_value(&content.messages).expect("JSON");
        assert_eq!(messages["@c:x"], json!({ "D": { "n": 1 }, "*": {} }));
        assert!(messages.get("nobody").is_none(), "{messages}");
    }
}
