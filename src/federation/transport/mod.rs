//! Connections to other servers and to the web.

pub mod address;
pub mod client;
pub mod connect;
mod idle;
mod parts;
pub mod poster;
pub mod slots;
pub mod throttle;
pub mod tls;
pub mod web;
pub mod web_url;
