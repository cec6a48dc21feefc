//! Device keys, one-time keys, cross-signing keys and their signatures (client-server API, "End-to-End
//! Encryption").
//!
//! A key is stored with every field that was uploaded, since its signatures cover all of them. The job that
//! changes a key which other users see logs that in [`super::device_lists`].

pub mod cross_signing;
pub mod device_keys;
pub mod one_time_keys;
pub mod signatures;
mod signed_json;

use super::device_lists;
use crate::store::{self, Tx, UserNum};

/// Removes the cross-signing keys of `user` and the user's signatures on the keys of others.
pub(super) fn remove_all(tx: &Tx, user: UserNum) -> Result<(), store::Error> {
    cross_signing::remove_all(tx, user)?;
    signatures::remove_all(tx, user)?;
    device_lists::cross_signing_keys_changed(tx, user)
}
