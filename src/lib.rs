//! hearth: a Matrix homeserver for the smallest computers that people own.

pub mod acme;
pub mod api;
pub mod body_budget;
pub mod cache;
pub mod cli;
pub mod clock;
pub mod config;
pub mod executor;
pub mod fair_semaphore;
pub mod federation;
pub mod http;
pub mod logging;
pub mod media;
pub mod pool;
pub mod protocol;
pub mod push;
pub mod rates;
pub mod rooms;
pub mod server;
pub mod shares;
pub mod single_flight;
pub mod stop;
pub mod store;
pub mod sync;
pub mod systemd;
pub mod users;
