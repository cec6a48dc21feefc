//! Tables as the rest of the server sees them: the same reads in a snapshot and in a transaction,
//! writes in a transaction only.

use std::{borrow::Borrow, cell::Cell, ops::RangeBounds};

use redb::{AccessGuard, Key, ReadOnlyTable, ReadableTable, Table, Value};

use super::{
    Error,
    packed::{Bytes, Packed, Record},
};

/// What can be read of a table, in a [`Snapshot`](super::Snapshot) or a [`Tx`](super::Tx).
pub trait Rows<K: Key + 'static, V: Value + 'static> {
    /// The row at `key`.
    fn get<'k>(
        &self,
        key: impl Borrow<K::SelfType<'k>>,
    ) -> Result<Option<AccessGuard<'_, V>>, Error>;

    /// The rows in `range`, in the order of their keys, readable from both ends.
    fn range<'k, B>(&self, range: impl RangeBounds<B> + 'k) -> Result<Range<'_, K, V>, Error>
    where
        B: Borrow<K::SelfType<'k>> + 'k;

    /// How many rows there are.
    fn len(&self) -> Result<u64, Error>;

    /// Whether there is no row.
    fn is_empty(&self) -> Result<bool, Error> {
        Ok(self.len()? == 0)
    }

    /// Whether there is a row at `key`.
    fn has<'k>(&self, key: impl Borrow<K::SelfType<'k>>) -> Result<bool, Error> {
        Ok(self.get(key)?.is_some())
    }
}

/// What can be read of a table of packed records.
pub trait Records<K: Key + 'static, T: Record>: Rows<K, Packed<T>> {
    /// The record at `key`.
    fn load<'k>(&self, key: impl Borrow<K::SelfType<'k>>) -> Result<Option<T>, Error> {
        self.get(key)?.map(|row| row.value().unpack()).transpose()
    }
}

impl<K: Key + 'static, T: Record, R: Rows<K, Packed<T>>> Records<K, T> for R {}

/// The rows of a range, from both ends.
pub struct Range<'r, K: Key + 'static, V: Value + 'static>(redb::Range<'r, K, V>);

/// A row: its key and its value.
pub type Row<'r, K, V> = (AccessGuard<'r, K>, AccessGuard<'r, V>);

impl<'r, K: Key + 'static, V: Value + 'static> Iterator for Range<'r, K, V> {
    type Item = Result<Row<'r, K, V>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|row| Ok(row?))
    }
}

impl<K: Key + 'static, V: Value + 'static> DoubleEndedIterator for Range<'_, K, V> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.0.next_back().map(|row| Ok(row?))
    }
}

/// A table in a snapshot.
pub struct SnapshotTable<'s, K: Key + 'static, V: Value + 'static>(
    pub(super) &'s ReadOnlyTable<K, V>,
);

impl<K: Key + 'static, V: Value + 'static> Rows<K, V> for SnapshotTable<'_, K, V> {
    fn get<'k>(
        &self,
        key: impl Borrow<K::SelfType<'k>>,
    ) -> Result<Option<AccessGuard<'_, V>>, Error> {
        Ok(ReadableTable::get(self.0, key)?)
    }

    fn range<'k, B>(&self, range: impl RangeBounds<B> + 'k) -> Result<Range<'_, K, V>, Error>
    where
        B: Borrow<K::SelfType<'k>> + 'k,
    {
        Ok(Range(ReadableTable::range(self.0, range)?))
    }

    fn len(&self) -> Result<u64, Error> {
        Ok(redb::ReadableTableMetadata::len(self.0)?)
    }
}

/// A table in a write transaction. Open it in the smallest scope: redb refuses to open it again
/// while it is held.
pub struct TxTable<'t, K: Key + 'static, V: Value + 'static> {
    pub(super) table: Table<'t, K, V>,
    pub(super) dirty: &'t Cell<bool>,
}

impl<K: Key + 'static, V: Value + 'static> Rows<K, V> for TxTable<'_, K, V> {
    fn get<'k>(
        &self,
        key: impl Borrow<K::SelfType<'k>>,
    ) -> Result<Option<AccessGuard<'_, V>>, Error> {
        Ok(self.table.get(key)?)
    }

    fn range<'k, B>(&self, range: impl RangeBounds<B> + 'k) -> Result<Range<'_, K, V>, Error>
    where
        B: Borrow<K::SelfType<'k>> + 'k,
    {
        Ok(Range(self.table.range(range)?))
    }

    fn len(&self) -> Result<u64, Error> {
        Ok(redb::ReadableTableMetadata::len(&self.table)?)
    }
}

impl<K: Key + 'static, V: Value + 'static> TxTable<'_, K, V> {
    /// Puts `value` at `key`, over what was there.
    pub fn insert<'k, 'v>(
        &mut self,
        key: impl Borrow<K::SelfType<'k>>,
        value: impl Borrow<V::SelfType<'v>>,
    ) -> Result<(), Error> {
        self.dirty.set(true);
        self.table.insert(key, value)?;
        Ok(())
    }

    /// Removes the row at `key`; whether there was one.
    pub fn remove<'k>(&mut self, key: impl Borrow<K::SelfType<'k>>) -> Result<bool, Error> {
        self.dirty.set(true);
        Ok(self.table.remove(key)?.is_some())
    }

    /// Removes every row in `range` for which `gone` holds.
    pub fn remove_in<'k, B>(
        &mut self,
        range: impl RangeBounds<B> + 'k,
        mut gone: impl FnMut(K::SelfType<'_>, V::SelfType<'_>) -> bool,
    ) -> Result<(), Error>
    where
        B: Borrow<K::SelfType<'k>> + 'k,
    {
        self.dirty.set(true);
        self.table
            .retain_in(range, |key, value| !gone(key, value))?;
        Ok(())
    }
}

impl<K: Key + 'static, T: Record> TxTable<'_, K, Packed<T>> {
    /// Packs `record` and puts it at `key`.
    pub fn put<'k>(&mut self, key: impl Borrow<K::SelfType<'k>>, record: &T) -> Result<(), Error> {
        self.insert(key, Bytes::pack(record))
    }
}
