//! Device lists of users of other servers. The caller decides which users are tracked, and logs changes in
//! [`device_lists`](super::device_lists).
//!
//! A list that was requested and has not been fetched yet is a row too: stale and empty.

mod check;
mod list;
mod response;
mod updates;

pub use self::{
    check::{are_valid_device_keys, is_valid_cross_signing_key},
    list::{
        Device, devices, is_same, is_stale, is_tracked, load, mark_all_stale, mark_stale, remove,
        replace, stale_users, track, tracked_users,
    },
    response::DeviceListResponse,
    updates::{
        UpdateOutcome, apply_signing_key_update, apply_update, is_valid_signing_key_update,
        is_valid_update,
    },
};
