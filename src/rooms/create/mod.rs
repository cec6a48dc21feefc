//! Creating a room: its presets, and what may be in the state events that clients write.

pub mod blueprint;
pub mod checks;
pub mod presets;

pub use self::blueprint::{Blueprint, build};
