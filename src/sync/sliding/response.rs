//! The JSON of a response, written piece by piece so that a long one is never whole in memory.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use serde::Serialize;
use serde_json::{Value, json, value::RawValue};

use super::{
    plan::{Plan, PlannedRoom},
    request::SlidingSyncRequest,
    required_state::StateChange,
    room_update::{self, RoomUpdate},
    token::Pos,
};
use crate::{
    rooms::{
        Error, event, room,
        timeline::{self, client_event::Formatter},
        unread::receipts,
    },
    store::{EventNum, PIECE_BYTES, Pieces, Place, Position, Reader, RoomNum, Snapshot, UserNum},
    sync::{
        account_data,
        ephemeral::{MAX_RECEIPTS, receipt_contents},
        lazy_members::Progress,
        request::SyncRange,
        state::MEMBER,
    },
    users::{self, account_data::GLOBAL},
};

/// How many rooms are read from one snapshot.
const MAX_ROOMS_PER_PIECE: usize = 16;
/// A client that gets the receipts of a room without its timeline gets those of so many events.
const RECEIPT_EVENTS: usize = 20;

/// What is read to write a response.
#[derive(Debug)]
pub struct Sources {
    pub request: Arc<SlidingSyncRequest>,
    pub range: SyncRange,
    /// Where the response ends, for lazily loaded members.
    pub progress: Progress,
}

/// What of a response has not been written yet.
#[derive(Debug)]
pub struct Unwritten {
    sources: Sources,
    parts: VecDeque<Part>,
    has_rooms: bool,
    /// The place of the first event of each timeline that was written.
    firsts: HashMap<RoomNum, Place>,
}

#[derive(Debug)]
enum Part {
    Text(Vec<u8>),
    Rooms(VecDeque<PlannedRoom>),
    Room(Box<RoomUpdate>),
    State {
        room: RoomNum,
        changes: VecDeque<StateChange>,
        formatter: Box<Formatter>,
        /// Whether the next one comes after a comma.
        follows: bool,
    },
    /// Of this type, of a room or global.
    AccountData(RoomNum, String),
    Receipts {
        rooms: VecDeque<(RoomNum, Option<Position>)>,
        follows: bool,
    },
}

/// The parts of a response beside the rooms that are not written in pieces.
#[derive(Debug)]
pub struct Whole {
    pub pos: Pos,
    /// The extensions of which it has something.
    pub to_device: Option<Box<RawValue>>,
    pub e2ee: Option<Box<RawValue>>,
}

impl Unwritten {
    /// The rooms, which [`enclose`](Self::enclose) makes a response.
    pub fn new(rooms: Vec<PlannedRoom>, sources: Sources) -> Self {
        Self {
            sources,
            parts: VecDeque::from([Part::Rooms(rooms.into())]),
            has_rooms: false,
            firsts: HashMap::new(),
        }
    }

    /// Adds what is before and after the rooms. `begun` is the part of the rooms that has been written.
    pub fn enclose(
        &mut self,
        r: &impl Reader,
        plan: &Plan,
        whole: &Whole,
        begun: Vec<u8>,
    ) -> Result<(), Error> {
        let request = &self.sources.request;
        let lists = request.lists.iter().zip(&plan.counts);
        let lists = lists.map(|(list, count)| (&*list.name, json!({ "count": count })));
        let mut head = json!({
            "pos": whole.pos.to_string(),
            "lists": lists.collect::<BTreeMap<_, _>>(),
        });
        if let Some(txn_id) = &request.txn_id {
            head["txn_id"] = txn_id.as_str().into();
        }
        let head = head.to_string();
        let head = head.strip_suffix('}').unwrap_or(&head);
        let before = [
            Part::text(format!(r#"{head},"rooms":{{"#)),
            Part::Text(begun),
        ];
        for part in before.into_iter().rev() {
            self.parts.push_front(part);
        }
        self.parts.push_back(Part::text(r#"},"extensions":{"#));
        let mut sections = Vec::new();
        if let Some(to_device) = &whole.to_device {
            sections.push(vec![Part::text(format!(r#""to_device":{to_device}"#))]);
        }
        if let Some(e2ee) = &whole.e2ee {
            sections.push(vec![Part::text(format!(r#""e2ee":{e2ee}"#))]);
        }
        if !plan.account_data.is_empty() {
            sections.push(account_data_parts(r, &plan.account_data)?);
        }
        if !plan.typing.is_empty() {
            let typing = to_json(&typing_events(r, &plan.typing)?)?;
            sections.push(vec![Part::text(format!(
                r#""typing":{{"rooms":{typing}}}"#
            ))]);
        }
        if !plan.receipts.is_empty() {
            let rooms = Part::Receipts {
                rooms: plan.receipts.iter().copied().collect(),
                follows: false,
            };
            let before = Part::text(r#""receipts":{"rooms":{"#);
            sections.push(vec![before, rooms, Part::text("}}")]);
        }
        for (number, section) in sections.into_iter().enumerate() {
            if number > 0 {
                self.parts.push_back(Part::text(","));
            }
            self.parts.extend(section);
        }
        self.parts.push_back(Part::text("}}"));
        Ok(())
    }

    fn begin_room(&mut self, update: RoomUpdate, out: &mut Vec<u8>) {
        let RoomUpdate {
            room,
            room_id,
            json,
            state,
            formatter,
            first,
        } = update;
        if std::mem::replace(&mut self.has_rooms, true) {
            out.push(b',');
        }
        self.firsts.extend(first.map(|first| (room, first)));
        // Room ids may hold characters that JSON escapes.
        let room_id = Value::from(room_id.as_str());
        out.extend_from_slice(format!("{room_id}:").as_bytes());
        let Some(formatter) = formatter.filter(|_| !state.is_empty()) else {
            out.extend_from_slice(json.as_bytes());
            return;
        };
        let fields = json.strip_suffix('}').unwrap_or(&json);
        out.extend_from_slice(fields.as_bytes());
        out.extend_from_slice(br#","required_state":["#);
        self.parts.push_front(Part::text("]}"));
        self.parts.push_front(Part::State {
            room,
            changes: state.into(),
            formatter: Box::new(formatter),
            follows: false,
        });
    }

    /// The receipts of a room, or the ones that moved after `since`, as an event.
    fn receipts(
        &self,
        s: &Snapshot,
        room: RoomNum,
        since: Option<Position>,
    ) -> Result<Option<Value>, Error> {
        let (user, end) = (self.sources.request.user, self.sources.range.end.stored);
        let mut updates = match since {
            Some(since) => receipts::moved_between(s, room, since, end, user, MAX_RECEIPTS)?,
            None => {
                let first = match self.firsts.get(&room) {
                    Some(first) => *first,
                    None => timeline::backwards(s, room, Place::MAX, RECEIPT_EVENTS)?
                        .last()
                        .map_or(Place::MIN, |(place, _)| *place),
                };
                receipts::at_or_after(s, room, first, end, user, MAX_RECEIPTS)?
            }
        };
        // A response has one event for a room, and that one receipt of a user and a kind at an event. The one
        // for all threads says the same as the others; without it, the room's timeline shows the main one.
        updates.sort_by_key(|update| match update.key.thread.as_deref() {
            None => 0,
            Some(receipts::MAIN) => 1,
            Some(_) => 2,
        });
        let content = receipt_contents(updates).into_iter().next();
        Ok(content.map(|content| json!({ "type": "m.receipt", "content": content })))
    }
}

impl Pieces for Unwritten {
    type Error = Error;
    const NAME: &'static str = "sliding sync";

    fn is_complete(&self) -> bool {
        self.parts.is_empty()
    }

    fn next_piece(&mut self, s: &Snapshot) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        let mut rooms_read = 0;
        while out.len() < PIECE_BYTES
            && rooms_read < MAX_ROOMS_PER_PIECE
            && let Some(part) = self.parts.pop_front()
        {
            match part {
                Part::Text(text) => out.extend(text),
                Part::Rooms(mut rooms) => {
                    if let Some(planned) = rooms.pop_front() {
                        rooms_read += 1;
                        self.parts.push_front(Part::Rooms(rooms));
                        let Sources { request, range, .. } = &self.sources;
                        let update = room_update::update(s, request, *range, &planned)?;
                        let update = update.map(|update| Part::Room(Box::new(update)));
                        update
                            .into_iter()
                            .for_each(|part| self.parts.push_front(part));
                    }
                }
                Part::Room(update) => self.begin_room(*update, &mut out),
                Part::State {
                    room,
                    mut changes,
                    mut formatter,
                    follows,
                } => {
                    if let Some(change) = changes.pop_front() {
                        out.extend(follows.then_some(b','));
                        out.extend(state_event(s, &change, &mut formatter)?);
                        if change.kind == MEMBER {
                            let member = [(change.key, change.event)];
                            let progress = self.sources.progress;
                            self.sources
                                .request
                                .lazy_loaded
                                .sent(room, member, progress);
                        }
                        self.parts.push_front(Part::State {
                            room,
                            changes,
                            formatter,
                            follows: true,
                        });
                    }
                }
                Part::AccountData(room, kind) => {
                    let user = self.sources.request.user;
                    let event = account_data::event(s, user, room, &kind)?;
                    out.extend(event.get().as_bytes());
                }
                Part::Receipts { mut rooms, follows } => {
                    if let Some((room, since)) = rooms.pop_front() {
                        rooms_read += 1;
                        let event = self.receipts(s, room, since)?;
                        if let Some(event) = &event {
                            let id = Value::from(room::id(s, room)?.as_str());
                            let separator = if follows { "," } else { "" };
                            out.extend(format!("{separator}{id}:{event}").into_bytes());
                        }
                        let follows = follows || event.is_some();
                        self.parts.push_front(Part::Receipts { rooms, follows });
                    }
                }
            }
        }
        Ok(out)
    }
}

/// The event, or what stands for a state event that is gone.
fn state_event(
    s: &Snapshot,
    change: &StateChange,
    formatter: &mut Formatter,
) -> Result<Vec<u8>, Error> {
    if change.event == EventNum(0) {
        let stub = json!({ "type": change.kind, "state_key": change.state_key });
        return Ok(stub.to_string().into_bytes());
    }
    let event = formatter.format(s, &event::load(s, change.event)?)?;
    Ok(event.get().into())
}

/// The extension `account_data`.
fn account_data_parts(
    r: &impl Reader,
    account_data: &BTreeMap<RoomNum, Vec<String>>,
) -> Result<Vec<Part>, Error> {
    let mut parts = vec![Part::text(r#""account_data":{"global":["#)];
    let push_events = |parts: &mut Vec<Part>, room: RoomNum, kinds: &[String]| {
        for (number, kind) in kinds.iter().enumerate() {
            if number > 0 {
                parts.push(Part::text(","));
            }
            parts.push(Part::AccountData(room, kind.clone()));
        }
    };
    if let Some(kinds) = account_data.get(&GLOBAL) {
        push_events(&mut parts, GLOBAL, kinds);
    }
    let mut separator = r#"],"rooms":{"#;
    for (room, kinds) in account_data.iter().filter(|(room, _)| **room != GLOBAL) {
        let id = Value::from(room::id(r, *room)?.as_str());
        parts.push(Part::text(format!("{separator}{id}:[")));
        push_events(&mut parts, *room, kinds);
        separator = "],";
    }
    let has_rooms = separator == "],";
    parts.push(Part::text(if has_rooms {
        "]}}"
    } else {
        r#"],"rooms":{}}"#
    }));
    Ok(parts)
}

fn typing_events(
    r: &impl Reader,
    typing: &[(RoomNum, Vec<UserNum>)],
) -> Result<BTreeMap<String, Value>, Error> {
    let mut events = BTreeMap::new();
    for (room, users) in typing {
        let users = users.iter().map(|user| users::id_of(r, *user));
        let users = users.collect::<Result<Vec<_>, _>>()?;
        let event = json!({ "type": "m.typing", "content": { "user_ids": users } });
        events.insert(room::id(r, *room)?.into(), event);
    }
    Ok(events)
}

fn to_json(value: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|_| Error::not_serializable("a response"))
}

impl Part {
    fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into().into_bytes())
    }
}
