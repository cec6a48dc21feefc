//! The edge: between the sockets and the handlers of `api/`.
//!
//! A connection is accepted ([`listen`]), perhaps unwrapped from TLS ([`tls`]) and served by hyper
//! ([`connection`]). Each request goes through the [`Edge`]: tide chooses the [`route`], ruma makes
//! the typed request, the handler answers, and what goes wrong becomes the specification's error
//! ([`error`]). Only this module names tide, http-types or hyper's server.
//!
//! Each request passes, in this order: CORS preflight; route; access token; rate limit; body; parser;
//! handler. A body is read only after the caller is authenticated. It is read whole before the
//! handler runs, except where the handler reads it as a stream ([`files`]).

mod auth;
mod connection;
mod cors;
mod edge;
mod error;
mod files;
mod gate;
mod limits;
mod listen;
mod network_connections;
mod path;
mod peer;
mod request_body;
mod response_body;
mod route;
mod routes;
mod stream;
#[cfg(test)]
mod tests;
mod tls;

pub use self::{
    edge::Edge,
    gate::Gate,
    listen::{ListenError, Listeners},
    tls::Certificate,
};
