//! The JSON of a response, written piece by piece so that a long one is never whole in memory.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use serde::Serialize;
use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};

use super::{
    account_data,
    request::{Request, SyncRange},
    room_update::Content,
    rooms::{self, Candidate, RoomUpdate, Section},
    state::StateEvents,
    token::SyncToken,
};
use crate::{
    rooms::{Error, typing::Typing},
    store::{PIECE_BYTES, Pieces, RoomNum, Snapshot},
    users,
};

/// How many rooms are read from one snapshot.
const MAX_ROOMS_PER_PIECE: usize = 16;

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

    /// As an object of its own.
    pub fn to_json(&self) -> Result<Box<RawValue>, Error> {
        let json = to_raw_value(&self.0);
        json.map_err(|_| Error::not_serializable("a response"))
    }
}

/// What of a response has not been written yet.
#[derive(Debug)]
pub struct Unwritten {
    sources: Sources,
    parts: VecDeque<Part>,
    section: Option<Section>,
}

#[derive(Debug)]
enum Part {
    Text(Vec<u8>),
    /// The event with the account data of this type, of a room or global.
    AccountData(RoomNum, String),
    Rooms(VecDeque<Candidate>),
    Room(RoomUpdate),
    State {
        events: Box<StateEvents>,
        /// Whether the next one comes after a comma.
        follows: bool,
    },
}

/// What is read to write a response.
#[derive(Debug)]
pub struct Sources {
    pub typing: Arc<Typing>,
    pub request: Arc<Request>,
    pub range: SyncRange,
}

impl Unwritten {
    /// The rooms, which [`enclose`](Self::enclose) makes a response.
    pub fn new(candidates: Vec<Candidate>, sources: Sources) -> Self {
        Self {
            sources,
            parts: VecDeque::from([Part::Rooms(candidates.into())]),
            section: None,
        }
    }

    /// Adds what is before and after the rooms. `begun` is the part of the rooms that has been written.
    pub fn enclose(
        &mut self,
        next_batch: SyncToken,
        account_data: Vec<String>,
        fields: &Fields,
        begun: Vec<u8>,
    ) {
        let mut before = vec![Part::text(&format!(r#"{{"next_batch":"{next_batch}","#))];
        let global = account_data_parts(users::account_data::GLOBAL, account_data);
        if !global.is_empty() {
            before.extend(global);
            before.push(Part::text(","));
        }
        for (name, value) in &fields.0 {
            before.push(Part::text(&format!(r#""{name}":{value},"#)));
        }
        before.extend([Part::text(r#""rooms":{"#), Part::Text(begun)]);
        self.prepend(before);
        self.parts.push_back(Part::text("}}"));
    }

    fn prepend(&mut self, parts: Vec<Part>) {
        for part in parts.into_iter().rev() {
            self.parts.push_front(part);
        }
    }

    fn begin_room(&mut self, update: RoomUpdate, out: &mut Vec<u8>) {
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
        out.extend_from_slice(format!("{room_id}:").as_bytes());
        match update.content {
            Content::Whole(json) => out.extend_from_slice(json.get().as_bytes()),
            Content::Streamed {
                json,
                account_data: (room, kinds),
                state_field,
                state,
            } => {
                let fields = json.strip_suffix('}').unwrap_or(&json);
                out.extend_from_slice(fields.as_bytes());
                let separator = if fields == "{" { "" } else { "," };
                let mut parts = vec![Part::text(separator)];
                let account_data = account_data_parts(room, kinds);
                if !account_data.is_empty() {
                    parts.extend(account_data);
                    parts.push(Part::text(","));
                }
                parts.push(Part::text(&format!(r#""{state_field}":{{"events":["#)));
                parts.push(Part::State {
                    events: state,
                    follows: false,
                });
                parts.push(Part::text("]}}"));
                self.prepend(parts);
            }
        }
    }
}

impl Pieces for Unwritten {
    type Error = Error;
    const NAME: &'static str = "sync";

    fn is_complete(&self) -> bool {
        self.parts.is_empty()
    }

    fn next_piece(&mut self, s: &Snapshot) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        let mut rooms = 0;
        while out.len() < PIECE_BYTES
            && rooms < MAX_ROOMS_PER_PIECE
            && let Some(part) = self.parts.pop_front()
        {
            match part {
                Part::Text(text) => out.extend(text),
                Part::AccountData(room, kind) => {
                    let user = self.sources.request.user;
                    let event = account_data::event(s, user, room, &kind)?;
                    out.extend(event.get().as_bytes());
                }
                Part::Rooms(mut candidates) => match candidates.pop_front() {
                    Some(candidate) => {
                        rooms += 1;
                        self.parts.push_front(Part::Rooms(candidates));
                        let Sources {
                            typing,
                            request,
                            range,
                        } = &self.sources;
                        let update = rooms::update(s, typing, request, *range, &candidate)?;
                        let update = update.map(Part::Room);
                        update
                            .into_iter()
                            .for_each(|part| self.parts.push_front(part));
                    }
                    None if self.section.is_some() => out.push(b'}'),
                    None => {}
                },
                Part::Room(update) => self.begin_room(update, &mut out),
                Part::State {
                    mut events,
                    follows,
                } => {
                    if let Some(event) = events.next(s, &self.sources.request)? {
                        out.extend(follows.then_some(b','));
                        out.extend(event.get().as_bytes());
                        self.parts.push_front(Part::State {
                            events,
                            follows: true,
                        });
                    }
                }
            }
        }
        Ok(out)
    }
}

/// The field `account_data` of the response or of a room; nothing if there is none.
fn account_data_parts(room: RoomNum, kinds: Vec<String>) -> Vec<Part> {
    let mut parts = Vec::new();
    for kind in kinds {
        let first = r#""account_data":{"events":["#;
        let separator = if parts.is_empty() { first } else { "," };
        parts.extend([Part::text(separator), Part::AccountData(room, kind)]);
    }
    if !parts.is_empty() {
        parts.push(Part::text("]}"));
    }
    parts
}

impl Part {
    fn text(text: &str) -> Self {
        Self::Text(text.into())
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, sync::Arc};

    use serde_json::{Value, json, value::to_raw_value};

    use super::{Fields, Part, Sources, Unwritten};
    use crate::{
        store::Position,
        sync::{
            StreamPosition,
            room_update::Content,
            rooms::{RoomUpdate, Section},
            tests::request,
            token::SyncToken,
        },
    };

    const TOKEN: SyncToken = SyncToken {
        position: Position(1),
        to_device: Position(0),
        instance: 2,
        ephemeral: 3,
    };

    fn sources() -> Sources {
        let request = request(None);
        let end = StreamPosition {
            stored: TOKEN.position,
            ephemeral: TOKEN.ephemeral,
            instance: TOKEN.instance,
        };
        Sources {
            typing: Arc::default(),
            range: request.range(end, 0),
            request: Arc::new(request),
        }
    }

    fn written(rooms: &[(Section, &str)], fields: &Fields) -> Value {
        let mut unwritten = Unwritten::new(Vec::new(), sources());
        let mut begun = Vec::new();
        for (section, room) in rooms {
            let json = to_raw_value(&json!({ "a": 1 })).expect("JSON");
            let update = RoomUpdate {
                section: *section,
                room_id: (*room).try_into().expect("a room id"),
                content: Content::Whole(json),
            };
            unwritten.begin_room(update, &mut begun);
        }
        begun.extend(unwritten.section.map(|_| b'}'));
        unwritten.parts = VecDeque::new();
        unwritten.enclose(TOKEN, Vec::new(), fields, begun);
        let texts = unwritten.parts.into_iter().flat_map(|part| match part {
            Part::Text(text) => text,
            part => panic!("{part:?}"),
        });
        let json: Vec<u8> = texts.collect();
        serde_json::from_slice(&json).expect("what is written is JSON")
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
