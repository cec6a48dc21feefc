//! The tables `outgoing` and `destination_cursors`.

use crate::{
    rooms::{self, event, room, servers},
    store::{self, EventNum, Position, Reader, Rows, ServerNum, Tx, records::Outgoing},
};

/// The counter with the position up to which every server has received everything, unless it has a
/// cursor.
const SENT: &str = "sent";
/// How many rows are removed at once.
const REMOVE_BATCH: usize = 1000;
/// For how many positions rows are kept for servers with a cursor.
const KEPT_POSITIONS: u64 = 100_000;

pub fn sent(r: &impl Reader) -> Result<Position, rooms::Error> {
    let sent = r.counters()?.get(SENT)?.map_or(0, |row| row.value());
    Ok(Position(sent))
}

pub fn cursors(r: &impl Reader) -> Result<Vec<(ServerNum, Position)>, rooms::Error> {
    let mut cursors = Vec::new();
    for row in r.destination_cursors()?.all()? {
        let (server, cursor) = row?;
        cursors.push((server.value(), cursor.value()));
    }
    Ok(cursors)
}

/// An event with the servers that are to receive it.
pub struct OutgoingEvent {
    pub position: Position,
    pub event: EventNum,
    pub destinations: Vec<ServerNum>,
}

/// The next rows after `from`, at most `max`.
pub fn after(
    r: &impl Reader,
    from: Position,
    max: usize,
) -> Result<Vec<OutgoingEvent>, rooms::Error> {
    let mut events = Vec::new();
    for row in r.outgoing()?.range(Position(from.0 + 1)..)?.take(max) {
        let (key, row) = row?;
        let position = key.value();
        let Some(row) = skip_corrupt(row.record(&key))? else {
            events.push(OutgoingEvent {
                position,
                event: EventNum::MIN,
                destinations: Vec::new(),
            });
            continue;
        };
        let mut destinations = servers::of_room(r, row.room)?;
        for server in row.also {
            if !destinations.contains(&server) {
                destinations.push(server);
            }
        }
        destinations.retain(|server| Some(*server) != row.from);
        events.push(OutgoingEvent {
            position,
            event: row.event,
            destinations,
        });
    }
    Ok(events)
}

/// None if the row is corrupt: it must not stop the rows after it.
fn skip_corrupt(row: Result<Outgoing, store::Error>) -> Result<Option<Outgoing>, rooms::Error> {
    match row {
        Err(error @ store::Error::Corrupt(_)) => {
            log::error!("an event is not sent to other servers: {error}");
            Ok(None)
        }
        row => Ok(Some(row?)),
    }
}

/// The first position of which rows are kept for servers with a cursor, if everything up to `relayed`
/// was relayed.
pub fn kept_from(relayed: Position) -> Position {
    Position(relayed.0.saturating_sub(KEPT_POSITIONS))
}

/// Events that one server is to receive, and the position from which to read on if there are more rows.
pub type EventsForServer = (Vec<(Position, EventNum)>, Option<Position>);

/// The events for `server` among the next `max` rows from `from` on.
pub fn for_server(
    r: &impl Reader,
    server: ServerNum,
    from: Position,
    max: usize,
) -> Result<EventsForServer, rooms::Error> {
    let mut events = Vec::new();
    let room_servers = r.room_servers()?;
    for (read, row) in r.outgoing()?.range(from..)?.enumerate() {
        let (key, row) = row?;
        let position = key.value();
        if read == max {
            return Ok((events, Some(position)));
        }
        let Some(row) = skip_corrupt(row.record(&key))? else {
            continue;
        };
        let is_addressed = row.also.contains(&server) || room_servers.has((row.room, server))?;
        if is_addressed && row.from != Some(server) {
            events.push((position, row.event));
        }
    }
    Ok((events, None))
}

/// The forward extremities since `from` of all rooms of `server`, and the events that it receives without
/// being in their rooms, such as the withdrawal of an invite. A server that lacks too many events receives
/// only these, and fetches what comes before them. The work grows with its rooms: run it on the pool.
pub fn extremities(
    r: &impl Reader,
    server: ServerNum,
    from: Position,
) -> Result<Vec<EventNum>, rooms::Error> {
    let name = servers::name(r, server)?;
    let mut found = Vec::new();
    for room in servers::rooms(r, server)? {
        for num in room::heads(r, room)?.extremities {
            let event = event::load(r, num)?;
            if event.header.position < from {
                continue;
            }
            match event.sender() {
                Ok(sender) if sender.server_name() == name => {}
                Ok(_) => found.push((event.header.position, num)),
                Err(error) => log::error!("{} is not sent to {name}: {error}", event.header.id),
            }
        }
    }
    for row in r.outgoing()?.range(from..)? {
        let (key, row) = row?;
        let row = skip_corrupt(row.record(&key))?;
        found.extend(
            row.filter(|row| row.also.contains(&server))
                .map(|row| (key.value(), row.event)),
        );
    }
    found.sort_unstable();
    found.dedup();
    Ok(found.into_iter().map(|(_, num)| num).collect())
}

pub fn set_cursor(tx: &Tx, server: ServerNum, cursor: Position) -> Result<(), rooms::Error> {
    tx.destination_cursors()?.insert(server, cursor)?;
    Ok(())
}

/// Removes the cursor of `server`, unless it is another by now.
pub fn remove_cursor(tx: &Tx, server: ServerNum, cursor: Position) -> Result<(), rooms::Error> {
    let mut cursors = tx.destination_cursors()?;
    let stored = cursors.get(server)?.map(|row| row.value());
    if stored == Some(cursor) {
        cursors.remove(server)?;
    }
    Ok(())
}

/// Saves the counter `sent`, and removes rows that no server needs.
pub fn save_sent(tx: &Tx, sent: Position) -> Result<(), rooms::Error> {
    tx.counters()?.insert(SENT, sent.0)?;
    let first = cursors(tx)?.into_iter().map(|(_, cursor)| cursor).min();
    let needed = first
        .unwrap_or(Position(sent.0 + 1))
        .min(Position(sent.0 + 1))
        .max(kept_from(sent));
    let mut left = REMOVE_BATCH;
    tx.outgoing()?.remove_in(Position::MIN..needed, |_, _| {
        left = left.saturating_sub(1);
        left > 0
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::skip_corrupt;
    use crate::store;

    #[test]
    fn a_corrupt_row_is_skipped_and_other_errors_are_not() {
        let corrupt = store::Error::corrupt("outgoing", 1, "does not decode");
        assert!(matches!(skip_corrupt(Err(corrupt)), Ok(None)));
        assert!(skip_corrupt(Err(store::Error::Closed)).is_err());
    }
}
