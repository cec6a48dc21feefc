//! A room's timeline as clients read it: order, tokens, filters, history visibility.

pub mod client_event;
pub mod filter;
pub mod history_visibility;
pub mod messages;
pub mod pagination_token;
pub mod rows;
pub mod server_history_visibility;
pub mod timestamp_to_event;

pub use self::rows::{backwards, forwards, gap, gap_of, place_at};
