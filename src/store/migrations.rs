//! Brings the tables of an older program to this program's versions, before anything else reads
//! them.

use redb::{Database, ReadableTable, TableDefinition, WriteTransaction};

use super::{
    Error,
    catalog::{TABLES, TableInfo, create_all},
};

const VERSIONS: TableDefinition<&str, u32> = TableDefinition::new("table_versions");

/// One step of one table, from `from` to `from + 1`.
pub(super) struct Migration {
    /// The table.
    pub table: &'static str,
    /// The version that the step starts from.
    pub from: u32,
    /// Rewrites the rows.
    pub step: fn(&WriteTransaction) -> Result<(), Error>,
}

/// All steps, oldest first.
pub(super) const MIGRATIONS: &[Migration] = &[];

/// Makes missing tables and runs every step that is due, all in one transaction: after a power cut
/// the database is as before or as after.
///
/// # Errors
/// [`Error::TooNew`] if a table is newer than this program, [`Error::Corrupt`] if no step leads to
/// its version.
pub(super) fn run(db: &Database, migrations: &[Migration]) -> Result<(), Error> {
    run_for(db, TABLES, migrations)
}

fn run_for(db: &Database, tables: &[TableInfo], migrations: &[Migration]) -> Result<(), Error> {
    let mut txn = db.begin_write()?;
    let mut changed = false;
    for table in tables {
        let stored = txn
            .open_table(VERSIONS)?
            .get(table.name)?
            .map(|row| row.value());
        for from in stored.unwrap_or(table.version)..table.version {
            let due = migrations
                .iter()
                .find(|m| m.table == table.name && m.from == from);
            (due.ok_or(Error::Corrupt("a table too old for this version"))?
                .step)(&txn)?;
        }
        match stored {
            Some(stored) if stored == table.version => {}
            Some(stored) if stored > table.version => {
                return Err(Error::TooNew {
                    table: table.name,
                    stored,
                    known: table.version,
                });
            }
            _ => {
                txn.open_table(VERSIONS)?
                    .insert(table.name, table.version)?;
                changed = true;
            }
        }
    }
    if changed {
        create_all(&txn)?;
        txn.set_quick_repair(true);
        txn.commit()?;
    } else {
        txn.abort()?;
    }
    Ok(())
}
