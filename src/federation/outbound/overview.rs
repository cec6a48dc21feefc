//! What the owner sees of the servers to which this one sends.

use std::collections::BTreeMap;

use ruma::{OwnedServerName, ServerName};

use super::{backoff, outgoing_events, sender::Sender};
use crate::{
    rooms::{self, servers},
    store::{
        Position, Reader, Records, RoomNum, Rows, ServerNum,
        records::{Backoff, ServerContact},
    },
};

/// How many rows are looked at for a backlog.
const MAX_COUNTED: usize = 10_000;

/// How far an event is on its way to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// It was not queued for the server, as far as the queue goes back.
    NotQueued,
    /// The server has acknowledged it.
    Sent,
    /// It is sent as soon as those before it are.
    Queued,
    /// The server has not taken it, or events before it.
    Waiting,
    /// The queue does not go back so far.
    Unknown,
}

/// Another server.
#[derive(Debug)]
pub struct Destination {
    pub server: OwnedServerName,
    /// Rooms with users of both servers.
    pub rooms: usize,
    pub contact: ServerContact,
    /// While it does not answer.
    pub backoff: Option<Backoff>,
    /// In milliseconds since the epoch.
    pub unreachable_since_ts: Option<u64>,
    /// Events in its queue, beside those of `is_behind`.
    pub queued_events: usize,
    /// Whether it lacks events that are no longer in its queue.
    pub is_behind: bool,
}

impl Sender {
    /// How many events are in all queues in memory.
    pub fn queued_events(&self) -> usize {
        let state = self.0.lock();
        let queues = state.destinations.values();
        queues.map(|queue| queue.events.len()).sum()
    }

    /// The servers that share rooms with this one, and those that do not answer. The work grows with the
    /// servers: run it on the pool.
    pub fn destinations(&self, r: &impl Reader) -> Result<Vec<Destination>, rooms::Error> {
        let mut names: BTreeMap<ServerNum, OwnedServerName> =
            servers::all(r)?.into_iter().collect();
        for row in r.backoffs()?.all()? {
            let server = row?.0.value();
            names.insert(server, servers::name(r, server)?);
        }
        let names = names.into_iter();
        names
            .map(|(num, name)| self.destination(r, num, name))
            .collect()
    }

    pub fn destination(
        &self,
        r: &impl Reader,
        num: ServerNum,
        server: OwnedServerName,
    ) -> Result<Destination, rooms::Error> {
        let queued_events = {
            let state = self.0.lock();
            let queue = state.destinations.get(&num);
            queue.map_or(0, |queue| queue.events.len())
        };
        Ok(Destination {
            server,
            rooms: servers::rooms(r, num)?.len(),
            contact: self.0.ledger.get(r, num)?,
            backoff: backoff::load(r, num)?,
            unreachable_since_ts: r.unreachable_since()?.get(num)?.map(|row| row.value()),
            queued_events,
            is_behind: r.destination_cursors()?.has(num)?,
        })
    }

    /// How many events of the last positions a server lacks that has a cursor, up to [`MAX_COUNTED`] of them.
    pub fn backlog(r: &impl Reader, num: ServerNum) -> Result<Option<usize>, rooms::Error> {
        let cursor = r.destination_cursors()?.get(num)?.map(|row| row.value());
        let Some(cursor) = cursor else {
            return Ok(None);
        };
        let (events, _) = outgoing_events::for_server(r, num, cursor, MAX_COUNTED)?;
        Ok(Some(events.len()))
    }

    /// How far the local event at `position` in `room` is on its way to a server.
    pub fn delivery(
        &self,
        r: &impl Reader,
        server: &ServerName,
        (room, position): (RoomNum, Position),
    ) -> Result<Delivery, rooms::Error> {
        let Some(num) = servers::num(r, server)? else {
            return Ok(Delivery::NotQueued);
        };
        let (relayed, is_queued) = {
            let state = self.0.lock();
            let queue = state.destinations.get(&num);
            let is_queued = queue.is_some_and(|queue| {
                let mut events = queue.events.iter();
                events.any(|(queued, _)| *queued == position)
            });
            (state.relayed, is_queued)
        };
        let sent = outgoing_events::sent(r)?.max(relayed);
        let is_in = r.room_servers()?.has((room, num))?;
        match r.outgoing()?.load(position)? {
            Some(row) if !is_in && !row.also.contains(&num) => return Ok(Delivery::NotQueued),
            None if position > sent => return Ok(Delivery::NotQueued),
            // Rows are removed when every server has what they name.
            None if !is_in => return Ok(Delivery::Unknown),
            _ => {}
        }
        let cursor = r.destination_cursors()?.get(num)?.map(|row| row.value());
        let is_failing = self.0.ledger.get(r, num)?.failure.is_some();
        Ok(match cursor {
            Some(cursor) if cursor <= position => Delivery::Waiting,
            Some(_) => Delivery::Sent,
            None if is_queued && is_failing => Delivery::Waiting,
            None if is_queued || position > sent => Delivery::Queued,
            None => Delivery::Sent,
        })
    }
}
