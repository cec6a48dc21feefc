//! Devices and keys of other servers' users.

pub mod device_lists;
pub mod user_keys;
