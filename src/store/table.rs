//! Tables: the same reads in a snapshot and in a transaction, writes in a transaction only.

use std::{
    borrow::Borrow,
    cell::Cell,
    fmt,
    marker::PhantomData,
    ops::{Bound, RangeBounds},
};

use redb::{
    AccessGuard, ReadOnlyTable, ReadableTable, ReadableTableMetadata, Table, TableDefinition,
    TableHandle,
};

use super::{
    Error,
    field::{Field, FixedWidth, bytes_of, view_of},
    key::{Bounds, Prefix},
    packed::{Packed, Record, pack_before},
};

type Raw = &'static [u8];
pub(super) type RawSnapshotTable = ReadOnlyTable<Raw, Raw>;
pub(super) type RawTxTable<'t> = Table<'t, Raw, Raw>;

pub(super) const fn raw(name: &str) -> TableDefinition<'_, Raw, Raw> {
    TableDefinition::new(name)
}

/// A key or a value that was read.
pub struct Found<'r, F: Field> {
    guard: AccessGuard<'r, Raw>,
    table: &'r str,
    field: PhantomData<F>,
}

impl<F: Field> Found<'_, F> {
    pub fn value(&self) -> F::View<'_> {
        view_of::<F>(self.guard.value())
    }
}

impl<F: Field> fmt::Debug for Found<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.guard.value().len())
    }
}

impl<T: Record> Found<'_, Packed<T>> {
    /// The record, which is in the row of `key`.
    pub fn record<K: Field>(&self, key: &Found<'_, K>) -> Result<T, Error> {
        let record = self.value().unpack();
        record.map_err(|_| Error::corrupt(self.table, key.value(), "does not decode"))
    }
}

fn found<'r, F: Field>(guard: AccessGuard<'r, Raw>, table: &'r str) -> Found<'r, F> {
    let field = PhantomData;
    Found {
        guard,
        table,
        field,
    }
}

/// The reads of a table, in a [`Snapshot`](super::Snapshot) or a [`Tx`](super::Tx).
pub trait Rows<K: Field, V: Field> {
    fn name(&self) -> &str;

    fn get<'k>(&self, key: impl Borrow<K::View<'k>>) -> Result<Option<Found<'_, V>>, Error>;

    /// The rows within `bounds`, in the order of their keys, readable from both ends.
    fn within(&self, bounds: &Bounds<K>) -> Result<Range<'_, K, V>, Error>;

    /// The rows whose whole keys are in `range`.
    fn range<'k, B>(&self, range: impl RangeBounds<B> + 'k) -> Result<Range<'_, K, V>, Error>
    where
        B: Borrow<K::View<'k>> + 'k,
    {
        self.within(&Bounds::range(&range))
    }

    /// The rows whose keys begin with `prefix`: one part of the key, or a tuple of its first parts.
    fn prefix(&self, prefix: impl Prefix<K>) -> Result<Range<'_, K, V>, Error> {
        self.within(&Bounds::prefix(&prefix))
    }

    /// The rows whose keys begin with `prefix`, and whose next part is in `range`.
    fn prefix_range<P: Prefix<K>>(
        &self,
        prefix: P,
        range: impl RangeBounds<P::Next>,
    ) -> Result<Range<'_, K, V>, Error>
    where
        P::Next: FixedWidth,
    {
        self.within(&Bounds::prefix_range(&prefix, &range))
    }

    /// The rows whose keys begin with `prefix`, from the whole key `start` on.
    fn prefix_from<'k, B>(
        &self,
        prefix: impl Prefix<K>,
        start: Bound<B>,
    ) -> Result<Range<'_, K, V>, Error>
    where
        B: Borrow<K::View<'k>>,
    {
        self.within(&Bounds::prefix_from(&prefix, start))
    }

    /// The first parts of all keys, each once and found by a lookup of its own.
    fn first_parts<P: Prefix<K> + FixedWidth>(&self) -> Result<Vec<P>, Error> {
        let mut found = Vec::new();
        let mut bounds = Bounds::all();
        while let Some(row) = self.within(&bounds)?.next() {
            let part = P::read(&mut row?.0.guard.value(), false);
            bounds = Bounds::behind(&part);
            found.push(part);
        }
        Ok(found)
    }

    /// All rows.
    fn all(&self) -> Result<Range<'_, K, V>, Error> {
        self.within(&Bounds::all())
    }

    fn len(&self) -> Result<u64, Error>;

    fn is_empty(&self) -> Result<bool, Error> {
        Ok(self.len()? == 0)
    }

    fn has<'k>(&self, key: impl Borrow<K::View<'k>>) -> Result<bool, Error> {
        Ok(self.get(key)?.is_some())
    }
}

pub trait Records<K: Field, T: Record>: Rows<K, Packed<T>> {
    fn load<'k>(&self, key: impl Borrow<K::View<'k>>) -> Result<Option<T>, Error> {
        let Some(row) = self.get(key.borrow())? else {
            return Ok(None);
        };
        let record = row.value().unpack();
        record
            .map(Some)
            .map_err(|_| Error::corrupt(self.name(), key.borrow(), "does not decode"))
    }
}

impl<K: Field, T: Record, R: Rows<K, Packed<T>>> Records<K, T> for R {}

pub struct Range<'r, K: Field, V: Field> {
    rows: redb::Range<'r, Raw, Raw>,
    table: &'r str,
    types: PhantomData<(K, V)>,
}

impl<'r, K: Field, V: Field> Range<'r, K, V> {
    fn new(rows: redb::Range<'r, Raw, Raw>, table: &'r str) -> Self {
        let types = PhantomData;
        Self { rows, table, types }
    }

    fn row(&self, (key, value): RawRow<'r>) -> Row<'r, K, V> {
        (found(key, self.table), found(value, self.table))
    }
}

/// Key and value.
pub type Row<'r, K, V> = (Found<'r, K>, Found<'r, V>);

impl<'r, K: Field, V: Field> Iterator for Range<'r, K, V> {
    type Item = Result<Row<'r, K, V>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = raw_next(&mut self.rows)?;
        Some(row.map(|row| self.row(row)))
    }
}

impl<K: Field, V: Field> DoubleEndedIterator for Range<'_, K, V> {
    fn next_back(&mut self) -> Option<Self::Item> {
        let row = raw_next_back(&mut self.rows)?;
        Some(row.map(|row| self.row(row)))
    }
}

/// A table in a snapshot.
pub struct SnapshotTable<'s, K: Field, V: Field> {
    table: &'s RawSnapshotTable,
    types: PhantomData<(K, V)>,
}

impl<'s, K: Field, V: Field> SnapshotTable<'s, K, V> {
    pub(super) fn new(table: &'s RawSnapshotTable) -> Self {
        Self {
            table,
            types: PhantomData,
        }
    }
}

impl<K: Field, V: Field> Rows<K, V> for SnapshotTable<'_, K, V> {
    fn name(&self) -> &str {
        self.table.name()
    }

    fn get<'k>(&self, key: impl Borrow<K::View<'k>>) -> Result<Option<Found<'_, V>>, Error> {
        let row = raw_get(self.table, &bytes_of::<K>(key.borrow()))?;
        Ok(row.map(|value| found(value, self.name())))
    }

    fn within(&self, bounds: &Bounds<K>) -> Result<Range<'_, K, V>, Error> {
        let rows = raw_range(self.table, bounds.as_slices())?;
        Ok(Range::new(rows, self.name()))
    }

    fn len(&self) -> Result<u64, Error> {
        Ok(self.table.len()?)
    }
}

/// A table in a write transaction. Keep it in the smallest scope: redb refuses to open a table that is
/// open.
pub struct TxTable<'t, K: Field, V: Field> {
    table: RawTxTable<'t>,
    dirty: &'t Cell<bool>,
    types: PhantomData<(K, V)>,
}

impl<K: Field, V: Field> Rows<K, V> for TxTable<'_, K, V> {
    fn name(&self) -> &str {
        self.table.name()
    }

    fn get<'k>(&self, key: impl Borrow<K::View<'k>>) -> Result<Option<Found<'_, V>>, Error> {
        let row = raw_get(&self.table, &bytes_of::<K>(key.borrow()))?;
        Ok(row.map(|value| found(value, self.name())))
    }

    fn within(&self, bounds: &Bounds<K>) -> Result<Range<'_, K, V>, Error> {
        let rows = raw_range(&self.table, bounds.as_slices())?;
        Ok(Range::new(rows, self.name()))
    }

    fn len(&self) -> Result<u64, Error> {
        Ok(self.table.len()?)
    }
}

impl<'t, K: Field, V: Field> TxTable<'t, K, V> {
    /// `dirty` is set when the table changes.
    pub(super) fn new(table: RawTxTable<'t>, dirty: &'t Cell<bool>) -> Self {
        Self {
            table,
            dirty,
            types: PhantomData,
        }
    }

    /// Replaces the row if there is one.
    pub fn insert<'k, 'v>(
        &mut self,
        key: impl Borrow<K::View<'k>>,
        value: impl Borrow<V::View<'v>>,
    ) -> Result<(), Error> {
        self.dirty.set(true);
        let (key, value) = (bytes_of::<K>(key.borrow()), bytes_of::<V>(value.borrow()));
        raw_insert(&mut self.table, &key, &value)
    }

    /// Returns whether there was a row.
    pub fn remove<'k>(&mut self, key: impl Borrow<K::View<'k>>) -> Result<bool, Error> {
        self.dirty.set(true);
        raw_remove(&mut self.table, &bytes_of::<K>(key.borrow()))
    }

    /// Removes the rows in `range` for which `matches` returns `true`.
    pub fn remove_in<'k, B>(
        &mut self,
        range: impl RangeBounds<B> + 'k,
        mut matches: impl FnMut(K::View<'_>, V::View<'_>) -> bool,
    ) -> Result<(), Error>
    where
        B: Borrow<K::View<'k>> + 'k,
    {
        self.dirty.set(true);
        let mut matches =
            |key: &[u8], value: &[u8]| matches(view_of::<K>(key), view_of::<V>(value));
        let bounds = Bounds::<K>::range(&range);
        raw_remove_in(&mut self.table, bounds.as_slices(), &mut matches)
    }

    /// Removes the rows whose keys begin with `prefix`.
    pub fn remove_prefix(&mut self, prefix: impl Prefix<K>) -> Result<(), Error> {
        self.dirty.set(true);
        let bounds = Bounds::prefix(&prefix);
        raw_remove_in(&mut self.table, bounds.as_slices(), &mut |_, _| true)
    }
}

impl<K: Field, T: Record> TxTable<'_, K, Packed<T>> {
    pub fn put<'k>(&mut self, key: impl Borrow<K::View<'k>>, record: &T) -> Result<(), Error> {
        self.dirty.set(true);
        let key = bytes_of::<K>(key.borrow());
        raw_insert(&mut self.table, &key, &pack_before(record, &[]))
    }
}

// These functions are not generic in the types of a table, so that they are compiled once.
type RawRow<'r> = (AccessGuard<'r, Raw>, AccessGuard<'r, Raw>);

fn raw_get<'t>(
    table: &'t impl ReadableTable<Raw, Raw>,
    key: &[u8],
) -> Result<Option<AccessGuard<'t, Raw>>, Error> {
    #[cfg(test)]
    reads::add();
    Ok(table.get(key)?)
}

fn raw_range<'t>(
    table: &'t impl ReadableTable<Raw, Raw>,
    bounds: (Bound<&[u8]>, Bound<&[u8]>),
) -> Result<redb::Range<'t, Raw, Raw>, Error> {
    Ok(table.range::<&[u8]>(bounds)?)
}

fn raw_next<'r>(rows: &mut redb::Range<'r, Raw, Raw>) -> Option<Result<RawRow<'r>, Error>> {
    #[cfg(test)]
    reads::add();
    Some(rows.next()?.map_err(Error::from))
}

fn raw_next_back<'r>(rows: &mut redb::Range<'r, Raw, Raw>) -> Option<Result<RawRow<'r>, Error>> {
    #[cfg(test)]
    reads::add();
    Some(rows.next_back()?.map_err(Error::from))
}

fn raw_insert(table: &mut RawTxTable<'_>, key: &[u8], value: &[u8]) -> Result<(), Error> {
    table.insert(key, value)?;
    Ok(())
}

fn raw_remove(table: &mut RawTxTable<'_>, key: &[u8]) -> Result<bool, Error> {
    Ok(table.remove(key)?.is_some())
}

fn raw_remove_in(
    table: &mut RawTxTable<'_>,
    bounds: (Bound<&[u8]>, Bound<&[u8]>),
    matches: &mut dyn FnMut(&[u8], &[u8]) -> bool,
) -> Result<(), Error> {
    Ok(table.retain_in::<&[u8], _>(bounds, |key, value| !matches(key, value))?)
}

/// Removes the first rows within `bounds`, at most `max`; how many.
pub(super) fn remove_first(
    table: &mut RawTxTable<'_>,
    bounds: (Bound<&[u8]>, Bound<&[u8]>),
    max: usize,
) -> Result<usize, Error> {
    let rows = raw_range(table, bounds)?.take(max);
    let keys = rows.map(|row| Ok(row?.0.value().to_vec()));
    let keys = keys.collect::<Result<Vec<_>, Error>>()?;
    for key in &keys {
        raw_remove(table, key)?;
    }
    Ok(keys.len())
}

/// How often the rows of tables are looked up on a thread: for tests of what grows with what.
#[cfg(test)]
pub(crate) mod reads {
    use std::cell::Cell;

    thread_local! {
        static READS: Cell<usize> = const { Cell::new(0) };
    }

    pub(super) fn add() {
        READS.set(READS.get() + 1);
    }

    /// The number of rows that `read` looks up.
    pub(crate) fn during<T>(read: impl FnOnce() -> T) -> (T, usize) {
        let before = READS.get();
        let result = read();
        (result, READS.get() - before)
    }
}
