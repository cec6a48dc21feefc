//! hearth: a Matrix homeserver for the smallest computers that people own.

pub mod clock;
pub mod pool;
pub mod protocol;
pub mod rooms;
pub mod store;
pub mod users;
