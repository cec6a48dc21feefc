//! For tests and benchmarks of the started binary: a server process, a blocking client and requests.

#![allow(dead_code, reason = "each target uses a part")]

pub mod client_api;
pub mod http;
pub mod large_files;
pub mod push_gateway;
pub mod server;
