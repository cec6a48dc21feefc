//! Deleting backups. The keys may be more than one job removes.

use super::{
    keys,
    versions::{NO_BACKUP, last_version, parse_version},
};
use crate::{
    store::{self, Effect, Reader, Rows, Tx, UserNum},
    users::{Error, Users},
};

impl Users {
    /// Deletes a backup; its keys are removed later. Deleting it again succeeds.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there never was one.
    pub async fn delete_backup(&self, user: UserNum, version: &str) -> Result<(), Error> {
        let number = parse_version(version)?;
        self.store
            .write_shrinking(move |tx| {
                if number > last_version(tx, user)? {
                    return Err(NO_BACKUP);
                }
                Ok(delete(tx, user, number)?)
            })
            .await
    }
}

fn delete(tx: &Tx, user: UserNum, number: u32) -> Result<(), store::Error> {
    if tx.backups()?.remove((user, number))? {
        tx.pending_deletion_backups()?.insert((user, number), ())?;
        tx.effect(Effect::BackgroundJob);
    }
    Ok(())
}

/// Deletes all backups of `user`.
pub fn delete_all(tx: &Tx, user: UserNum) -> Result<(), store::Error> {
    let mut numbers = Vec::new();
    for row in tx.backups()?.prefix(user)? {
        numbers.push(row?.0.value().1);
    }
    for number in numbers {
        delete(tx, user, number)?;
    }
    Ok(())
}

/// Whether [`delete_pending`] has something to do.
pub fn has_pending_deletion(r: &impl Reader) -> Result<bool, store::Error> {
    Ok(!r.pending_deletion_backups()?.is_empty()?)
}

/// Removes some keys of a deleted backup.
pub fn delete_pending(tx: &Tx) -> Result<(), store::Error> {
    let first = {
        let table = tx.pending_deletion_backups()?;
        let first = table.all()?.next().transpose()?;
        first.map(|(backup, _)| backup.value())
    };
    let Some((user, number)) = first else {
        return Ok(());
    };
    let (_, next) = keys::remove_some(tx, user, number, None, None)?;
    if next.is_none() {
        tx.pending_deletion_backups()?.remove((user, number))?;
    }
    Ok(())
}
