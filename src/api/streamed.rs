//! Responses that are never whole in memory.

use std::{fmt, pin::Pin};

use ruma::{
    api::{OutgoingBody, OutgoingResponse},
    serde::JsonObject,
};
use serde::Serialize;
use smol::stream::{self, Stream, StreamExt};

use super::Error;
use crate::store::{Pieces, Store};

/// A JSON document in pieces, each made when the one before has been sent.
///
/// An error after the first piece can only break off the response, so a handler checks what can fail
/// before.
pub struct Streamed(Pin<Box<dyn Stream<Item = Result<Vec<u8>, Error>> + Send>>);

impl Streamed {
    pub fn new(pieces: impl Stream<Item = Result<Vec<u8>, Error>> + Send + 'static) -> Self {
        Self(Box::pin(pieces))
    }

    /// # Errors
    /// If the first piece cannot be read, for one because the pool is full.
    pub async fn read<P: Pieces>(store: &Store, pieces: P) -> Result<Self, Error>
    where
        Error: From<P::Error>,
    {
        let pieces = store.scan_pieces(pieces).await?;
        Ok(Self::new(pieces.map(|piece| Ok(piece?))))
    }

    /// A response that ruma's type cannot express.
    ///
    /// # Errors
    /// If `value` does not serialize.
    pub fn json(value: &impl Serialize) -> Result<Self, Error> {
        let json = serde_json::to_vec(value);
        let json = json.map_err(|_| UNSERIALIZABLE)?;
        Ok(Self::new(stream::once(Ok(json))))
    }

    /// ruma's response, with what `edit` changes in its JSON, such as fields that clients expect where ruma
    /// leaves out the default. Fields without a value, which ruma writes as `null`, are left out.
    ///
    /// # Errors
    /// If `response` does not serialize.
    pub fn edited(
        response: impl OutgoingResponse,
        edit: impl FnOnce(&mut JsonObject),
    ) -> Result<Self, Error> {
        let object = serde_json::from_slice(&to_json(response)?);
        let mut object = object.map_err(|_| UNSERIALIZABLE)?;
        edit(&mut object);
        remove_nulls(&mut object);
        Self::json(&object)
    }

    /// ruma's response. `held` is dropped when it has been sent, for one the memory that it counts as.
    ///
    /// # Errors
    /// If `response` does not serialize.
    pub fn holding(
        response: impl OutgoingResponse,
        held: impl Send + 'static,
    ) -> Result<Self, Error> {
        let start = (Some(to_json(response)?), held);
        Ok(Self::new(stream::unfold(start, async |(json, held)| {
            Some((Ok(json?), (None, held)))
        })))
    }

    pub fn into_inner(self) -> Pin<Box<dyn Stream<Item = Result<Vec<u8>, Error>> + Send>> {
        self.0
    }
}

const UNSERIALIZABLE: Error = Error::Internal("a response that does not serialize");

fn to_json(response: impl OutgoingResponse) -> Result<Vec<u8>, Error> {
    let response = response.try_into_http_response_inner();
    let body = response.map_err(|_| UNSERIALIZABLE)?.into_body();
    body.try_into_buf().map_err(|_| UNSERIALIZABLE)
}

/// Clients read an absent value, and some fail on `null`.
pub(super) fn remove_nulls(object: &mut JsonObject) {
    object.retain(|_, value| !value.is_null());
}

impl fmt::Debug for Streamed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streamed").finish_non_exhaustive()
    }
}
