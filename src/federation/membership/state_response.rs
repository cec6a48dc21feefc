//! The response to `send_join` or `/state`, which can be larger than the memory: events go to a
//! file as they are parsed; only their ids and auth events stay in memory. Nothing is verified here.

use std::{
    cell::Cell,
    collections::HashSet,
    fmt,
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::Path,
    rc::Rc,
};

use ruma::{OwnedEventId, OwnedServerName, room_version_rules::RoomVersionRules};
use serde::{
    Deserializer,
    de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::event_file::EventFile;
use crate::{
    federation::inbound::{GraphNode, RawPdu},
    protocol::receive::Incoming,
};

/// The limit of one event, or of any other value of the response.
const MAX_VALUE_BYTES: usize = 4 * 1024 * 1024;
const MAX_EVENTS: usize = 1_000_000;
/// How many of `servers_in_room` are used.
const MAX_SERVERS: usize = 20;

pub struct StateResponse {
    rules: &'static RoomVersionRules,
    events: EventFile,
    /// The auth graph of the events, by their numbers in the file.
    pub nodes: Vec<GraphNode>,
    /// The events that are state, not only part of an auth chain.
    pub state: HashSet<OwnedEventId>,
    /// The `event` of a `send_join` response: the join event with the signature of the resident server.
    pub event: Option<RawPdu>,
    pub members_omitted: bool,
    pub servers_in_room: Vec<OwnedServerName>,
}

impl StateResponse {
    /// Parses a response. Events that are invalid in the room version are left out. Reads and writes
    /// files: for the pool.
    pub fn read(
        mut response: File,
        directory: &Path,
        rules: &'static RoomVersionRules,
    ) -> io::Result<Self> {
        response.seek(SeekFrom::Start(0))?;
        let budget = Rc::new(Cell::new(MAX_VALUE_BYTES));
        let reader = LimitedReader {
            reader: BufReader::with_capacity(64 * 1024, response),
            budget: budget.clone(),
        };
        let mut response = Self {
            rules,
            events: EventFile::new(directory)?,
            nodes: Vec::new(),
            state: HashSet::new(),
            event: None,
            members_omitted: false,
            servers_in_room: Vec::new(),
        };
        let fields = Fields {
            response: &mut response,
            budget,
        };
        let mut json = serde_json::Deserializer::from_reader(reader);
        json.deserialize_map(fields).map_err(io::Error::from)?;
        Ok(response)
    }

    /// Adds an event to the auth chains. It is left out if it is invalid in the room version.
    pub fn push(&mut self, pdu: &RawValue) -> io::Result<()> {
        self.add(pdu, false)
    }

    fn add(&mut self, pdu: &RawValue, is_state: bool) -> io::Result<()> {
        let json = pdu.get().as_bytes();
        let Ok(event) = Incoming::parse(json, self.rules) else {
            return Ok(());
        };
        if self.nodes.len() >= MAX_EVENTS {
            return Err(io::Error::other("the room has too many events"));
        }
        if is_state {
            self.state.insert(event.event_id().to_owned());
        }
        self.events.push(json)?;
        self.nodes.push(GraphNode {
            id: event.event_id().to_owned(),
            references: event.names("auth_events"),
            is_create: event.names("prev_events").is_empty(),
        });
        Ok(())
    }

    /// The events with these numbers. Reads a file: for the pool.
    pub fn events(&self, indices: &[usize]) -> io::Result<Vec<RawPdu>> {
        let events = indices.iter().map(|index| {
            let json = self.events.read(*index)?;
            Ok(serde_json::from_slice(&json)?)
        });
        events.collect()
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
    response: &'a mut StateResponse,
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
                "event" => response.event = map.next_value()?,
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
    response: &'a mut StateResponse,
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
            self.response
                .add(&pdu, self.is_state)
                .map_err(A::Error::custom)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use ruma::RoomVersionId;
    use serde_json::{Value, json};

    use super::{super::event_file::temporary_file, MAX_VALUE_BYTES, StateResponse};
    use crate::protocol::{history::History, versions};

    fn read(response: &str) -> std::io::Result<StateResponse> {
        let directory = tempfile::tempdir().unwrap();
        let mut file = temporary_file(directory.path()).unwrap();
        file.write_all(response.as_bytes()).unwrap();
        let rules = versions::rules(&RoomVersionId::V11).unwrap();
        StateResponse::read(file, directory.path(), rules)
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
        assert_eq!(response.nodes.len(), json.len());
        assert_eq!(response.state.len(), json.len() - 1);
        assert!(response.nodes[0].is_create);
        let events = response.events(&[2, 0]).unwrap();
        let parsed: Vec<Value> = events
            .iter()
            .map(|raw| serde_json::from_str(raw.get()).unwrap())
            .collect();
        assert_eq!(parsed, [json[2].clone(), json[0].clone()]);
        assert!(response.event.is_some() && response.members_omitted);
    }

    #[test]
    fn invalid_responses_and_oversized_values_are_refused() {
        for response in ["", "[]", "{", "{\"state\":1}", "{\"state\":[1,", "1"] {
            assert!(read(response).is_err(), "{response}");
        }
        let oversized = "x".repeat(MAX_VALUE_BYTES + 200_000);
        assert!(read(&format!("{{\"state\":[\"{oversized}\"]}}")).is_err());
    }
}
