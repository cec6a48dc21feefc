//! Why a text is no event.

use super::depth::MAX_DEPTH;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    #[error("{what} has {bytes} bytes, the limit is {limit}")]
    TooLarge {
        /// The name of the field, or "the event".
        what: &'static str,
        bytes: usize,
        limit: usize,
    },
    #[error("nested more than {MAX_DEPTH} levels deep")]
    TooDeep,
    /// Not JSON, or with floats or integers beyond ±(2^53 − 1) where the room version forbids them.
    #[error("not canonical JSON: {0}")]
    NotCanonical(String),
    /// A field is missing, or has the wrong type or value.
    #[error("not an event of this room version: {0}")]
    Malformed(String),
}

pub(super) fn not_canonical(error: impl ToString) -> FormatError {
    FormatError::NotCanonical(error.to_string())
}
