//! Answers that are never whole in memory.

use std::{fmt, pin::Pin};

use serde::Serialize;
use smol::stream::{self, Stream};

use super::Error;

/// A JSON document in pieces, in order, each made when the one before has been taken.
///
/// An error after the first piece can only break the answer off, so what can fail is checked
/// before.
pub struct Streamed(Pin<Box<dyn Stream<Item = Result<Vec<u8>, Error>> + Send>>);

impl Streamed {
    /// The pieces as they come.
    pub fn new(pieces: impl Stream<Item = Result<Vec<u8>, Error>> + Send + 'static) -> Self {
        Self(Box::pin(pieces))
    }

    /// A response that ruma's type cannot express.
    ///
    /// # Errors
    /// If `value` does not serialize.
    pub fn json(value: &impl Serialize) -> Result<Self, Error> {
        let json = serde_json::to_vec(value);
        let json = json.map_err(|_| Error::Internal("a response that does not serialize"))?;
        Ok(Self::new(stream::once(Ok(json))))
    }

    /// The pieces, to be sent.
    pub fn into_inner(self) -> Pin<Box<dyn Stream<Item = Result<Vec<u8>, Error>> + Send>> {
        self.0
    }
}

impl fmt::Debug for Streamed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streamed").finish_non_exhaustive()
    }
}
