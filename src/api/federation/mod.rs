//! The server-server API. One file per family of endpoints, named as ruma names them.

pub mod directory;
pub mod discovery;
pub mod keys;
pub mod query;
pub mod transaction;
pub mod version;
