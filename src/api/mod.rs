//! The endpoints: one function each, which checks the request, calls what does the work, and answers.
//!
//! A handler is `async fn(Api, Caller, Request) -> Result<Response, Error>` with ruma's request and
//! response; [`Adapted`] wraps a request that clients send differently. The type of the caller follows
//! from the authentication in ruma's metadata:
//!
//! | ruma's scheme | caller |
//! |---|---|
//! | `AccessToken` | [`Session`] |
//! | `AccessTokenOptional` | `Option<Session>` |
//! | `NoAuthentication`, `NoAccessToken`, `AppserviceTokenOptional` | [`Unauthenticated`] |
//! | `ServerSignatures` | [`Origin`] |
//!
//! A handler whose response grows with a room or an account returns [`Streamed`], one that responds with
//! a file [`Download`] or [`Multipart`]. A handler that takes a file gets an [`Upload`] after the request.

pub mod acme_challenge;
mod adapted;
pub mod admin;
mod caller;
pub mod client;
mod context;
mod deactivation;
mod directory;
pub mod doctor;
mod error;
mod event_stream;
pub mod federation;
mod files;
pub mod health;
mod key_claims;
mod keys;
mod media;
pub mod metrics;
mod refused_joins;
mod streamed;
mod text;
pub mod welcome;

pub use self::{
    adapted::{Adapted, AsSent, Quirk, Unread},
    caller::{Origin, Session, Unauthenticated},
    context::{Api, Context, RemoteLookupPermit},
    error::Error,
    event_stream::EventStream,
    files::{Download, Multipart, Upload},
    refused_joins::RefusedJoins,
    streamed::Streamed,
};
