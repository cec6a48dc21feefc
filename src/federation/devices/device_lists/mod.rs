//! The device lists of users of other servers, stored while they share a room with a local user
//! (server-server API, "Device Management").
//!
//! - A list is fetched when it is first needed. From then on it follows the updates that the user's server
//!   sends. Each update names the one before it; if the list does not have that one, an update was lost: the
//!   list is stale, and fetched again. Concurrent requests share one fetch, and a list that was changed by an
//!   update meanwhile is fetched again.
//! - A list that is older than a week is used, and refreshed in the background. A list of a user who shared
//!   no room for a while is stale.
//! - A list whose fetch failed is fetched again when its server sends a request. Until then the old list is
//!   used.
//! - Users who share a room with the user are notified of a change whether the list is stored or not, and
//!   when a list that could not be fetched arrives.

mod fetch;
mod lookup;
mod pending_retries;
mod tracker;
mod updates;

pub use self::{tracker::DeviceLists, updates::Update};
