//! Deactivation.

use super::{
    moderation,
    rows::{NO_USER, load},
};
use crate::{
    store::{Reader, Tx, UserNum, records::Account},
    users::{
        Error, account_data,
        auth::{login_networks, login_tokens},
        devices, filters, key_backup, keys, profiles,
    },
};

/// Deactivates the account of `user`: it can never log in again, and its name stays taken. With `erase` its
/// profile, account data and filters are removed too, and its events are redacted for those who were not in the
/// room.
///
/// The caller makes it leave its rooms in the same transaction.
///
/// # Errors
/// [`Error::NotFound`] if there is no such account.
pub fn deactivate(tx: &Tx, user: UserNum, erase: bool) -> Result<(), Error> {
    let account = load(tx, user)?.ok_or(NO_USER)?;
    let account = Account {
        password_hash: None,
        deactivated: true,
        erased: account.erased || erase,
        admin: false,
        ..account
    };
    tx.accounts()?.put(user, &account)?;
    moderation::remove_all(tx, user)?;
    login_tokens::remove_of(tx, user)?;
    login_networks::remove_of(tx, user)?;
    devices::remove_all(tx, user, None)?;
    keys::remove_all(tx, user)?;
    key_backup::delete_all(tx, user)?;
    if erase {
        profiles::remove_all(tx, user)?;
        account_data::remove_all(tx, user)?;
        filters::remove_all(tx, user)?;
    }
    Ok(())
}
