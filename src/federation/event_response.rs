//! The response to `send_join`, `/state` or `/event_auth`, which can be larger than the memory: events go to a
//! file as they are parsed; only their auth graph stays in memory. Nothing is verified here.

use std::{
    cell::Cell,
    fmt,
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    ops::Range,
    path::Path,
    rc::Rc,
};

use ruma::{OwnedEventId, OwnedServerName, room_version_rules::RoomVersionRules};
use serde::{
    Deserializer,
    de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    event_file::EventFile,
    event_graph::{EventGraph, EventMemoryError, IdBudget},
};
use crate::protocol::receive::Incoming;

/// The size beyond which an event is refused before it is parsed, with its `unsigned`.
pub const MAX_RAW_PDU_BYTES: usize = 256 * 1024;
/// The limit of one event, or of any other value of the response.
const MAX_VALUE_BYTES: usize = 1024 * 1024;
/// How many of `servers_in_room` are used.
const MAX_SERVERS: usize = 20;

/// Why a response is not read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be parsed, or the disk failed.
    #[error(transparent)]
    Read(#[from] io::Error),
    #[error(transparent)]
    Memory(#[from] EventMemoryError),
}

/// An event of a response, and those of its auth events that the response lacks.
pub struct Incomplete {
    pub id: OwnedEventId,
    pub missing: Vec<OwnedEventId>,
}

pub struct EventResponse {
    rules: &'static RoomVersionRules,
    pub events: EventFile,
    /// The auth graph of the events, by their numbers in the file. Those that are state, not only part of an
    /// auth chain, are marked.
    pub graph: EventGraph,
    /// Why an event was not added.
    no_memory: Option<EventMemoryError>,
    /// The `event` of a `send_join` response: the join event with the signature of the resident server.
    pub event: Option<Box<RawValue>>,
    pub members_omitted: bool,
    pub servers_in_room: Vec<OwnedServerName>,
    /// The size of what was received, events that are left out included.
    pub received_bytes: usize,
}

impl EventResponse {
    /// A response without events. Creates a file: for the pool.
    pub fn new(
        directory: &Path,
        rules: &'static RoomVersionRules,
        memory: &IdBudget,
    ) -> io::Result<Self> {
        Ok(Self {
            rules,
            events: EventFile::new(directory)?,
            graph: EventGraph::new(memory),
            no_memory: None,
            event: None,
            members_omitted: false,
            servers_in_room: Vec::new(),
            received_bytes: 0,
        })
    }

    /// Parses a response. Events that are invalid in the room version are left out. Reads and writes
    /// files: for the pool.
    ///
    /// # Errors
    /// [`Error::Memory`], or the response is invalid.
    pub fn read(
        response: File,
        directory: &Path,
        rules: &'static RoomVersionRules,
        memory: &IdBudget,
    ) -> Result<Self, Error> {
        let mut read = Self::new(directory, rules, memory)?;
        read.parse(response)??;
        Ok(read)
    }

    /// A response that has these events as auth chain. Writes a file: for the pool.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub fn of(
        pdus: &[Box<RawValue>],
        directory: &Path,
        rules: &'static RoomVersionRules,
        memory: &IdBudget,
    ) -> Result<Self, Error> {
        let mut response = Self::new(directory, rules, memory)?;
        for pdu in pdus {
            response.received_bytes += pdu.get().len();
            response.push(pdu)?;
        }
        Ok(response)
    }

    /// Adds the events of another response, such as that to `/event_auth`, as far as it can be parsed.
    ///
    /// # Errors
    /// As [`read`](Self::read), except if the response is invalid.
    pub fn read_more(&mut self, response: File) -> Result<(), Error> {
        if let Err(error) = self.parse(response)? {
            log::debug!("a response with auth events is invalid: {error}");
        }
        Ok(())
    }

    /// Adds the events of a response. Whether it is valid, too.
    fn parse(&mut self, mut response: File) -> Result<Result<(), io::Error>, Error> {
        let bytes = response.seek(SeekFrom::End(0))?;
        self.received_bytes += usize::try_from(bytes).unwrap_or(usize::MAX);
        response.seek(SeekFrom::Start(0))?;
        let budget = Rc::new(Cell::new(MAX_VALUE_BYTES));
        let reader = LimitedReader {
            reader: BufReader::with_capacity(64 * 1024, response),
            budget: budget.clone(),
        };
        let fields = Fields {
            response: self,
            budget,
        };
        let mut json = serde_json::Deserializer::from_reader(reader);
        let read = json.deserialize_map(fields);
        match self.no_memory {
            Some(error) => Err(error.into()),
            None => Ok(read.map_err(io::Error::from)),
        }
    }

    /// Adds an event to the auth chains; returns its auth events. It is left out if it is invalid in the room
    /// version.
    pub fn push(&mut self, pdu: &RawValue) -> Result<Vec<OwnedEventId>, Error> {
        self.add(pdu, false)
    }

    fn add(&mut self, pdu: &RawValue, is_state: bool) -> Result<Vec<OwnedEventId>, Error> {
        if pdu.get().len() > MAX_RAW_PDU_BYTES {
            return Ok(Vec::new());
        }
        let Ok(event) = Incoming::parse(pdu.get().as_bytes(), self.rules) else {
            return Ok(Vec::new());
        };
        let auth_events = event.names("auth_events");
        let is_create = event.names("prev_events").is_empty();
        let id = event.event_id();
        let references = auth_events.iter().map(|id| &**id);
        if self.graph.add(id, references, is_create)? {
            self.events.push(id, event.json())?;
        }
        if is_state {
            self.graph.mark(id);
        }
        Ok(auth_events)
    }

    /// The last of the events `indices` that refers to auth events that are not there: its index, and which. Reads
    /// a file: for the pool.
    pub fn last_incomplete(
        &self,
        indices: Range<usize>,
    ) -> io::Result<Option<(usize, Incomplete)>> {
        let mut indices = indices.rev();
        let Some(index) = indices.find(|index| self.graph.is_incomplete(*index)) else {
            return Ok(None);
        };
        let (id, json) = self.events.read(index)?;
        let event = Incoming::parse(&json, self.rules).map_err(io::Error::other)?;
        let mut missing = event.names("auth_events");
        missing.retain(|id| !self.graph.contains(id));
        Ok(Some((index, Incomplete { id, missing })))
    }
}

/// Fails when the budget is used up. The parser renews the budget for each value.
struct LimitedReader {
    reader: BufReader<File>,
    budget: Rc<Cell<usize>>,
}

impl Read for LimitedReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        let budget = self.budget.get().checked_sub(read);
        let budget = budget.ok_or_else(|| io::Error::other("a value is too large"))?;
        self.budget.set(budget);
        Ok(read)
    }
}

/// The fields of the response.
struct Fields<'a> {
    response: &'a mut EventResponse,
    budget: Rc<Cell<usize>>,
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the state of a room")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { response, budget } = self;
        while let Some(field) = map.next_key::<String>()? {
            budget.set(MAX_VALUE_BYTES);
            match field.as_str() {
                "state" | "pdus" | "auth_chain" => map.next_value_seed(EventList {
                    response,
                    budget: &budget,
                    is_state: field != "auth_chain",
                })?,
                "event" => {
                    let event: Option<Box<RawValue>> = map.next_value()?;
                    response.event = event.filter(|pdu| pdu.get().len() <= MAX_RAW_PDU_BYTES);
                }
                "members_omitted" => response.members_omitted = map.next_value()?,
                "servers_in_room" => {
                    let servers: Vec<String> = map.next_value()?;
                    let servers = servers.into_iter().map(OwnedServerName::try_from);
                    response.servers_in_room = servers.flatten().take(MAX_SERVERS).collect();
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

struct EventList<'a> {
    response: &'a mut EventResponse,
    budget: &'a Cell<usize>,
    is_state: bool,
}

impl<'de> DeserializeSeed<'de> for EventList<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for EventList<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of events")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(pdu) = list.next_element::<Box<RawValue>>()? {
            self.budget.set(MAX_VALUE_BYTES);
            match self.response.add(&pdu, self.is_state) {
                Ok(_) => {}
                Err(Error::Memory(error)) => {
                    self.response.no_memory = Some(error);
                    return Err(A::Error::custom(error));
                }
                Err(error) => return Err(A::Error::custom(error)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use ruma::RoomVersionId;
    use serde_json::{Value, json};

    use super::{
        super::event_file::temporary_file, Error, EventResponse, MAX_RAW_PDU_BYTES, MAX_SERVERS,
        MAX_VALUE_BYTES,
    };
    use crate::{
        federation::event_graph::IdBudget,
        protocol::{history::History, versions},
    };

    fn read(response: &str) -> Result<EventResponse, Error> {
        let directory = tempfile::tempdir().unwrap();
        let mut file = temporary_file(directory.path()).unwrap();
        file.write_all(response.as_bytes()).unwrap();
        let rules = versions::rules(&RoomVersionId::V11).unwrap();
        EventResponse::read(file, directory.path(), rules, &IdBudget::new(1000))
    }

    #[test]
    fn events_of_state_and_auth_chain_are_written_to_the_file_and_others_left_out() {
        let room = History::public(&RoomVersionId::V11, "@alice:a.example");
        let json: Vec<Value> = room
            .events
            .iter()
            .map(|event| serde_json::from_slice(&event.json).unwrap())
            .collect();
        let response = json!({
            "origin": "a.example", "auth_chain": [json[0], { "is": "no event" }],
            "members_omitted": true, "state": json[1..], "event": json[1],
        });
        let response = read(&response.to_string()).unwrap();
        assert_eq!(response.graph.len(), json.len());
        assert_eq!(response.graph.topological_order()[0], 0);
        let read = |index| response.events.read(index).unwrap().1;
        let parsed: Vec<Value> = [2, 0]
            .map(|index| serde_json::from_slice(&read(index)).unwrap())
            .into();
        assert_eq!(parsed, [json[2].clone(), json[0].clone()]);
        assert!(response.event.is_some() && response.members_omitted);
        let (_, are_state) = response.graph.into_ids_and_marks();
        assert!(!are_state[0] && are_state[1..].iter().all(|is_state| *is_state));
    }

    #[test]
    fn invalid_responses_and_oversized_values_are_refused() {
        for response in ["", "[]", "{", "{\"state\":1}", "{\"state\":[1,", "1"] {
            assert!(read(response).is_err(), "{response}");
        }
        let oversized = "x".repeat(MAX_VALUE_BYTES + 200_000);
        assert!(read(&format!("{{\"state\":[\"{oversized}\"]}}")).is_err());
    }

    #[test]
    fn an_event_that_is_large_with_its_unsigned_is_left_out() {
        let room = History::public(&RoomVersionId::V11, "@alice:a.example");
        let mut event: Value = serde_json::from_slice(&room.events[1].json).unwrap();
        for (bytes, count) in [(MAX_RAW_PDU_BYTES / 2, 1), (MAX_RAW_PDU_BYTES, 0)] {
            event["unsigned"] = json!({ "x": "x".repeat(bytes) });
            for field in ["state", "auth_chain"] {
                let response = json!({ field: [event], "event": event });
                let response = read(&response.to_string()).unwrap();
                assert_eq!(response.graph.len(), count, "{field}");
                assert_eq!(response.event.is_some(), count == 1);
            }
        }
    }

    #[test]
    fn few_of_the_servers_that_are_named_are_used() {
        let names: Vec<String> = (0..1000)
            .map(|number| format!("s{number}.example"))
            .collect();
        let response = json!({ "state": [], "servers_in_room": names });
        let response = read(&response.to_string()).unwrap();
        assert_eq!(response.servers_in_room.len(), MAX_SERVERS);
    }
}
