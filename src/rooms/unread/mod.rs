//! Unread counts, read receipts, and the push rules that decide which events notify.

pub mod counts;
pub mod notifications;
pub mod notify;
pub mod receipts;
pub(in crate::rooms) mod redacted;

pub(in crate::rooms) use self::counts::notified;
pub use self::counts::{NO_THREAD, Unread, count};
