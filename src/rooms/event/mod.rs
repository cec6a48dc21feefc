//! Events: stored, made here, received, imported, back-filled, redacted.

pub mod append;
pub mod backfill;
pub mod graph;
pub mod import;
pub mod insert;
pub mod outgoing;
pub mod outlier;
pub mod receive;
pub mod redaction;
pub mod send;
pub mod stored;

pub(in crate::rooms) use self::stored::row;
pub use self::stored::{StoredEvent, accepted, header, id, load, num_in, num_of};
