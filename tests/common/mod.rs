//! What the tests of a started server share: a server in a directory of its own, and a small client.

pub mod files;
pub mod http;
pub mod people;
pub mod server;
