//! Migrates the tables of an older program before anything else reads them.

mod room_types;

use std::collections::BTreeMap;

use redb::{Database, ReadableTable, TableError, WriteTransaction};

use super::{
    Error,
    catalog::{TABLES, TableInfo, create_all},
    field::{bytes_of, view_of},
    table::raw,
};

const VERSIONS: &str = "table_versions";

/// From version `from` of a table to `from + 1`. From 0: fills a table that older databases lack, in its
/// version of now.
pub(super) struct Migration {
    pub table: &'static str,
    pub from: u32,
    pub step: fn(&WriteTransaction) -> Result<(), Error>,
}

/// The row of `table_versions` for the database as a whole.
const DATABASE: &str = "database";
/// Raised when no step leads from an older database to this one. Format 0 had no such row.
const FORMAT: u32 = 1;

const MIGRATIONS: &[Migration] = &[Migration {
    table: "room_types",
    from: 0,
    step: room_types::fill,
}];

/// Creates missing tables and runs every due migration, in one transaction.
///
/// # Errors
/// [`Error::TooNew`] if a table is newer than this program; [`Error::TooOld`] if no migration leads to
/// this version, as from a database of before the first release.
pub(super) fn run(db: &Database) -> Result<(), Error> {
    run_for(db, TABLES, MIGRATIONS, create_all)
}

/// [`run`] for other tables and migrations; `create` creates the missing tables.
pub(super) fn run_for(
    db: &Database,
    tables: &[TableInfo],
    steps: &[Migration],
    create: impl Fn(&WriteTransaction) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut txn = db.begin_write()?;
    let mut stored = stored_versions(&txn)?;
    let format = stored.remove(DATABASE);
    let is_new = format.is_none() && stored.is_empty();
    if format != Some(FORMAT) && !is_new {
        return Err(match format {
            Some(newer) if newer > FORMAT => Error::TooNew {
                table: DATABASE.into(),
                stored: newer,
            },
            _ => Error::TooOld,
        });
    }
    for (name, version) in &stored {
        let known = tables.iter().find(|table| table.name == name);
        if known.is_none_or(|table| table.version < *version) {
            return Err(Error::TooNew {
                table: name.as_str().into(),
                stored: *version,
            });
        }
    }
    if is_new {
        set_version(&txn, DATABASE, FORMAT)?;
    }
    let mut changed = is_new;
    for table in tables {
        let stored = stored.get(table.name).copied();
        if stored == Some(table.version) {
            continue;
        }
        let fill = steps
            .iter()
            .find(|step| step.table == table.name && step.from == 0);
        if stored.is_none()
            && !is_new
            && let Some(fill) = fill
        {
            log::info!("filling the table `{}`", table.name);
            (fill.step)(&txn)?;
        }
        for from in stored.unwrap_or(table.version)..table.version {
            let due = steps
                .iter()
                .find(|step| step.table == table.name && step.from == from)
                .ok_or(Error::TooOld)?;
            log::info!(
                "bringing the table `{}` to version {}",
                table.name,
                from + 1
            );
            (due.step)(&txn)?;
        }
        set_version(&txn, table.name, table.version)?;
        changed = true;
    }
    if changed {
        create(&txn)?;
        txn.set_quick_repair(true);
        txn.commit()?;
    } else {
        txn.abort()?;
    }
    Ok(())
}

fn set_version(txn: &WriteTransaction, table: &str, version: u32) -> Result<(), Error> {
    let (table, version) = (bytes_of::<&str>(&table), bytes_of::<u32>(&version));
    txn.open_table(raw(VERSIONS))?.insert(&*table, &*version)?;
    Ok(())
}

/// The rows of `table_versions`.
///
/// # Errors
/// [`Error::TooOld`] if the types of the table are not bytes.
pub(super) fn stored_versions(txn: &WriteTransaction) -> Result<BTreeMap<String, u32>, Error> {
    let table = txn.open_table(raw(VERSIONS)).map_err(|error| match error {
        TableError::TableTypeMismatch { .. } => Error::TooOld,
        error => error.into(),
    })?;
    let mut versions = BTreeMap::new();
    for row in table.iter()? {
        let (name, version) = row?;
        let name = view_of::<&str>(name.value()).to_owned();
        versions.insert(name, view_of::<u32>(version.value()));
    }
    Ok(versions)
}
