//! `/sync`: what changed for a user since a position.
//!
//! - [`Notifier`] indexes what changed since the server started, and wakes the syncs that wait for it.
//! - [`SyncHandler`] is the loop of a request: look, respond, or wait. A response covers a range of
//!   positions that ends where the notifier was when the look began; later changes belong to the next.
//! - [`rooms`] finds the rooms that may have changed, and `room_update` builds each of them from
//!   `timeline`, `state`, `summary`, `ephemeral` and `account_data`. A sync costs in proportion to what
//!   changed; one with a token from before this start looks at each room of the user once.
//! - [`sliding`] is simplified sliding sync, which tells clients of the same changes in another way.
//! - The token holds all that must be remembered of a client. [`LazyLoadedMembers`] can be lost.

mod account_data;
mod changes;
pub mod device_lists;
mod ephemeral;
mod event_format;
mod handler;
mod lazy_members;
mod membership_history;
mod notifier;
mod presence;
mod presence_announcer;
mod request;
mod response;
mod room_update;
mod rooms;
mod shared_rooms;
pub mod sliding;
mod state;
mod stripped_state;
pub mod summary;
#[cfg(test)]
mod tests;
mod timeline;
mod token;

pub use self::{
    handler::SyncHandler,
    lazy_members::LazyLoadedMembers,
    notifier::{Notifier, StreamPosition},
    request::{Request, StateAfter},
    shared_rooms::DeviceListQuery,
    token::SyncToken,
};
