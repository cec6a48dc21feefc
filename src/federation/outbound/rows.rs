//! What the store has of what is to be sent.

use crate::{
    rooms::{self, event, room, servers},
    store::{EventNum, Position, Reader, Rows, ServerNum, Tx, records::Outgoing},
};

/// The counter that says up to where every server has everything, or is in `behind`.
const SENT: &str = "sent";
/// How many rows that nobody needs are removed at once.
const REMOVED: usize = 1000;
/// For how many positions rows are kept for servers that are behind.
const KEPT: u64 = 100_000;

/// Up to where every server has everything, or is in `behind`.
pub fn sent(r: &impl Reader) -> Result<Position, rooms::Error> {
    let sent = r.counters()?.get(SENT)?.map_or(0, |row| row.value());
    Ok(Position(sent))
}

/// The servers that do not have everything, and from where on.
pub fn behind(r: &impl Reader) -> Result<Vec<(ServerNum, Position)>, rooms::Error> {
    let mut behind = Vec::new();
    for row in r.behind()?.range(ServerNum::MIN..=ServerNum::MAX)? {
        let (server, from) = row?;
        behind.push((server.value(), from.value()));
    }
    Ok(behind)
}

/// An event that is to be sent, and to whom.
pub type Row = (Position, EventNum, Vec<ServerNum>);

/// The rows after `from`.
pub fn after(r: &impl Reader, from: Position, most: usize) -> Result<Vec<Row>, rooms::Error> {
    let mut rows = Vec::new();
    for row in r.outgoing()?.range(Position(from.0 + 1)..)?.take(most) {
        let (position, row) = row?;
        let row: Outgoing = row.value().unpack()?;
        let mut to = servers::of_room(r, row.room)?;
        for server in row.also {
            if !to.contains(&server) {
                to.push(server);
            }
        }
        to.retain(|server| Some(*server) != row.from);
        rows.push((position.value(), row.event, to));
    }
    Ok(rows)
}

/// From where on rows are kept for servers that are behind, if everything up to `upto` has been
/// handed out.
pub fn kept_from(upto: Position) -> Position {
    Position(upto.0.saturating_sub(KEPT))
}

/// What one server is to get, and where to go on if there is more to look at.
pub type Part = (Vec<(Position, EventNum)>, Option<Position>);

/// What `server` is to get of the rows from `from` on, of which `most` are looked at; and where to
/// go on, if there are more.
pub fn for_server(
    r: &impl Reader,
    server: ServerNum,
    from: Position,
    most: usize,
) -> Result<Part, rooms::Error> {
    let mut events = Vec::new();
    let room_servers = r.room_servers()?;
    for (looked_at, row) in r.outgoing()?.range(from..)?.enumerate() {
        let (position, row) = row?;
        if looked_at == most {
            return Ok((events, Some(position.value())));
        }
        let row: Outgoing = row.value().unpack()?;
        let wants = row.also.contains(&server) || room_servers.has((row.room, server))?;
        if wants && row.from != Some(server) {
            events.push((position.value(), row.event));
        }
    }
    Ok((events, None))
}

/// What `server` is to get that has been away too long to get everything from `from` on: with what
/// each of its rooms ends, from which it finds the rest. Grows with its rooms: for the pool.
///
/// # Errors
/// If the store cannot be read.
pub fn current(
    r: &impl Reader,
    server: ServerNum,
    from: Position,
) -> Result<Vec<EventNum>, rooms::Error> {
    let name = servers::name(r, server)?;
    let mut ends = Vec::new();
    for room in servers::rooms(r, server)? {
        for num in room::heads(r, room)?.extremities {
            let event = event::load(r, num)?;
            if event.header.position >= from && event.sender()?.server_name() != name {
                ends.push((event.header.position, num));
            }
        }
    }
    ends.sort_unstable();
    Ok(ends.into_iter().map(|(_, num)| num).collect())
}

/// Notes that `server` lacks everything from `from` on.
pub fn fall_behind(tx: &Tx, server: ServerNum, from: Position) -> Result<(), rooms::Error> {
    tx.behind()?.insert(server, from)?;
    Ok(())
}

/// Notes that `server` has everything, unless it has fallen behind anew since it lacked everything
/// from `from` on.
pub fn catch_up(tx: &Tx, server: ServerNum, from: Position) -> Result<(), rooms::Error> {
    let mut behind = tx.behind()?;
    if behind.get(server)?.is_some_and(|row| row.value() == from) {
        behind.remove(server)?;
    }
    Ok(())
}

/// Notes that every server has everything up to `upto`, or is in `behind`, and removes rows that
/// nobody needs.
pub fn note(tx: &Tx, upto: Position) -> Result<(), rooms::Error> {
    tx.counters()?.insert(SENT, upto.0)?;
    let first = behind(tx)?.into_iter().map(|(_, from)| from).min();
    let needed = first
        .unwrap_or(Position(upto.0 + 1))
        .min(Position(upto.0 + 1))
        .max(kept_from(upto));
    let mut left = REMOVED;
    tx.outgoing()?.remove_in(Position::MIN..needed, |_, _| {
        left = left.saturating_sub(1);
        left > 0
    })?;
    Ok(())
}

/// The event as it goes to other servers.
pub fn pdu(r: &impl Reader, num: EventNum) -> Result<Vec<u8>, rooms::Error> {
    Ok(event::load(r, num)?.json)
}
