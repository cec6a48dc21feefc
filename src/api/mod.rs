//! What the server can be asked: one function per endpoint, thin: check, call, answer.
//!
//! A handler is `async fn(Api, Caller, Request) -> Result<Response, Error>` with ruma's request and
//! response, and knows nothing of HTTP. Who calls is decided by the authentication that ruma's
//! metadata demands, and is a type:
//!
//! | ruma's scheme | caller |
//! |---|---|
//! | `AccessToken` | [`Session`] |
//! | `AccessTokenOptional` | `Option<Session>` |
//! | `NoAuthentication`, `NoAccessToken`, `AppserviceTokenOptional` | [`Unauthenticated`] |
//! | `ServerSignatures` | [`Origin`] |
//!
//! A handler whose answer grows with a room or an account returns [`Streamed`] in place of the
//! response; one that takes a file gets it as an [`Upload`] behind the request, and one that answers
//! with a file returns a [`Download`]. `http/` calls the handlers; nothing here calls `http/`.

mod adapted;
pub mod admin;
mod caller;
pub mod client;
mod context;
mod error;
pub mod federation;
mod files;
pub mod health;
mod streamed;

pub use self::{
    adapted::{Adapted, Quirk},
    caller::{Origin, Session, Unauthenticated},
    context::{Api, Context},
    error::Error,
    files::{Download, Multipart, Upload},
    streamed::Streamed,
};
