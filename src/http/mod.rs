//! The edge: between the sockets and the handlers of `api/`.
//!
//! A connection is accepted ([`listen`]), perhaps unwrapped from TLS ([`tls`]) and served by hyper
//! ([`connection`]). Each request goes through the [`Edge`]: tide chooses the [`route`], ruma makes
//! the typed request, the handler answers, and what goes wrong becomes the specification's error
//! ([`error`]). Only this module names tide, http-types or hyper's server.
//!
//! In order, for each request: CORS preflight; route; access token; rate; body; parse; handler.
//! Nothing waits for a handler that has not been read to its end, but for files, which the handler
//! takes as they come ([`files`]); and nobody has a body read for
//! them before they have said who they are.

mod auth;
mod body;
mod connection;
mod cors;
mod edge;
mod error;
mod files;
mod households;
mod limits;
mod listen;
mod path;
mod peer;
mod route;
mod routes;
mod stream;
#[cfg(test)]
mod tests;
mod tls;

pub use self::{
    edge::Edge,
    listen::{Front, ListenError, Listeners},
    tls::Certificate,
};
