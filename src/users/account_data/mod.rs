//! Account data (client-server API, "Client Config"), and what the server itself reads of them: push rules,
//! tags, ignored users.
//!
//! Every change has a position. `account_data_log` has one row per type, at the position of its last change.

mod client;
pub mod ignored_users;
pub mod invite_permissions;
pub(super) mod local_notification_settings;
pub mod push_rules;
mod rows;
mod sent_push_rules;
pub mod tags;

pub(super) use self::rows::remove_all;
pub use self::{
    client::{changes_between, kinds_in, load_for_client},
    rows::{FULLY_READ, GLOBAL, fits, load, put, remove_of_room},
};
