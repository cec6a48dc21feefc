//! The JSON of a response, written room by room so that a long one is never whole in memory.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use serde::Serialize;
use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};
use smol::stream::{self, Stream};

use super::{
    request::{Request, SyncRange},
    rooms::{Candidate, MAX_ROOMS_PER_SNAPSHOT, RoomUpdate, Section, scan_updates},
    token::SyncToken,
};
use crate::{
    rooms::{Error, typing::Typing},
    store::Store,
};

/// The fields of a response beside `next_batch` and `rooms`. Events stay text: parsing and writing them
/// again could change them.
#[derive(Debug, Default)]
pub struct Fields(BTreeMap<&'static str, Box<RawValue>>);

impl Fields {
    pub fn put(&mut self, name: &'static str, value: &impl Serialize) -> Result<(), Error> {
        let value = to_raw_value(value);
        let value = value.map_err(|_| Error::not_serializable("a response"))?;
        self.0.insert(name, value);
        Ok(())
    }

    /// Adds an object whose `events` are these, unless there are none.
    pub fn put_events(
        &mut self,
        name: &'static str,
        events: &[impl Serialize],
    ) -> Result<(), Error> {
        if events.is_empty() {
            return Ok(());
        }
        self.put(name, &BTreeMap::from([("events", events)]))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Writes a response: [`begin`](Self::begin), each room in the order of the sections,
/// [`end`](Self::end).
#[derive(Debug, Default)]
pub struct ResponseWriter {
    section: Option<Section>,
}

impl ResponseWriter {
    /// The response up to its rooms.
    pub fn begin(next_batch: SyncToken, fields: &Fields) -> Vec<u8> {
        let mut text = format!(r#"{{"next_batch":"{next_batch}","#);
        for (name, value) in &fields.0 {
            text.push_str(&format!(r#""{name}":{value},"#));
        }
        text.push_str(r#""rooms":{"#);
        text.into_bytes()
    }

    pub fn room(&mut self, update: &RoomUpdate, out: &mut Vec<u8>) {
        if self.section == Some(update.section) {
            out.push(b',');
        } else {
            let close = if self.section.is_some() { "}," } else { "" };
            let name = update.section.name();
            out.extend_from_slice(format!(r#"{close}"{name}":{{"#).as_bytes());
            self.section = Some(update.section);
        }
        // Room ids may hold characters that JSON escapes.
        let room_id = Value::from(update.room_id.as_str());
        out.extend_from_slice(format!("{room_id}:{}", update.json).as_bytes());
    }

    /// The response after its rooms.
    pub fn end(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(if self.section.is_some() {
            b"}}}"
        } else {
            b"}}"
        });
    }
}

/// The rooms of a long response and its end. Each piece is read when the one before has been sent.
pub fn stream_rooms(
    store: Store,
    typing: Arc<Typing>,
    request: Arc<Request>,
    range: SyncRange,
    candidates: Vec<Candidate>,
) -> impl Stream<Item = Result<Vec<u8>, Error>> {
    let start = Some((ResponseWriter::default(), VecDeque::from(candidates)));
    stream::try_unfold(start, move |rest| {
        let (store, typing, request) = (store.clone(), typing.clone(), request.clone());
        async move {
            let Some((mut writer, mut candidates)) = rest else {
                return Ok(None);
            };
            let next = candidates.len().min(MAX_ROOMS_PER_SNAPSHOT);
            let next: Vec<Candidate> = candidates.drain(..next).collect();
            let mut out = Vec::new();
            if next.is_empty() {
                writer.end(&mut out);
                return Ok(Some((out, None)));
            }
            for update in scan_updates(&store, &typing, &request, range, next).await? {
                writer.room(&update, &mut out);
            }
            Ok(Some((out, Some((writer, candidates)))))
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json, value::to_raw_value};

    use super::{Fields, ResponseWriter};
    use crate::{
        store::Position,
        sync::{
            rooms::{RoomUpdate, Section},
            token::SyncToken,
        },
    };

    const TOKEN: SyncToken = SyncToken {
        position: Position(1),
        to_device: Position(0),
        instance: 2,
        ephemeral: 3,
    };

    fn written(rooms: &[(Section, &str)], fields: &Fields) -> Value {
        let mut out = ResponseWriter::begin(TOKEN, fields);
        let mut writer = ResponseWriter::default();
        for (section, room) in rooms {
            let room_id = (*room).try_into().expect("a room id");
            let json = to_raw_value(&json!({ "a": 1 })).expect("JSON");
            writer.room(
                &RoomUpdate {
                    section: *section,
                    room_id,
                    json,
                },
                &mut out,
            );
        }
        writer.end(&mut out);
        serde_json::from_slice(&out).expect("what is written is JSON")
    }

    #[test]
    fn a_response_without_rooms_is_complete_json() {
        let expected = json!({ "next_batch": TOKEN.to_string(), "rooms": {} });
        assert_eq!(written(&[], &Fields::default()), expected);
    }

    #[test]
    fn rooms_are_grouped_by_section_and_their_ids_are_escaped() {
        let rooms = [
            (Section::Join, "!a:b"),
            (Section::Join, "!\"c\\:d"),
            (Section::Leave, "!e:f"),
        ];
        let expected = json!({
            "next_batch": TOKEN.to_string(),
            "account_data": { "events": [1] },
            "rooms": {
                "join": { "!a:b": { "a": 1 }, "!\"c\\:d": { "a": 1 } },
                "leave": { "!e:f": { "a": 1 } },
            },
        });
        let mut fields = Fields::default();
        fields.put_events("account_data", &[1]).expect("JSON");
        assert_eq!(written(&rooms, &fields), expected);
    }
}
