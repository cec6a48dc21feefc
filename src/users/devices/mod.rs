//! Devices of local users.

mod lifecycle;
mod rows;

pub(super) use self::{
    lifecycle::{create, get_or_create},
    rows::{MAX_NAME_BYTES, check_display_name, check_id},
};
pub use self::{
    lifecycle::{remove, remove_all},
    rows::{all, sessions},
};
