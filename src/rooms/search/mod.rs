//! Full-text search in the messages, names and topics of rooms (client-server API, "Server Side Search").
//!
//! An inverted index: `search_postings` has, for each room, block of places and word, at which of these
//! places the word stands ([`postings`]). The rows of a room's newest block are neighbours, so indexing
//! some hundred messages together writes a few pages. Therefore messages are not indexed when they are
//! sent: [`Indexer`] does it in batches, and a search reads what came since ([`candidates`]).
//!
//! The index may name events that do not have the word any more, because they were redacted. A search
//! reads each event that it returns.

pub mod candidates;
pub(in crate::rooms) mod index;
mod indexer;
mod postings;
pub mod words;

pub use indexer::Indexer;
