//! Creating a room, and the checks of state events that clients write.

pub mod blueprint;
pub mod checks;
pub mod presets;

pub use self::blueprint::{Blueprint, build};
