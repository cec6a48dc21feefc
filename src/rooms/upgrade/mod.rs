//! Room upgrades: replacing a room by one of another version.

pub mod replace;
pub mod room_data;
pub mod user_data;

pub use self::replace::{Upgrade, upgrade};
