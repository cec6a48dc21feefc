//! The write transaction, as a job sees it.

use std::{
    cell::{Cell, RefCell},
    ops::Bound,
};

use redb::{Database, WriteTransaction};

use super::{
    Effect, Error,
    field::Field,
    table::{TxTable, raw, remove_first},
};

/// The last numbers that were assigned. The writer owns them; a transaction works on a copy, which
/// becomes the writer's when the commit has succeeded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counters {
    pub(super) position: u64,
    /// Positions up to here can be assigned without a write.
    pub(super) position_reserved: u64,
    pub(super) event: u64,
    /// Events up to here can be assigned without a write.
    pub(super) event_reserved: u64,
    pub(super) user: u32,
}

/// The state of a transaction before a job.
pub(super) struct Savepoint {
    counters: Counters,
    effects: usize,
}

/// An open write transaction. Jobs reach the tables through [`Reader`]'s methods; a table that a
/// job changes must be closed again before it calls anything that takes the `Tx`.
pub struct Tx {
    txn: WriteTransaction,
    pub(super) counters: Cell<Counters>,
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

    /// Removes the first rows of a table within `bounds`, at most `max`; how many.
    pub(super) fn remove_first(
        &self,
        name: &'static str,
        bounds: (Bound<&[u8]>, Bound<&[u8]>),
        max: usize,
    ) -> Result<usize, Error> {
        let mut table = self.txn.open_table(raw(name))?;
        let removed = remove_first(&mut table, bounds, max)?;
        self.dirty.set(self.dirty.get() || removed > 0);
        Ok(removed)
    }

    /// Before a job: from here it can be taken back if it changes no table.
    pub(super) fn savepoint(&self) -> Savepoint {
        self.changed.set(self.changed());
        self.dirty.set(false);
        Savepoint {
            counters: self.counters.get(),
            effects: self.effects.borrow().len(),
        }
    }

    /// Takes back what the job since `mark` did outside the tables; `false` if it changed a table,
    /// which only an abort takes back.
    pub(super) fn roll_back(&self, savepoint: &Savepoint) -> bool {
        if self.dirty.get() {
            return false;
        }
        self.counters.set(savepoint.counters);
        self.effects.borrow_mut().truncate(savepoint.effects);
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

    /// Ends a transaction that changed no table: its counters and effects hold all the same.
    pub(super) fn end(self) -> Result<(Counters, Vec<Effect>), Error> {
        let (counters, effects) = (self.counters.get(), self.effects.into_inner());
        self.txn.abort()?;
        Ok((counters, effects))
    }

    /// Has `effect` applied once this transaction is committed.
    pub fn effect(&self, effect: Effect) {
        self.effects.borrow_mut().push(effect);
    }
}
