//! Other servers: the server-server API, as a client of it and behind its endpoints.
//!
//! - [`discovery`] resolves server names, [`transport`] sends requests, [`keys`] has the signing keys.
//! - [`inbound`] receives PDUs and EDUs, [`outbound`] sends them.
//! - [`membership`] joins and leaves rooms over federation, and lets users of other servers do so.
//! - [`probe`] is for checks of the set-up: it looks at servers without caches and without trust.
//! - [`devices`], [`media`] and [`queries`] fetch what other servers have for clients.
//!
//! Layers below do not call this module.

mod devices;
mod discovery;
mod error;
mod event_file;
mod event_graph;
mod event_response;
pub mod inbound;
mod keyed_locks;
pub mod keys;
mod media;
mod membership;
mod outbound;
mod policy;
pub mod probe;
mod queries;
mod service;
mod transport;

pub use self::{
    devices::{
        device_lists::{DeviceLists, Update as DeviceUpdate},
        user_keys::UserKeys,
    },
    error::Error,
    event_graph::EventMemoryError,
    media::{Error as MediaError, RemoteMedia, previews::Previews},
    membership::{
        AcceptedMemberEvent, Error as MembershipError, MembershipClient, MembershipHandler,
        ReceivedInvite, invite_v1,
    },
    outbound::{Delivery, Destination, EphemeralEdu, backoff},
    policy::{JobSigner, PolicyServers, SendError},
    queries::{profiles::Profiles, spaces::Spaces},
    service::Federation,
    transport::{
        client::{Client, ResponseMemory},
        connect::Limits,
        poster::{ChosenBy, Poster},
        tls::{Authorities, TlsError},
        web_url::{Scheme, WebUrl},
    },
};
