//! For tests and benchmarks of the started binary: a server process, a blocking client and requests.

pub mod client_api;
pub mod http;
pub mod large_files;
pub mod server;
