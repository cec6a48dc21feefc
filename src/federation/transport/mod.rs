//! Connections to other servers and to the web.

pub mod address;
pub mod client;
pub mod connect;
pub mod throttle;
pub mod tls;
pub mod web;
pub mod web_url;
