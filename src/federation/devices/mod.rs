//! Devices and keys of users of other servers.

pub mod device_lists;
pub mod user_keys;
