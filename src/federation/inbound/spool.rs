//! A whole room as another server gives it, on the disk: of it only an outline is in memory.

use std::{
    cell::Cell,
    fmt,
    fs::File,
    io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    os::unix::fs::FileExt,
    path::Path,
    rc::Rc,
    sync::Arc,
};

use ruma::{OwnedEventId, OwnedServerName, room_version_rules::RoomVersionRules};
use serde::{
    Deserializer,
    de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{order::Node, peers::RawPdu};
use crate::{pool, protocol::receive::Incoming};

/// How many bytes one event, or anything else in the answer, may have.
const PIECE: usize = 4 * 1024 * 1024;
/// How many events a room may be given as.
const EVENTS: usize = 1_000_000;

/// How many of the servers that are in a room are remembered.
const SERVERS: usize = 20;

/// A new file in `directory` that nobody else sees and that is gone with its last handle.
pub fn new_file(directory: &Path) -> io::Result<File> {
    let path = directory.join(format!("given-{:016x}", rand::random::<u64>()));
    let mut options = File::options();
    let file = options
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)?;
    std::fs::remove_file(path)?;
    Ok(file)
}

/// Why a room that was given cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// It is nothing that can be read, or the disk fails.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Too much is being read.
    #[error(transparent)]
    Busy(#[from] pool::Error),
}

/// A room that was given: the answer to `send_join`, or to `state`.
pub struct Given {
    events: Arc<File>,
    /// Where each event stands, in the order in which they came.
    places: Vec<(u64, usize)>,
    /// Their places in the graph.
    pub nodes: Vec<Node>,
    /// The ids of those of the state.
    pub state: Vec<OwnedEventId>,
    /// The event by which the user joined, with the signature of who vouches for it.
    pub event: Option<RawPdu>,
    /// Whether the state is without the members.
    pub members_omitted: bool,
    /// Servers that are in the room, some of them if they are many.
    pub servers: Vec<OwnedServerName>,
}

impl Given {
    /// Reads an answer. What is no event of a room of these rules is left out. Reads and writes
    /// files: for the pool.
    ///
    /// # Errors
    /// If it is no such answer, or a file cannot be written.
    pub fn read(
        mut answer: File,
        directory: &Path,
        rules: &'static RoomVersionRules,
    ) -> Result<Self, Unreadable> {
        answer.seek(SeekFrom::Start(0))?;
        let left = Rc::new(Cell::new(PIECE));
        let reader = BufReader::with_capacity(64 * 1024, answer);
        let reader = Rationed {
            reader,
            left: left.clone(),
        };
        let mut outline = Outline {
            rules,
            left,
            out: BufWriter::with_capacity(64 * 1024, new_file(directory)?),
            end: 0,
            places: Vec::new(),
            nodes: Vec::new(),
            state: Vec::new(),
            event: None,
            members_omitted: false,
            servers: Vec::new(),
        };
        let mut json = serde_json::Deserializer::from_reader(reader);
        json.deserialize_map(&mut outline)
            .map_err(io::Error::from)?;
        Ok(Self {
            events: Arc::new(
                outline
                    .out
                    .into_inner()
                    .map_err(io::IntoInnerError::into_error)?,
            ),
            places: outline.places,
            nodes: outline.nodes,
            state: outline.state,
            event: outline.event,
            members_omitted: outline.members_omitted,
            servers: outline.servers,
        })
    }

    /// Reads the events at these indices of `nodes`, on the pool.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn events(
        &self,
        indices: &[usize],
    ) -> impl FnOnce() -> Result<Vec<RawPdu>, Unreadable> + Send + use<> {
        let file = self.events.clone();
        let places: Vec<_> = indices.iter().map(|index| self.places[*index]).collect();
        move || {
            let read = places.into_iter().map(|(offset, length)| {
                let mut json = vec![0; length];
                file.read_exact_at(&mut json, offset)?;
                Ok(serde_json::from_slice(&json).map_err(io::Error::from)?)
            });
            read.collect()
        }
    }
}

/// A reader that lets so many bytes through until somebody says that it may go on.
struct Rationed {
    reader: BufReader<File>,
    left: Rc<Cell<usize>>,
}

impl Read for Rationed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        let left = self.left.get().checked_sub(read);
        let left = left.ok_or_else(|| io::Error::other("one piece of it is too large"))?;
        self.left.set(left);
        Ok(read)
    }
}

/// What is known of an answer so far.
struct Outline {
    rules: &'static RoomVersionRules,
    left: Rc<Cell<usize>>,
    out: BufWriter<File>,
    end: u64,
    places: Vec<(u64, usize)>,
    nodes: Vec<Node>,
    state: Vec<OwnedEventId>,
    event: Option<RawPdu>,
    members_omitted: bool,
    servers: Vec<OwnedServerName>,
}

impl Outline {
    fn take(&mut self, raw: &RawValue, is_state: bool) -> io::Result<()> {
        self.left.set(PIECE);
        let json = raw.get().as_bytes();
        let Ok(event) = Incoming::parse(json, self.rules) else {
            return Ok(());
        };
        if self.nodes.len() >= EVENTS {
            return Err(io::Error::other("the room has too many events"));
        }
        if is_state {
            self.state.push(event.event_id().to_owned());
        }
        self.out.write_all(json)?;
        self.places.push((self.end, json.len()));
        self.end += json.len() as u64;
        self.nodes.push(Node {
            id: event.event_id().to_owned(),
            named: event.names("auth_events"),
            is_first: event.names("prev_events").is_empty(),
        });
        Ok(())
    }
}

impl<'de> Visitor<'de> for &mut Outline {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a room")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(field) = map.next_key::<String>()? {
            self.left.set(PIECE);
            match field.as_str() {
                "state" | "pdus" => map.next_value_seed(List(self, true))?,
                "auth_chain" => map.next_value_seed(List(self, false))?,
                "event" => self.event = map.next_value()?,
                "members_omitted" => self.members_omitted = map.next_value()?,
                "servers_in_room" => {
                    let servers: Vec<String> = map.next_value()?;
                    let servers = servers.into_iter().map(OwnedServerName::try_from);
                    self.servers = servers.flatten().take(SERVERS).collect();
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// A list of events, which may be those of the state.
struct List<'a>(&'a mut Outline, bool);

impl<'de> DeserializeSeed<'de> for List<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for List<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("events")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(raw) = list.next_element::<Box<RawValue>>()? {
            self.0.take(&raw, self.1).map_err(A::Error::custom)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use ruma::RoomVersionId;
    use serde_json::{Value, json};

    use super::{Given, PIECE, Unreadable, new_file};
    use crate::protocol::{history::History, versions};

    fn read(answer: &str) -> Result<Given, Unreadable> {
        let directory = tempfile::tempdir().unwrap();
        let mut file = new_file(directory.path()).unwrap();
        file.write_all(answer.as_bytes()).unwrap();
        let rules = versions::rules(&RoomVersionId::V11).unwrap();
        Given::read(file, directory.path(), rules)
    }

    #[test]
    fn the_events_of_a_room_are_found_again_by_their_places() {
        let room = History::public(&RoomVersionId::V11, "@alice:a.example");
        let json: Vec<Value> = room
            .events
            .iter()
            .map(|event| serde_json::from_slice(&event.json).unwrap())
            .collect();
        let answer = json!({
            "origin": "a.example", "auth_chain": [json[0], { "is": "no event" }],
            "members_omitted": true, "state": json[1..], "event": json[1],
        });
        let given = read(&answer.to_string()).unwrap();
        assert_eq!(given.nodes.len(), json.len());
        assert_eq!(given.state.len(), json.len() - 1);
        assert!(given.nodes[0].is_first);
        let events = given.events(&[2, 0])().unwrap();
        let parsed: Vec<Value> = events
            .iter()
            .map(|raw| serde_json::from_str(raw.get()).unwrap())
            .collect();
        assert_eq!(parsed, [json[2].clone(), json[0].clone()]);
        assert!(given.event.is_some() && given.members_omitted);
    }

    #[test]
    fn what_is_no_room_is_refused() {
        for answer in ["", "[]", "{", "{\"state\":1}", "{\"state\":[1,", "1"] {
            assert!(read(answer).is_err(), "{answer}");
        }
        let large = format!("{{\"state\":[\"{}\"]}}", "x".repeat(PIECE + 200_000));
        assert!(read(&large).is_err());
    }
}
