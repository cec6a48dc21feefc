//! Uploads and downloads, which are never whole in memory.

use std::{fmt, pin::Pin};

use hyper::body::Bytes;
use ruma::http_headers::ContentDisposition;
use smol::stream::{Stream, StreamExt};

use super::Error;
use crate::media::FileReader;

/// The body of a request that is a file. The client can send only as fast as it is read.
pub struct Upload {
    length: Option<u64>,
    pieces: Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send>>,
}

impl Upload {
    /// `length` is the total number of bytes, if known.
    pub fn new(
        length: Option<u64>,
        pieces: impl Stream<Item = Result<Bytes, Error>> + Send + 'static,
    ) -> Self {
        Self {
            length,
            pieces: Box::pin(pieces),
        }
    }

    /// The `Content-Length` in bytes, if the client sent it.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// The next piece; `None` at the end. Fails if the client is too slow or disconnects.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        self.pieces.next().await.transpose()
    }
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload")
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

/// A response that is a file.
#[derive(Clone, Debug)]
pub struct Download {
    pub file: FileReader,
    pub content_type: String,
    pub disposition: ContentDisposition,
    /// The entity tag, which is that of the content.
    pub tag: String,
}

/// A [`Download`] for another server, sent as `multipart/mixed` (server-server API, "Content
/// Repository").
#[derive(Clone, Debug)]
pub struct Multipart(pub Download);
