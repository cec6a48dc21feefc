//! What a user has not read: counts, receipts, what notifies.

pub mod counts;
pub mod notify;
pub mod receipts;

pub(in crate::rooms) use self::counts::notified;
pub use self::counts::{NO_THREAD, Unread, count};
