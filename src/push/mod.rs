//! Push notifications: telling the push gateways of the users' devices what they have not read
//! ([client-server API, "Push Notifications"]; push gateway API).
//!
//! - Nothing is written when an event is stored. What a pusher has to send follows from its cursor
//!   (`pusher_states`) and what is stored for the unread counts (`rooms/unread/notifications.rs`), so its queue
//!   is as durable as the events.
//! - [`PushSender`] gets the effects of every commit. One task looks up which pushers the changed rooms
//!   concern, and marks these rooms for them (`dispatch.rs`). A pusher with marks has a task (`pusher.rs`),
//!   which turns them into a queue (`pending.rs`) and sends one notification at a time, in order.
//! - What was read, redacted or left meanwhile is not sent. A notification is made when it is its turn
//!   (`notification.rs`), with the badge of then (`badge.rs`). When the user reads on another device, or leaves a
//!   room, the gateway gets the smaller badge alone.
//! - A gateway that does not answer is tried again with exponential backoff, which is stored. It delays no
//!   other gateway (`gateway.rs`).
//! - Cursors are saved some time after they moved, in one job for all, and when the server stops
//!   (`saving.rs`). After a power cut, what was sent last is sent again if it is still unread: gateways
//!   deduplicate notifications by event id.
//!
//! [client-server API, "Push Notifications"]: https://spec.matrix.org/v1.19/client-server-api/#push-notifications

mod badge;
mod check;
mod dispatch;
mod gateway;
mod listing;
mod notification;
mod pending;
mod pusher;
mod queues;
mod room_name;
mod saving;
mod sender;
#[cfg(test)]
mod tests;

pub use self::{
    check::KnownPusher,
    gateway::UrlError,
    listing::{ListedNotification, Listing, ListingRequest, list},
    sender::PushSender,
};
