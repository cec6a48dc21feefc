//! Responses that are never whole in memory.

use std::{fmt, pin::Pin};

use serde::Serialize;
use smol::stream::{self, Stream};

use super::Error;

/// A JSON document in pieces, each made when the one before has been sent.
///
/// An error after the first piece can only break off the response, so a handler checks what can fail
/// before.
pub struct Streamed(Pin<Box<dyn Stream<Item = Result<Vec<u8>, Error>> + Send>>);

impl Streamed {
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

    pub fn into_inner(self) -> Pin<Box<dyn Stream<Item = Result<Vec<u8>, Error>> + Send>> {
        self.0
    }
}

impl fmt::Debug for Streamed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streamed").finish_non_exhaustive()
    }
}
