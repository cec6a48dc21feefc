//! `/sync`: what changed for a user since a position.
//!
//! - [`Notifier`] knows what changed since this start and wakes those who wait; the store's effects feed
//!   it. Nothing polls.
//! - [`answer`] makes one answer out of what the notifier names and the store has. A sync costs in
//!   proportion to what changed; one from before this start looks at each room of the user once.
//! - An answer ends at the position where the notifier was when it was begun. What commits later is the
//!   next one's, even where later slices of a long answer can see it already.
//! - All that has to be remembered for a client stands in its token. [`LazyLoadedMembers`] can be lost:
//!   it saves bytes.

pub mod answer;
pub mod device_lists;
mod ephemeral;
pub mod fields;
pub mod frame;
mod invited;
mod joined;
mod lazy_members;
mod notifier;
pub mod request;
mod sharing;
mod shown;
mod state;
mod summary;
#[cfg(test)]
mod tests;
mod timeline;
mod token;

pub use self::{
    lazy_members::LazyLoadedMembers,
    notifier::{Notifier, StreamPosition},
    request::{Request, StateAfter},
    token::SyncToken,
};
