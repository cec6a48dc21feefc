//! The edge: between the sockets and the handlers of `api/`.
//!
//! A connection is accepted ([`listen`]), perhaps unwrapped from TLS ([`tls`]) and served by hyper
//! ([`connection`]). Each request goes through the [`Edge`]: tide chooses the [`route`], ruma makes
//! the typed request, the handler answers, and what goes wrong becomes the specification's error
//! ([`error`]). Only this module names tide, http-types or hyper's server.
//!
//! Each request passes, in this order: CORS preflight; route; access token; rate limit; keys of the server
//! that signed it; body; signature; parser; handler. A body is read only after its user is authenticated,
//! or after the server that claims to have signed it has published its key. It is read whole before the
//! handler runs, except where the handler reads it as a stream ([`files`]).
//!
//! What all connections share cannot be held by a few: [`connection_slots`], [`crate::body_budget`].

mod admin_socket;
mod auth;
mod connection;
mod connection_slots;
mod cors;
mod edge;
mod error;
mod files;
mod gate;
mod lenience;
mod limits;
mod listen;
mod path;
mod peer;
mod refused_arguments;
mod request_body;
mod response_body;
mod route;
mod routes;
mod sender;
mod stream;
#[cfg(test)]
mod tests;
mod tls;
mod unix_socket;

pub use self::{
    admin_socket::{AdminSocket, admin_socket_path, is_own_admin_socket, is_server_running},
    edge::Edge,
    gate::Gate,
    listen::{ListenError, Listeners},
    tls::{Certificate, CertificateError},
};
