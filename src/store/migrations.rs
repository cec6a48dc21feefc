//! Brings the tables of an older program to this program's versions, before anything else reads
//! them.

use std::collections::BTreeMap;

use redb::{Database, ReadableTable, TableError, WriteTransaction};

use super::{
    Error,
    catalog::{TABLES, TableInfo, create_all},
    field::{bytes_of, view_of},
    table::raw,
};

const VERSIONS: &str = "table_versions";

/// One step of one table, from `from` to `from + 1`.
pub(super) struct Migration {
    /// The table.
    pub table: &'static str,
    /// The version that the step starts from.
    pub from: u32,
    /// Rewrites the rows.
    pub step: fn(&WriteTransaction) -> Result<(), Error>,
}

/// All steps.
const MIGRATIONS: &[Migration] = &[];

/// Makes missing tables and runs every step that is due, all in one transaction: after a power cut
/// the database is as before or as after.
///
/// # Errors
/// [`Error::TooNew`] if a table is newer than this program, [`Error::TooOld`] if the file is from before
/// the first release, [`Error::Corrupt`] if no step leads to
/// its version.
pub(super) fn run(db: &Database) -> Result<(), Error> {
    run_for(db, TABLES, MIGRATIONS, create_all)
}

/// Does what [`run`] says for other `tables` and `steps`; `create` makes the tables that are
/// missing.
pub(super) fn run_for(
    db: &Database,
    tables: &[TableInfo],
    steps: &[Migration],
    create: impl Fn(&WriteTransaction) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut txn = db.begin_write()?;
    let stored = stored_versions(&txn)?;
    for (name, version) in &stored {
        let known = tables.iter().find(|table| table.name == name);
        if known.is_none_or(|table| table.version < *version) {
            return Err(Error::TooNew {
                table: name.as_str().into(),
                stored: *version,
            });
        }
    }
    let mut changed = false;
    for table in tables {
        let stored = stored.get(table.name).copied();
        if stored == Some(table.version) {
            continue;
        }
        for from in stored.unwrap_or(table.version)..table.version {
            let due = steps
                .iter()
                .find(|step| step.table == table.name && step.from == from)
                .ok_or(Error::Corrupt("a table too old for this version"))?;
            log::info!(
                "bringing the table `{}` to version {}",
                table.name,
                from + 1
            );
            (due.step)(&txn)?;
        }
        let (name, version) = (
            bytes_of::<&str>(&table.name),
            bytes_of::<u32>(&table.version),
        );
        txn.open_table(raw(VERSIONS))?.insert(&*name, &*version)?;
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

/// The version of each table that there is.
///
/// # Errors
/// [`Error::TooOld`] if the tables are not of bytes.
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
