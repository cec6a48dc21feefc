//! A room's timeline as clients read it: order, tokens, filters, history visibility.

pub mod client_event;
pub(in crate::rooms) mod erasure;
pub mod filter;
pub mod gaps;
pub mod history_visibility;
pub mod messages;
pub mod pagination_token;
pub mod rows;
pub mod server_history_visibility;
pub mod timestamp_to_event;

pub use self::{
    gaps::{gap, gap_of},
    rows::{backwards, forwards, place_at},
};
