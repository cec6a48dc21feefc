//! Server-side key backups: room keys that clients store, encrypted for themselves (client-server API,
//! "Server-side key backups").
//!
//! Keys are added to the latest version only; older ones can be read until they are deleted. A deleted backup
//! is in `pending_deletion_backups` until a background job has removed the last of its keys. Its version is
//! not used again.

mod deletion;
mod keys;
mod versions;

pub use self::{
    deletion::{delete_all, delete_pending, has_pending_deletion},
    keys::{Cursor, KeySelection, KeysPage, NewKey, RoomBackups, StoredKey, keys_page, parse},
    versions::skip_versions,
};

#[cfg(test)]
mod tests;
