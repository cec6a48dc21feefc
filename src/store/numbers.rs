//! The numbers and positions that a transaction assigns.

use super::{
    Error,
    catalog::Reader,
    field::{Field, FixedWidth},
    ids::{DeviceNum, EventNum, Position, RoomNum, ServerNum, UserNum},
    table::Rows,
    tx::{Counters, Tx},
};

/// The counters of positions and of events are written once in so many.
const RESERVED: u64 = 4096;
const POSITION: &str = "position";
const EVENT: &str = "event";
/// More than a server assigns between a copy and its loss, if the clock is wrong.
const POSITIONS_PER_RESTORE: u64 = 1 << 32;
/// More than a server assigns in a millisecond. With today's milliseconds, positions stay below 2^53.
const POSITIONS_PER_MS: u64 = 1 << 10;
/// The position at which the database was last restored.
const RESTORED: &str = "restored";

impl Counters {
    /// The last numbers that the database has assigned. Positions and events continue behind the reserved
    /// ones, so that none is ever assigned twice. Older databases have no counter of events, and have never
    /// deleted any.
    pub(super) fn load(reader: &impl Reader) -> Result<Self, Error> {
        let counters = reader.counters()?;
        let reserved = |name: &str| {
            let row = counters.get(name)?;
            Ok::<_, Error>(row.map_or(0, |row| row.value()))
        };
        let (position, event) = (reserved(POSITION)?, reserved(EVENT)?);
        let last_event = last(reader.events()?)?.map_or(0, |n: EventNum| n.0);
        Ok(Self {
            position,
            position_reserved: position,
            event: event.max(last_event),
            event_reserved: event,
            user: last(reader.users()?)?.map_or(0, |n: UserNum| n.0),
        })
    }
}

/// The position that the database had when it was last restored. What clients and servers have of positions up to it
/// may be of a time that this database does not know.
pub fn restored_position(reader: &impl Reader) -> Result<Position, Error> {
    let row = reader.counters()?;
    let row = row.get(RESTORED)?;
    Ok(row.map_or(Position::MIN, |row| Position(row.value())))
}

fn last<K, V>(table: impl Rows<K, V>) -> Result<Option<K>, Error>
where
    K: FixedWidth,
    V: Field,
{
    let last = table.all()?.next_back().transpose()?;
    Ok(last.map(|(key, _)| key.value()))
}

impl Tx {
    /// A new position, larger than all before.
    pub fn next_position(&self) -> Result<Position, Error> {
        let mut counters = self.counters.get();
        counters.position += 1;
        if counters.position > counters.position_reserved {
            counters.position_reserved += RESERVED;
            self.counters()?
                .insert(POSITION, counters.position_reserved)?;
        }
        self.counters.set(counters);
        Ok(Position(counters.position))
    }

    /// For a database that is restored now: positions continue behind all that were assigned after the copy was
    /// made, also after it was restored before. So they follow the clock: the copy does not know of that.
    pub fn skip_positions(&self, now_ms: u64) -> Result<(), Error> {
        let mut counters = self.counters.get();
        let behind_copy = counters.position_reserved + POSITIONS_PER_RESTORE;
        // A clock that is centuries ahead.
        let of_now = now_ms.min((1 << 42) - 1) * POSITIONS_PER_MS;
        counters.position = behind_copy.max(of_now);
        counters.position_reserved = counters.position;
        let mut table = self.counters()?;
        table.insert(POSITION, counters.position)?;
        table.insert(RESTORED, counters.position)?;
        self.counters.set(counters);
        Ok(())
    }

    /// The number of a new event, larger than all before, also than those of events that were deleted.
    pub fn next_event(&self) -> Result<EventNum, Error> {
        let mut counters = self.counters.get();
        counters.event += 1;
        if counters.event > counters.event_reserved {
            counters.event_reserved = counters.event + RESERVED;
            self.counters()?.insert(EVENT, counters.event_reserved)?;
        }
        self.counters.set(counters);
        Ok(EventNum(counters.event))
    }

    pub fn next_room(&self) -> Result<RoomNum, Error> {
        self.count("room").map(RoomNum)
    }

    pub fn next_device(&self) -> Result<DeviceNum, Error> {
        self.count("device").map(DeviceNum)
    }

    /// The number of `user_id`, assigned now if it has none.
    pub fn user_num(&self, user_id: &str) -> Result<UserNum, Error> {
        if let Some(row) = self.user_nums()?.get(user_id)? {
            return Ok(row.value());
        }
        let mut counters = self.counters.get();
        counters.user += 1;
        self.counters.set(counters);
        let user = UserNum(counters.user);
        self.user_nums()?.insert(user_id, user)?;
        self.users()?.insert(user, user_id)?;
        Ok(user)
    }

    /// The number of the other server `name`, assigned now if it has none.
    pub fn server_num(&self, name: &str) -> Result<ServerNum, Error> {
        if let Some(row) = self.server_nums()?.get(name)? {
            return Ok(row.value());
        }
        let server = ServerNum(self.count("server")?);
        self.server_nums()?.insert(name, server)?;
        self.servers()?.insert(server, name)?;
        Ok(server)
    }

    /// Increments a counter in the table, for rows that can be deleted.
    fn count(&self, name: &'static str) -> Result<u32, Error> {
        let mut table = self.counters()?;
        let next = table.get(name)?.map_or(0, |row| row.value()) + 1;
        table.insert(name, next)?;
        u32::try_from(next).map_err(|_| Error::corrupt("counters", name, "out of numbers"))
    }
}
