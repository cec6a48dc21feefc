//! The frame of an answer around its rooms, written by hand so that the rooms can come in slices.

use std::{collections::VecDeque, sync::Arc};

use serde_json::Value;
use smol::stream::{self, Stream};

use super::{
    SyncToken,
    answer::{Candidate, SLICE, Section, Told, slice},
    fields::Fields,
    request::{Request, SyncRange},
};
use crate::{
    rooms::{Error, typing::Typing},
    store::Store,
};

/// Writes an answer piece by piece: [`begin`](Self::begin), each room in the order of the
/// sections, [`end`](Self::end).
#[derive(Debug, Default)]
pub struct Frame {
    section: Option<Section>,
}

impl Frame {
    /// The answer up to its rooms.
    pub fn begin(next_batch: SyncToken, fields: &Fields) -> Vec<u8> {
        let mut text = format!(r#"{{"next_batch":"{next_batch}","#);
        for (name, value) in fields.iter() {
            text.push_str(&format!(r#""{name}":{value},"#));
        }
        text.push_str(r#""rooms":{"#);
        text.into_bytes()
    }

    /// One room.
    pub fn room(&mut self, told: &Told, out: &mut Vec<u8>) {
        if self.section == Some(told.section) {
            out.push(b',');
        } else {
            let name = match told.section {
                Section::Join => "join",
                Section::Invite => "invite",
                Section::Knock => "knock",
                Section::Leave => "leave",
            };
            let close = if self.section.is_some() { "}," } else { "" };
            out.extend_from_slice(format!(r#"{close}"{name}":{{"#).as_bytes());
            self.section = Some(told.section);
        }
        // A room id is opaque text to us, so it is written as JSON has it.
        out.extend_from_slice(Value::from(told.room.as_str()).to_string().as_bytes());
        out.push(b':');
        out.extend_from_slice(told.json.get().as_bytes());
    }

    /// The answer behind its rooms.
    pub fn end(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(if self.section.is_some() {
            b"}}}"
        } else {
            b"}}"
        });
    }
}

/// The rooms of a long answer, and its end, each slice read when the one before has been taken.
pub fn rooms(
    store: Store,
    typing: Arc<Typing>,
    request: Arc<Request>,
    range: SyncRange,
    candidates: Vec<Candidate>,
) -> impl Stream<Item = Result<Vec<u8>, Error>> {
    let start = Some((Frame::default(), VecDeque::from(candidates)));
    stream::try_unfold(start, move |rest| {
        let (store, typing, request) = (store.clone(), typing.clone(), request.clone());
        async move {
            let Some((mut frame, mut candidates)) = rest else {
                return Ok(None);
            };
            let next: Vec<Candidate> = candidates.drain(..candidates.len().min(SLICE)).collect();
            let mut out = Vec::new();
            if next.is_empty() {
                frame.end(&mut out);
                return Ok(Some((out, None)));
            }
            for told in slice(&store, &typing, &request, range, next).await? {
                frame.room(&told, &mut out);
            }
            Ok(Some((out, Some((frame, candidates)))))
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json, value::to_raw_value};

    use super::Frame;
    use crate::{
        store::Position,
        sync::{
            SyncToken,
            answer::{Section, Told},
            fields::Fields,
        },
    };

    const TOKEN: SyncToken = SyncToken {
        position: Position(1),
        to_device: Position(0),
        instance: 2,
        ephemeral: 3,
    };

    fn written(rooms: &[(Section, &str)], fields: &Fields) -> Value {
        let mut out = Frame::begin(TOKEN, fields);
        let mut frame = Frame::default();
        for (section, room) in rooms {
            let room = (*room).try_into().expect("a room id");
            let json = to_raw_value(&json!({ "a": 1 })).expect("JSON");
            frame.room(
                &Told {
                    section: *section,
                    room,
                    json,
                },
                &mut out,
            );
        }
        frame.end(&mut out);
        serde_json::from_slice(&out).expect("what is written is JSON")
    }

    #[test]
    fn an_answer_without_rooms_is_whole() {
        let expected = json!({ "next_batch": TOKEN.to_string(), "rooms": {} });
        assert_eq!(written(&[], &Fields::default()), expected);
    }

    #[test]
    fn rooms_stand_under_their_sections() {
        let rooms = [
            (Section::Join, "!a:b"),
            (Section::Join, "!\"c\\:d"),
            (Section::Leave, "!e:f"),
        ];
        let expected = json!({
            "next_batch": TOKEN.to_string(),
            "account_data": { "events": [] },
            "rooms": {
                "join": { "!a:b": { "a": 1 }, "!\"c\\:d": { "a": 1 } },
                "leave": { "!e:f": { "a": 1 } },
            },
        });
        let mut fields = Fields::default();
        fields.put_events("account_data", &[0; 0]).expect("JSON");
        assert_eq!(written(&rooms, &fields), expected);
    }
}
