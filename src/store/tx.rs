//! The write transaction, as a job sees it.

use std::cell::{Cell, RefCell};

use redb::{Database, WriteTransaction};

use super::{
    Effect, Error,
    catalog::Reader,
    field::Field,
    ids::{DeviceNum, EventNum, Position, RoomNum, ServerNum, UserNum},
    table::{Rows, TxTable, raw},
};

/// How many positions are reserved at once, so that the counter is written once in as many.
const POSITIONS_RESERVED: u64 = 4096;
const POSITION: &str = "position";

/// The numbers that are given next. The writer owns them; a transaction works on a copy, which
/// becomes the writer's when the commit has succeeded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counters {
    position: u64,
    /// What the database holds: positions up to here may be given without writing.
    position_reserved: u64,
    event: u64,
    user: u32,
}

impl Counters {
    /// Where the database left off. Positions continue behind what was reserved, so that none is
    /// ever given twice.
    pub(super) fn load(reader: &impl Reader) -> Result<Self, Error> {
        let position = reader
            .counters()?
            .get(POSITION)?
            .map_or(0, |row| row.value());
        Ok(Self {
            position,
            position_reserved: position,
            event: last(reader.events()?)?.map_or(0, |n: EventNum| n.0),
            user: last(reader.users()?)?.map_or(0, |n: UserNum| n.0),
        })
    }
}

fn last<K, V>(table: impl Rows<K, V>) -> Result<Option<K>, Error>
where
    K: for<'k> Field<View<'k> = K>,
    V: Field,
{
    let last = table.range::<K>(..)?.next_back().transpose()?;
    Ok(last.map(|(key, _)| key.value()))
}

/// Where a transaction stood before a job began.
pub(super) struct Mark {
    counters: Counters,
    effects: usize,
}

/// An open write transaction. Jobs reach the tables through [`Reader`]'s methods; a table that a
/// job changes must be closed again before it calls anything that takes the `Tx`.
pub struct Tx {
    txn: WriteTransaction,
    counters: Cell<Counters>,
    /// Whether the job that runs has changed a table.
    dirty: Cell<bool>,
    /// Whether a job before it has.
    changed: Cell<bool>,
    effects: RefCell<Vec<Effect>>,
}

impl Tx {
    pub(super) fn begin(db: &Database, counters: Counters) -> Result<Self, Error> {
        Ok(Self {
            txn: db.begin_write()?,
            counters: Cell::new(counters),
            dirty: Cell::new(false),
            changed: Cell::new(false),
            effects: RefCell::default(),
        })
    }

    pub(super) fn open<K: Field, V: Field>(
        &self,
        name: &'static str,
    ) -> Result<TxTable<'_, K, V>, Error> {
        let table = self.txn.open_table(raw(name))?;
        Ok(TxTable::new(table, &self.dirty))
    }

    /// Before a job: from here it can be taken back if it changes no table.
    pub(super) fn mark(&self) -> Mark {
        self.changed.set(self.changed());
        self.dirty.set(false);
        Mark {
            counters: self.counters.get(),
            effects: self.effects.borrow().len(),
        }
    }

    /// Takes back what the job since `mark` did outside the tables; `false` if it changed a table,
    /// which only an abort takes back.
    pub(super) fn take_back(&self, mark: &Mark) -> bool {
        if self.dirty.get() {
            return false;
        }
        self.counters.set(mark.counters);
        self.effects.borrow_mut().truncate(mark.effects);
        true
    }

    /// Whether there is anything to commit.
    pub(super) fn changed(&self) -> bool {
        self.changed.get() || self.dirty.get()
    }

    pub(super) fn commit(self) -> Result<(Counters, Vec<Effect>), Error> {
        let (counters, effects) = (self.counters.get(), self.effects.into_inner());
        self.txn.commit()?;
        Ok((counters, effects))
    }

    /// Ends a transaction that changed no table: what it counted and asked for holds all the same.
    pub(super) fn end(self) -> Result<(Counters, Vec<Effect>), Error> {
        let (counters, effects) = (self.counters.get(), self.effects.into_inner());
        self.txn.abort()?;
        Ok((counters, effects))
    }

    /// Asks for `effect` once this transaction is committed.
    pub fn effect(&self, effect: Effect) {
        self.effects.borrow_mut().push(effect);
    }

    /// A new position, larger than every position given before.
    ///
    /// # Errors
    /// If the counter has to be written and cannot be.
    pub fn next_position(&self) -> Result<Position, Error> {
        let mut counters = self.counters.get();
        counters.position += 1;
        if counters.position > counters.position_reserved {
            counters.position_reserved += POSITIONS_RESERVED;
            self.counters()?
                .insert(POSITION, counters.position_reserved)?;
        }
        self.counters.set(counters);
        Ok(Position(counters.position))
    }

    /// The number of a new event. The caller stores the event in this transaction: events are
    /// never deleted, so the last row tells what was given.
    pub fn next_event(&self) -> EventNum {
        let mut counters = self.counters.get();
        counters.event += 1;
        self.counters.set(counters);
        EventNum(counters.event)
    }

    /// The number of a new room.
    ///
    /// # Errors
    /// If the counter cannot be read or written.
    pub fn next_room(&self) -> Result<RoomNum, Error> {
        self.count("room").map(RoomNum)
    }

    /// The number of a new device.
    ///
    /// # Errors
    /// If the counter cannot be read or written.
    pub fn next_device(&self) -> Result<DeviceNum, Error> {
        self.count("device").map(DeviceNum)
    }

    /// The number of `user_id`, given now if it has none yet.
    ///
    /// # Errors
    /// If the tables cannot be read or written.
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

    /// The number of the other server `name`, given now if it has none yet.
    ///
    /// # Errors
    /// If the tables cannot be read or written.
    pub fn server_num(&self, name: &str) -> Result<ServerNum, Error> {
        if let Some(row) = self.server_nums()?.get(name)? {
            return Ok(row.value());
        }
        let server = ServerNum(self.count("server")?);
        self.server_nums()?.insert(name, server)?;
        self.servers()?.insert(server, name)?;
        Ok(server)
    }

    /// Counts up in the table, for what can be deleted: its last row does not tell what was given.
    fn count(&self, name: &'static str) -> Result<u32, Error> {
        let mut table = self.counters()?;
        let next = table.get(name)?.map_or(0, |row| row.value()) + 1;
        table.insert(name, next)?;
        u32::try_from(next).map_err(|_| Error::corrupt("counters", name, "out of numbers"))
    }
}
